"""Pictures from the owner of a camera: a small one, served by the real server."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace

import httpx
import pytest
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from schemas.messages import Reason, Status, now
from services.gateway import owners
from services.gateway.access import Access
from services.gateway.app import create_app
from services.gateway.owners import Owners
from services.process.token import is_ours
from tests.gateway.parts import INTERNAL_KEY, failed, said
from tests.gateway.serving import serving

PART = b"--frame\r\nContent-Type: image/jpeg\r\n\r\n\xff\xd8 picture\r\n"


class Owner:
    """What an ingestor answers to gateways."""

    def __init__(self) -> None:
        self.views = 0
        self.app = FastAPI()
        self.app.get("/internal/streams/{id}/frame")(self.frame)
        self.app.get("/internal/streams/{id}/live")(self.live)
        self.has_picture = True

    def frame(self, id: str, request: Request) -> Response:
        self._check(id, request)
        if not self.has_picture:
            return JSONResponse({"reason": "STALLED"}, 404)
        facts = {"X-Captured-At": "2026-01-01T00:00:00.000001Z", "X-Frame-Id": f"{id}/7/3"}
        return Response(b"\xff\xd8 picture", media_type="image/jpeg", headers=facts)

    def live(self, id: str, request: Request) -> Response:
        self._check(id, request)
        return StreamingResponse(
            self._parts(), media_type="multipart/x-mixed-replace; boundary=frame"
        )

    def _check(self, id: str, request: Request) -> None:
        token = request.headers["authorization"].removeprefix("Bearer ")
        assert is_ours(INTERNAL_KEY, id, token)

    async def _parts(self) -> AsyncIterator[bytes]:
        self.views += 1
        try:
            while True:
                yield PART
                await asyncio.sleep(0.05)
        finally:
            self.views -= 1


@pytest.fixture
def owner():
    return Owner()


@pytest.fixture
def endpoint(owner: Owner):
    with serving(owner.app, timeout_graceful_shutdown=1) as address:
        yield f"http://{address}"


@pytest.fixture
async def running(client, parts, endpoint: str) -> str:
    """A stream that runs there."""
    body = {"name": "door", "rtspUrl": "rtsp://10.0.0.9/", "running": True}
    id: str = (await client.post("/streams", json=body)).json()["id"]
    parts.observed.note_status(0, said(id, Status.RUNNING, 1, endpoint=endpoint), now())
    return id


@pytest.fixture
def own_parts(parts):
    """With connections of the server's own loop."""
    return replace(parts, owners=Owners(INTERNAL_KEY))


@pytest.fixture
def gateway(own_parts):
    app = create_app(own_parts, Access(None, []))
    with serving(app, timeout_graceful_shutdown=1) as address:
        yield f"http://{address}"


async def wait_for(condition, within_s: float = 5.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


async def test_the_newest_frame_says_when_it_was_captured(client, running):
    answer = await client.get(f"/streams/{running}/frame")
    assert (answer.status_code, answer.content) == (200, b"\xff\xd8 picture")
    assert answer.headers["Content-Type"] == "image/jpeg"
    assert answer.headers["X-Captured-At"] == "2026-01-01T00:00:00.000001Z"
    assert answer.headers["X-Frame-Id"] == f"{running}/7/3"
    assert answer.headers["Cache-Control"] == "no-store"


async def test_where_there_is_no_picture_the_reason_is_told(client, parts, owner, running):
    owner.has_picture = False
    answer = await client.get(f"/streams/{running}/frame")
    assert answer.status_code == 404
    assert answer.json()["type"].endswith("/no-picture")
    assert "STALLED" in answer.json()["detail"]
    parts.observed.note_status(0, failed(running, 1, Reason.AUTH_FAILED), now())
    assert (await client.get(f"/streams/{running}/frame")).status_code == 404
    await client.post(f"/streams/{running}/stop")
    parts.observed.note_status(0, said(running, Status.STOPPED, 2), now())
    answer = await client.get(f"/streams/{running}/live")
    assert (answer.status_code, answer.json()["detail"]) == (404, "the stream is STOPPED")


async def test_an_owner_that_does_not_answer_is_away(client, parts, running):
    gone = said(running, Status.RUNNING, 1, endpoint="http://127.0.0.1:1")
    parts.observed.note_status(0, gone, now())
    for what in ("frame", "live"):
        answer = await client.get(f"/streams/{running}/{what}")
        assert answer.status_code == 503
        assert "Retry-After" in answer.headers


async def test_an_endless_picture_is_not_read_to_its_end(client, running, monkeypatch):
    monkeypatch.setattr(owners, "LARGEST_PICTURE", 4)
    assert (await client.get(f"/streams/{running}/frame")).status_code == 503


async def test_a_live_view_passes_on_what_comes_and_ends_with_its_viewer(owner, gateway, running):
    async with (
        httpx.AsyncClient() as browser,
        browser.stream("GET", f"{gateway}/streams/{running}/live") as answer,
    ):
        assert answer.headers["Content-Type"] == "multipart/x-mixed-replace; boundary=frame"
        seen = b""
        async for chunk in answer.aiter_bytes():
            seen += chunk
            if seen.count(PART) >= 3:
                break
        assert owner.views == 1
    await wait_for(lambda: owner.views == 0)


async def test_live_views_are_bounded(own_parts, owner, gateway, running, monkeypatch):
    monkeypatch.setattr(owners, "LIVE_VIEWS", 1)
    url = f"{gateway}/streams/{running}/live"
    async with httpx.AsyncClient() as browser:
        async with browser.stream("GET", url):
            refused = await browser.get(url)
            assert refused.status_code == 429
            assert "Retry-After" in refused.headers
        await wait_for(lambda: not own_parts.owners.views)
        async with browser.stream("GET", url) as answer:
            assert answer.status_code == 200


async def test_a_token_is_for_one_stream_and_a_short_time(endpoint):
    foreign = Owners("another key of sixteen or more")
    with pytest.raises(owners.OwnerAway):
        await foreign.picture(endpoint, "01KAPZ0000000000000000000A")
    await foreign.close()
