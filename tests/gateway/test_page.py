"""The page's files, as they are served."""

import re
from collections.abc import Iterator

import httpx
import pytest
from fastapi import FastAPI
from websockets.sync.client import connect

from services.gateway.observed import Observed
from services.gateway.problems import answer_with_problems
from services.gateway.realtime.hub import Hub
from services.gateway.realtime.news import News
from services.gateway.realtime.replay import Replays
from services.gateway.routes.page import page
from services.gateway.routes.realtime import realtime
from tests.gateway.serving import serving


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    observed = Observed()
    observed.note_ready()
    app = FastAPI()
    answer_with_problems(app)
    app.include_router(realtime(Hub[News](), observed, Replays({}, "")))
    app.include_router(page())
    with serving(app) as address:
        yield address


@pytest.fixture(scope="module")
def client(address: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"http://{address}") as client:
        yield client


def test_the_page_and_the_websocket_are_both_at_the_root(
    client: httpx.Client, address: str
) -> None:
    assert "<title>Sightlog</title>" in client.get("/").text
    with connect(f"ws://{address}/") as socket:
        assert '"event":"snapshot"' in str(socket.recv(5))


def test_every_file_that_the_page_names_is_there_and_nothing_is_from_elsewhere(
    client: httpx.Client,
) -> None:
    named, seen = ["/"], set()
    while named:
        path = named.pop()
        response = client.get(path)
        assert response.status_code == 200, path
        seen.add(path)
        named += set(re.findall(r'"(/page/[^"]+)"', response.text)) - seen
        assert not re.findall(r"https?://(?!www\.w3\.org)", response.text), path
    assert len(seen) > 8


def test_the_browser_is_told_to_run_nothing_but_our_own_files(client: httpx.Client) -> None:
    response = client.get("/")
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy
    assert response.headers["x-content-type-options"] == "nosniff"
    assert "<script>" not in response.text
    assert "style=" not in response.text


def test_a_file_the_browser_has_is_not_sent_again(client: httpx.Client) -> None:
    etag = client.get("/page/main.js").headers["etag"]
    again = client.get("/page/main.js", headers={"If-None-Match": etag})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize(
    "path", ["x.js", "../settings.py", "%2e%2e/settings.py", "..%2fsettings.py", "", "main.js/"]
)
def test_nothing_else_is_served(client: httpx.Client, path: str) -> None:
    response = client.get(f"/page/{path}")
    assert response.status_code == 404
    assert "settings" not in response.json()["detail"]
