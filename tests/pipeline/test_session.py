"""The replaced system's own session, unchanged: its routes, fields and events."""

import json
import threading
from collections import defaultdict
from typing import Any

import httpx
import simplejpeg
from typing_extensions import override
from websockets.sync.client import connect

from tests.stack import RunningStack, eventually


class Subscriber(threading.Thread):
    """A third-party WebSocket client that keeps what it hears, by event."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self.heard: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self._socket = connect(url)
        self.start()

    @override
    def run(self) -> None:
        for text in self._socket:
            message = json.loads(text)
            self.heard[message["event"]].append(message["data"])

    def of(self, event: str, stream: str) -> list[dict[str, Any]]:
        return [data for data in self.heard[event] if data.get("streamId") == stream]

    def close(self) -> None:
        self._socket.close()
        self.join(5)


def test_the_replaced_systems_session_works_unchanged(
    demo: RunningStack, gateway: httpx.Client
) -> None:
    camera = demo["cameras"][0]["url"]
    subscriber = Subscriber(demo["wsUrl"])

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
        return found

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
    subscriber.close()


def published_fps(gateway: httpx.Client, at: str) -> float | None:
    measured: float | None = (gateway.get(at).json()["measured"] or {}).get("fps")
    return measured
