"""A gateway for the page's tests: the real page, WebSocket, hub and access; REST by hand.

Each picture tells its number by its shade, and the box of its record by its place: so a test can
see whether a picture was drawn with the record of its own frame.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy
import simplejpeg
from fastapi import APIRouter, Depends, FastAPI, Response

from schemas.messages import Box, Detection, DetectionRecord, Status, detection_id, now
from services.gateway.access import Access
from services.gateway.observed import Observed
from services.gateway.problems import NO_PICTURE, Problem, answer_with_problems
from services.gateway.realtime.hub import Hub
from services.gateway.realtime.news import News, RecordNews, StatusData
from services.gateway.realtime.replay import Replays
from services.gateway.routes.page import page
from services.gateway.routes.realtime import realtime
from tests.gateway.messages import a_record
from tests.gateway.serving import serving

WIDTH, HEIGHT = 640, 360
SHADES = 8
ANSWER_AFTER_S = 0.08  # of the model
CURSOR = "w1"


def shade(seq: int) -> int:
    return 40 + (seq % SHADES) * 20


def box_left(seq: int) -> float:
    return 0.1 + (seq % SHADES) * 0.06


def a_jpeg(seq: int) -> bytes:
    pixels = numpy.full((HEIGHT, WIDTH, 3), shade(seq), numpy.uint8)
    jpeg: bytes = simplejpeg.encode_jpeg(pixels, quality=90)
    return jpeg


class Site:
    def __init__(self, names: list[str], access: Access) -> None:
        self.streams = {an_id(number): a_stream(number, name) for number, name in enumerate(names)}
        self.detects = True
        self.hub = Hub[News]()
        self.busiest = 0  # most pictures asked for at the same time
        self.asked: dict[str, int] = dict.fromkeys(self.streams, 0)
        self._asking = 0
        self._later: set[asyncio.Task[None]] = set()
        observed = Observed()
        observed.note_ready()
        self.app = FastAPI(dependencies=[Depends(access)])
        answer_with_problems(self.app)
        for router in (realtime(self.hub, observed, Replays({}, "")), page(), self._rest()):
            self.app.include_router(router)

    def _rest(self) -> APIRouter:
        router = APIRouter()

        @router.get("/streams")
        async def list_streams() -> list[dict[str, Any]]:
            return list(reversed(self.streams.values()))

        @router.get("/detections")
        async def list_detections() -> list[dict[str, Any]]:
            return []

        @router.get("/detections/screenshot/{streamId}/{filename}")
        async def show_screenshot(streamId: str, filename: str) -> Response:  # noqa: N803 -- as in the route
            return Response(a_jpeg(1), media_type="image/jpeg")

        @router.get("/streams/{id}/frame")
        async def newest_frame(id: str) -> Response:
            self._asking += 1
            self.busiest = max(self.busiest, self._asking)
            await asyncio.sleep(0.02)
            self._asking -= 1
            return self._frame(id)

        return router

    def _frame(self, id: str) -> Response:
        status = self.streams[id]["status"] if id in self.streams else "DELETED"
        if status != "RUNNING":
            raise Problem(NO_PICTURE, f"the stream is {status}")
        self.asked[id] += 1
        record = self._record(id, 2 * self.asked[id])
        if self.detects:
            later = asyncio.create_task(self._answer(record))
            self._later.add(later)
            later.add_done_callback(self._later.discard)
        jpeg = a_jpeg(record.frame.seq)
        return Response(jpeg, media_type="image/jpeg", headers={"X-Frame-Id": record.frame.id})

    def _record(self, id: str, seq: int) -> DetectionRecord:
        record = a_record(seq, "person", stream_id=id)
        place = Box(x=box_left(seq), y=0.5, width=0.2, height=0.3)
        person = Detection(
            id=detection_id(record.record_id, 0),
            label="person",
            confidence=0.87,
            bounding_box=Box(x=0, y=0, width=0, height=0),
            normalized_box=place,
        )
        return type(record)(**{**fields(record), "detections": (person,)})

    async def _answer(self, record: DetectionRecord) -> None:
        """Also to the next frame, of which the page has no picture."""
        await asyncio.sleep(ANSWER_AFTER_S)
        next_one = self._record(record.stream_id, record.frame.seq + 1)
        self._publish(RecordNews(record, CURSOR), RecordNews(next_one, CURSOR))

    def say_status(self, id: str, status: Status | str, **facts: Any) -> None:
        """As both halves tell it: REST from now on, the WebSocket at once."""
        if status == "DELETED":
            del self.streams[id]
        else:
            self.streams[id] |= {"status": str(status), **facts}
        data = StatusData(stream_id=id, status=status, **facts)
        self._publish(News("stream:status", id, now(), CURSOR, data))

    def _publish(self, *news: News) -> None:
        self.hub.publish(news)


@contextmanager
def site(*names: str, access: Access | None = None, port: int = 0) -> Iterator[tuple[Site, str]]:
    made = Site(list(names), access or Access(None, ()))
    with serving(made.app, port=port) as address:
        yield made, f"http://{address}"


def an_id(number: int) -> str:
    return f"01JZ{number:022d}"


def a_stream(number: int, name: str) -> dict[str, Any]:
    return {
        "id": an_id(number),
        "name": name,
        "status": "RUNNING",
        "reason": None,
        "message": None,
        "hint": None,
        "detectionEnabled": True,
        "fps": 5,
        "lastHeartbeat": now().isoformat(),
        "measured": {"fps": 4.9, "detectedFps": 4.9, "lagMsP50": 81.2, "lagMsP95": 120.0},
    }


def fields(record: DetectionRecord) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__struct_fields__}
