"""The replaced system's own session, unchanged: its routes, fields and events."""

import json
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import simplejpeg
from websockets.sync.client import ClientConnection, connect

from tests.stack import RunningStack, eventually


class Heard:
    """What a third-party WebSocket client hears, by event."""

    def __init__(self, socket: ClientConnection) -> None:
        self.by_event: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self._socket = socket
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def _listen(self) -> None:
        for text in self._socket:
            message = json.loads(text)
            self.by_event[message["event"]].append(message["data"])

    def of(self, event: str, stream: str) -> list[dict[str, Any]]:
        return [data for data in self.by_event[event] if data.get("streamId") == stream]

    def end(self) -> None:
        self._socket.close()
        self._thread.join(5)


@contextmanager
def listening(url: str) -> Iterator[Heard]:
    with connect(url) as socket:
        heard = Heard(socket)
        try:
            yield heard
        finally:
            heard.end()


def test_the_replaced_systems_session_works_unchanged(
    demo: RunningStack, gateway: httpx.Client
) -> None:
    with listening(demo["wsUrl"]) as subscriber:
        session(demo["cameras"][0]["url"], gateway, subscriber)


def session(camera: str, gateway: httpx.Client, subscriber: Heard) -> None:
    body = {"name": "Lobby", "rtspUrl": camera, "fps": 5, "detectionEnabled": True}
    created = gateway.post("/streams", json=body)
    assert created.status_code == 201, created.text
    stream = created.json()
    assert {name: stream[name] for name in body} == body
    assert (stream["status"], stream["lastHeartbeat"]) == ("STOPPED", None)
    at = f"/streams/{stream['id']}"

    assert gateway.post(f"{at}/start").json()["status"] == "STARTING"
    assert eventually(lambda: gateway.get(at).json()["status"] == "RUNNING", 20)

    def heard(event: str) -> list[dict[str, Any]]:
        return subscriber.of(event, stream["id"])

    assert eventually(lambda: bool(heard("detection")), 20)
    assert eventually(lambda: bool(heard("stream:heartbeat")), 20)
    assert [data["status"] for data in heard("stream:status")][-1] == "RUNNING"
    [detection, *_] = heard("detection")[0]["detections"]
    assert {"label", "confidence", "boundingBox"} <= detection.keys()

    def rows() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = gateway.get(f"/detections/stream/{stream['id']}").json()
        return [row for row in found if row["imagePath"]]

    assert eventually(lambda: bool(rows()), 10)
    row = rows()[-1]
    assert row["streamId"] == stream["id"]
    screenshot = gateway.get(row["imagePath"])
    assert screenshot.headers["content-type"] == "image/jpeg"
    assert simplejpeg.decode_jpeg_header(screenshot.content)[:2] == (480, 640)

    assert gateway.patch(at, json={"fps": 2}).json()["fps"] == 2
    assert eventually(lambda: 1.5 < (published_fps(gateway, at) or 0) < 2.5, 40)
    assert gateway.get("/streams/health").json()["status"] in {"healthy", "degraded"}

    assert gateway.post(f"{at}/stop").json()["status"] in {"STOPPING", "STOPPED"}
    assert eventually(lambda: gateway.get(at).json()["status"] == "STOPPED", 15)
    assert gateway.delete(at).status_code == 204
    assert gateway.get(at).status_code == 404
    assert rows(), "its detections stay"
    assert eventually(lambda: heard("stream:status")[-1]["status"] == "DELETED", 10)


def published_fps(gateway: httpx.Client, at: str) -> float | None:
    measured: float | None = (gateway.get(at).json()["measured"] or {}).get("fps")
    return measured
