"""`POST /streams/probe`: whoever is up looks, and is told no password in clear."""

import asyncio
import base64
import contextlib
import json
import time
from dataclasses import replace

import httpx
import pytest
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from nacl.public import SealedBox

from schemas.messages import now
from services.gateway import probes
from services.gateway.access import Access
from services.gateway.app import create_app
from services.gateway.instances import Instances
from services.gateway.probes import Probes
from services.process.token import is_ours
from tests.gateway.messages import an_instance
from tests.gateway.parts import INTERNAL_KEY
from tests.gateway.serving import serving

SEEN = {
    "source": {"codec": "h264", "width": 1920, "height": 1080, "fps": 25.0},
    "jpeg": base64.b64encode(b"\xff\xd8 picture").decode(),
}
NOT_SEEN = {"reason": "AUTH_FAILED", "message": "why", "hint": "what to do"}
PASSWORD = "p@:/#?%ü$(x)"
DOOR = {"rtspUrl": "rtsp://10.0.0.9/door"}


class Ingestor:
    """What an ingestor answers to gateways."""

    def __init__(self, answer=SEEN, late_s=0.0):
        self.answer = answer
        self.late_s = late_s
        self.asked = []
        self.callers = []
        self.under_way = 0
        self.app = FastAPI()
        self.app.post("/internal/probes/{id}")(self.look)

    async def look(self, id: str, request: Request) -> Response:
        assert is_ours(INTERNAL_KEY, id, request.headers["authorization"].removeprefix("Bearer "))
        self.asked.append((id, await request.json()))
        self.callers.append(request.client)
        if isinstance(self.answer, int):
            return JSONResponse({}, self.answer)
        if self.answer == "no head":
            await asyncio.sleep(60)
        await asyncio.sleep(self.late_s)
        return StreamingResponse(self._body(), media_type="application/json")

    async def _body(self):
        self.under_way += 1
        try:
            while self.answer == "slow":
                await asyncio.sleep(0.02)
                yield b""
            yield json.dumps(self.answer).encode()
        finally:
            self.under_way -= 1


@pytest.fixture
def start():
    """Serves an ingestor; its address."""
    with contextlib.ExitStack() as serving_all:

        def start_one(ingestor):
            app = serving(ingestor.app, timeout_graceful_shutdown=1)
            return f"http://{serving_all.enter_context(app)}"

        yield start_one


@pytest.fixture
def own_parts(parts):
    """With nobody up, and connections of the loop that asks."""
    observed = parts.observed
    observed.instances = Instances()
    return replace(parts, probes=Probes(INTERNAL_KEY))


@pytest.fixture
async def client(own_parts):
    transport = httpx.ASGITransport(create_app(own_parts, Access(None, [])))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        yield client
    await own_parts.probes.close()


@pytest.fixture
def up(own_parts, start):
    """Brings an ingestor up, or what is left of one; the last is asked first."""

    def bring_up(name, ingestor=None, endpoint=None):
        endpoint = endpoint or start(ingestor)
        own_parts.observed.instances.note(an_instance(name, endpoint=endpoint), now())

    return bring_up


async def test_what_is_there_is_shown(client, up):
    up("one", Ingestor())
    answer = await client.post("/streams/probe", json=DOOR)
    assert answer.status_code == 200
    told = answer.json()
    assert told.pop("tookMs") >= 0
    assert told == {
        "ok": True,
        "source": SEEN["source"],
        "thumbnail": f"data:image/jpeg;base64,{SEEN['jpeg']}",
        "instance": "one",
        **dict.fromkeys(NOT_SEEN),
    }


async def test_why_nothing_is_seen_is_told_in_the_words_of_statuses(client, up):
    up("one", Ingestor(NOT_SEEN))
    answer = await client.post("/streams/probe", json=DOOR)
    assert answer.status_code == 200
    told = answer.json()
    assert not told["ok"]
    assert (told["source"], told["thumbnail"]) == (None, None)
    assert {name: told[name] for name in NOT_SEEN} == NOT_SEEN


@pytest.mark.parametrize(
    "body",
    [
        DOOR | {"username": "viewer", "password": PASSWORD},
        {"rtspUrl": "rtsp://viewer:p%40%3A%2F%23%3F%25%C3%BC$(x)@10.0.0.9/door"},
    ],
)
async def test_a_password_leaves_sealed_for_this_probe_at_this_place(
    client, up, sealing_key, body, capfd
):
    ingestor = Ingestor(NOT_SEEN)
    up("one", ingestor)
    answer = await client.post("/streams/probe", json=body)
    ((id, asked),) = ingestor.asked
    box = base64.b64decode(asked.pop("sealedCredentials"))
    assert json.loads(SealedBox(sealing_key).decrypt(box)) == {
        **{"streamId": id, "scheme": "rtsp", "host": "10.0.0.9", "port": 554},
        **{"username": "viewer", "password": PASSWORD},
    }
    assert 8 < asked.pop("withinS") < 10
    assert asked == {"url": "rtsp://10.0.0.9/door", "verifyTls": True}
    assert "p@" not in answer.text + "".join(capfd.readouterr())


async def test_without_credentials_none_are_sent_whatever_is_stored_for_the_place(client, up):
    stored = DOOR | {"name": "door", "username": "viewer", "password": PASSWORD}
    assert (await client.post("/streams", json=stored)).status_code == 201
    ingestor = Ingestor()
    up("one", ingestor)
    await client.post("/streams/probe", json=DOOR | {"verifyTls": False})
    ((_, asked),) = ingestor.asked
    assert (asked["sealedCredentials"], asked["verifyTls"]) == (None, False)


async def test_without_an_ingestor_the_answer_is_to_try_again(client, up):
    for _ in range(2):
        answer = await client.post("/streams/probe", json=DOOR)
        assert answer.status_code == 503
        assert answer.headers["Retry-After"]
        up("dead", endpoint="http://127.0.0.1:1")


@pytest.mark.parametrize("answer", ["no head", 401, 429, 500, "no answer", ["x"]])
async def test_where_one_ingestor_does_not_answer_another_is_asked(client, up, answer, monkeypatch):
    monkeypatch.setattr(probes, "HEAD_S", 0.3)
    ill = Ingestor(answer)
    up("well", Ingestor())
    up("ill", ill)
    told = (await client.post("/streams/probe", json=DOOR)).json()
    assert (told["ok"], told["instance"], len(ill.asked)) == (True, "well", 1)


async def test_the_last_ingestor_has_the_time_that_is_left(client, up, monkeypatch):
    """With nobody to turn to, there is no use in giving up on one that is only slow."""
    monkeypatch.setattr(probes, "HEAD_S", 0.3)
    up("only", Ingestor(late_s=0.6))
    told = (await client.post("/streams/probe", json=DOOR)).json()
    assert (told["ok"], told["instance"]) == (True, "only")


async def test_each_probe_has_a_connection_of_its_own(client, up):
    """One that was kept may be closing just when the next probe is sent."""
    ingestor = Ingestor()
    up("one", ingestor)
    for _ in range(2):
        assert (await client.post("/streams/probe", json=DOOR)).json()["ok"]
    assert len(set(ingestor.callers)) == 2


async def test_a_dead_ingestor_is_asked_once_where_another_took_its_place(client, up, start):
    ingestor = Ingestor()
    endpoint = start(ingestor)
    for name in ("dead", "alive"):
        up(name, endpoint=endpoint)
    told = (await client.post("/streams/probe", json=DOOR)).json()
    assert (told["instance"], len(ingestor.asked)) == ("alive", 1)


async def test_where_all_have_enough_to_do_the_answer_is_to_try_later(client, up):
    up("one", Ingestor(429))
    up("dead", endpoint="http://127.0.0.1:1")
    answer = await client.post("/streams/probe", json=DOOR)
    assert answer.status_code == 429
    assert answer.headers["Retry-After"]


async def test_no_probe_takes_longer_than_its_time(client, up, monkeypatch):
    monkeypatch.setattr(probes, "LONGEST_S", 2.0)
    slow = Ingestor("slow")
    for name in ("one", "two"):
        up(name, slow)
    began_s = time.monotonic()
    answer = await client.post("/streams/probe", json=DOOR)
    assert (answer.status_code, time.monotonic() - began_s < 4 * 2) == (503, True)
    await wait_for(lambda: slow.under_way == 0)


async def test_a_client_that_leaves_ends_its_probe(own_parts, up):
    slow = Ingestor("slow")
    up("one", slow)
    with serving(create_app(own_parts, Access(None, []))) as address:
        async with httpx.AsyncClient() as client:
            url = f"http://{address}/streams/probe"
            asking = asyncio.create_task(client.post(url, json=DOOR))
            await wait_for(lambda: slow.under_way == 1)
            asking.cancel()
            await wait_for(lambda: slow.under_way == 0)


async def test_the_end_of_the_gateway_ends_its_probes(own_parts, client, up):
    slow = Ingestor("slow")
    up("one", slow)
    asking = asyncio.create_task(client.post("/streams/probe", json=DOOR))
    await wait_for(lambda: slow.under_way == 1)
    own_parts.probes.end()
    assert (await asking).status_code == 503
    await wait_for(lambda: slow.under_way == 0)


async def wait_for(condition, within_s: float = 5.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)
