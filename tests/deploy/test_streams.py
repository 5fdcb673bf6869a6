"""Streams made through REST at the start: each once, however often the stack is started."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from typing_extensions import override

from deploy.local.streams import StreamsRefused, create_streams, next_page

KEY = "a-key-of-this-test"


class FakeGateway(ThreadingHTTPServer):
    """Keeps streams, lists them two a page; answers 503 to the first `away` requests."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.streams: list[dict[str, Any]] = []
        self.away = 0
        self.refuses = False

    def described(self, *cameras: dict[str, Any]) -> dict[str, Any]:
        url = f"http://127.0.0.1:{self.server_port}"
        return {"gatewayUrl": url, "apiKey": KEY, "cameras": list(cameras)}


class Answer(BaseHTTPRequestHandler):
    server: FakeGateway

    def do_GET(self):
        start = int(self.path.partition("cursor=")[2] or 0)
        page = self.server.streams[start : start + 2]
        more = start + 2 < len(self.server.streams)
        link = f'</streams?cursor={start + 2}>; rel="next"' if more else ""
        self.answer(200, page, link)

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.streams.append(body)
        self.answer(422 if self.server.refuses else 201, body)

    def answer(self, status, body, link=""):
        if self.headers["Authorization"] != f"Bearer {KEY}":
            status = 401
        if self.server.away:
            self.server.away -= 1
            status = 503
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        if link:
            self.send_header("Link", link)
        self.end_headers()
        self.wfile.write(content)

    @override
    def log_message(self, *_):
        """Nothing to say."""


@pytest.fixture
def gateway():
    with FakeGateway() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def camera(name, username=None):
    return {"name": name, "url": f"rtsp://127.0.0.1:8554/{name}", "username": username}


def test_each_camera_and_the_bundled_file_get_a_running_stream(gateway):
    create_streams(gateway.described(camera("cam1")), fps=2)
    assert gateway.streams == [
        {"name": "cam1", "rtspUrl": "rtsp://127.0.0.1:8554/cam1", "running": True, "fps": 2},
        {"name": "bundled clip", "rtspUrl": "file:vtest_12s.mp4?loop=1", "running": True, "fps": 2},
    ]


def test_streams_that_are_there_stay_as_they_are_also_on_later_pages(gateway):
    stack = gateway.described(*map(camera, ("cam1", "cam2", "cam3")))
    create_streams(stack, fps=None)
    before = list(gateway.streams)
    assert create_streams(stack, fps=9) == []
    assert gateway.streams == before


def test_a_camera_whose_password_nobody_knows_gets_no_stream(gateway):
    assert create_streams(gateway.described(camera("cam1", username="u")), None) == ["bundled clip"]


def test_a_gateway_that_cannot_serve_yet_is_asked_again(gateway):
    gateway.away = 1
    assert create_streams(gateway.described(), None) == ["bundled clip"]


def test_a_refusal_is_passed_on(gateway):
    gateway.refuses = True
    with pytest.raises(StreamsRefused, match="POST /streams: 422"):
        create_streams(gateway.described(), None)


def test_only_the_next_page_is_followed():
    links = '<http://h/streams?cursor=a>; rel="prev", <http://h/streams?cursor=b>; rel="next"'
    assert next_page(links) == "/streams?cursor=b"
    assert next_page("") is None
