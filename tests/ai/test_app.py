import json
import re
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import psutil
import pytest
from typing_extensions import override

from services.ai.app import Limits, create_app
from services.ai.detect import Detector, Sighting
from tests.ai.conftest import Service, StartService, until
from tests.ai.walk import Frame, iou

JPEG = {"Content-Type": "image/jpeg"}
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def slug(response: httpx.Response) -> str:
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert body["status"] == response.status_code
    assert set(body) >= {"type", "title", "status", "detail", "instance"}
    return str(body["type"]).rpartition("/")[2]


def test_a_picture_is_answered_as_the_interface_says(service: Service, frames: list[Frame]) -> None:
    frame = frames[0]
    answer = service.client.post("/detect", content=frame.jpeg, headers=JPEG).json()
    assert set(answer) == {"detections", "model", "frame"}
    assert answer["frame"] == {"width": 640, "height": 480}
    assert answer["model"]["name"] == "yolox-nano"
    assert re.fullmatch("sha256:[0-9a-f]{64}", answer["model"]["digest"])
    best = answer["detections"][0]
    assert set(best) == {"label", "classId", "confidence", "boundingBox"}
    assert (best["label"], best["classId"]) == ("person", 0)
    box = best["boundingBox"]
    corners = box["x"], box["y"], box["x"] + box["width"], box["y"] + box["height"]
    assert max(iou(corners, known.corners) for known in frame.known) > 0.7


def test_a_form_is_answered_as_a_raw_body_is(service: Service, jpeg: bytes) -> None:
    raw = service.client.post("/detect", content=jpeg, headers=JPEG)
    form = service.client.post("/detect", files={"image": ("a.bin", jpeg)})
    assert form.json() == raw.json()


def test_the_threshold_and_the_model_can_be_asked_for(service: Service, jpeg: bytes) -> None:
    asked = {"model": "yolox-nano", "minConfidence": "0.8"}
    answer = service.client.post("/detect", params=asked, content=jpeg, headers=JPEG).json()
    assert 0 < len(answer["detections"]) < 6
    assert all(found["confidence"] >= 0.8 for found in answer["detections"])


@pytest.mark.parametrize(
    "query",
    ["minConfidence=nan", "minConfidence=-1", "minConfidence=1.1", "minConfidence=x", "a=1"],
)
def test_a_query_that_is_not_understood_is_refused_by_name(service, jpeg: bytes, query) -> None:
    answer = service.client.post(f"/detect?{query}", content=jpeg, headers=JPEG)
    assert (answer.status_code, slug(answer)) == (422, "invalid-parameters")
    assert answer.json()["errors"][0]["pointer"] == f"/query/{query.partition('=')[0]}"


@pytest.mark.parametrize(
    ("content", "headers", "status", "kind"),
    [
        (b"GIF89a", JPEG, 422, "unusable-picture"),
        (b"", JPEG, 422, "unusable-picture"),
        (b"GIF89a", {"Content-Type": "image/gif"}, 415, "unsupported-type"),
        (b"{}", {}, 415, "unsupported-type"),
        (b"--", {"Content-Type": "multipart/form-data; boundary=x"}, 400, "malformed-body"),
    ],
)
def test_a_body_without_a_picture_is_refused_with_its_kind(
    service, content, headers, status, kind
) -> None:
    answer = service.client.post("/detect", content=content, headers=headers)
    assert (answer.status_code, slug(answer)) == (status, kind)


def test_what_is_not_served_is_a_problem_too(service: Service, jpeg: bytes) -> None:
    get = service.client.get
    unknown = service.client.post("/detect?model=other", content=jpeg, headers=JPEG)
    assert (unknown.status_code, slug(unknown)) == (404, "unknown-model")
    assert slug(get("/v2/models/other")) == "unknown-model"
    assert slug(get("/nothing")) == "not-found"
    assert (get("/detect").status_code, slug(get("/detect"))) == (405, "method-not-allowed")


def test_a_huge_body_costs_no_memory_and_is_answered(service: Service) -> None:
    process = psutil.Process(service.process.pid)
    before = process.memory_info().rss
    endless = (bytes(2**20) for _ in range(100))
    answer = service.client.post("/detect", content=endless, headers=JPEG)
    assert (answer.status_code, slug(answer)) == (413, "body-too-large")
    assert process.memory_info().rss - before < 40 * 2**20


def test_a_form_of_very_many_parts_is_refused_at_once(service: Service) -> None:
    part = b'--x\r\nContent-Disposition: form-data; name="image"\r\n\r\n\r\n'
    form = {"Content-Type": "multipart/form-data; boundary=x"}
    answer = service.client.post("/detect", content=part * 100_000, headers=form)
    assert (answer.status_code, slug(answer)) == (400, "malformed-body")
    assert answer.elapsed.total_seconds() < 8


def test_the_protocol_s_facts_are_there(service: Service) -> None:
    def get(path: str) -> dict[str, Any]:
        return dict(service.client.get(path).json())

    assert get("/v2")["name"] == "sightlog-ai"
    assert get("/v2/health/live") == {"live": True}
    assert get("/v2/health/ready") == {"ready": True}
    assert get("/v2/models/yolox-nano/ready") == {"name": "yolox-nano", "ready": True}
    model = get("/v2/models/yolox-nano")
    assert model["platform"] == "onnxruntime_onnx"
    assert model["inputs"] == [{"name": "images", "datatype": "FP32", "shape": [-1, 3, -1, -1]}]


def test_pictures_are_counted_by_what_became_of_them(service: Service, jpeg: bytes) -> None:
    name = 'sightlog_ai_pictures_total{outcome="rejected"}'
    before = service.metric(name)
    service.client.post("/detect", content=b"x", headers=JPEG)
    assert service.metric(name) == before + 1


def test_a_refused_picture_is_logged_with_its_trace(service: Service) -> None:
    service.client.post("/detect", content=b"x", headers=JPEG | {"traceparent": TRACE})

    def lines() -> list[dict[str, Any]]:
        return [json.loads(line) for line in service.log.read_text().splitlines()]

    until(lambda: any(line.get("traceparent") == TRACE for line in lines()))
    assert all(line["service"] == "ai" for line in lines())


def test_many_at_once_are_all_answered_alike(service: Service, jpeg: bytes) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(
            pool.map(
                lambda _: service.client.post("/detect", content=jpeg, headers=JPEG), range(40)
            )
        )
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.text for answer in answers}) == 1


def test_a_full_queue_says_when_to_come_back(start_service: StartService, jpeg: bytes) -> None:
    service = start_service(AI_THREADS="1", AI_QUEUE_SIZE="0")
    with half_sent(service, jpeg) as first:
        until(lambda: service.metric("sightlog_ai_queued_pictures") == 1)
        answer = service.client.post("/detect", content=jpeg, headers=JPEG)
        assert (answer.status_code, slug(answer)) == (429, "queue-full")
        assert int(answer.headers["retry-after"]) >= 1
        first.sendall(jpeg[1000:])
        assert first.recv(100).startswith(b"HTTP/1.1 200")
    assert service.client.post("/detect", content=jpeg, headers=JPEG).status_code == 200


def test_one_who_sends_too_slowly_gives_up_the_place(start_service, jpeg: bytes) -> None:
    service = start_service(AI_THREADS="1", AI_QUEUE_SIZE="0", AI_BODY_SECONDS="0.2")
    with half_sent(service, jpeg) as first:
        assert first.recv(100).startswith(b"HTTP/1.1 408")
    until(lambda: service.metric("sightlog_ai_queued_pictures") == 0)


def test_one_who_leaves_gives_up_the_place_too(start_service, jpeg: bytes) -> None:
    service = start_service(AI_THREADS="1", AI_QUEUE_SIZE="0")
    half_sent(service, jpeg).close()
    until(lambda: service.metric('sightlog_ai_pictures_total{outcome="gone"}') == 1)
    assert service.client.post("/detect", content=jpeg, headers=JPEG).status_code == 200
    assert "Traceback" not in service.log.read_text()


def half_sent(service: Service, jpeg: bytes) -> socket.socket:
    """A request whose last bytes are still to come."""
    connection = socket.create_connection(("127.0.0.1", service.port), timeout=10)
    head = f"POST /detect HTTP/1.1\r\nHost: x\r\nContent-Length: {len(jpeg)}\r\n"
    connection.sendall(f"{head}Content-Type: image/jpeg\r\n\r\n".encode() + jpeg[:1000])
    return connection


async def test_a_fault_of_ours_is_a_500_that_says_nothing(detector: Detector, jpeg: bytes) -> None:
    class Broken(Detector):
        @override
        def detect(self, jpeg: bytes, min_confidence: float | None = None) -> Sighting:
            raise RuntimeError("a secret path")

    broken = Broken(detector.manifest, detector.model, 2**25)
    app = create_app(broken, Limits(workers=1, queue_size=1, body_bytes=10**6, body_seconds=1))
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://ai") as client:
        answer = await client.post("/detect", content=jpeg, headers=JPEG)
    assert (answer.status_code, slug(answer)) == (500, "internal-error")
    assert "secret" not in answer.text
