"""A frame -> what the model saw. The only module that talks to the AI service.

Whatever the service answers is bounded and checked: its bytes, its count of boxes, every number.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import httpx
import msgspec
from msgspec import Meta, Struct

from schemas.messages import Box, Fraction, Frame, Model

MOST_ANSWER_BYTES = 1024 * 1024
MOST_FOUND = 1000
BOX_SLACK = 1.0  # pixels that a box may stand over the edge: it is cut there
LONGEST_RETRY_AFTER_S = 5.0  # we decide how long at most
REFUSALS = frozenset({400, 413, 415, 422})
OF_THE_PICTURE = frozenset({"unusable-picture", "body-too-large"})
"""The AI service's problem types that mean the picture; others mean how we ask. A service that
names no type means the picture."""
BUSY = frozenset({429, 503})


class Unanswered(Exception):
    """No usable answer. `reason` is a stable code; `is_down`: the service itself fails."""

    def __init__(self, reason: str, *, is_down: bool, retry_after_s: float | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.is_down = is_down
        self.retry_after_s = retry_after_s


class Refused(Exception):
    """The service cannot read this JPEG; trying again would not help."""


@dataclass(frozen=True)
class Found:
    """One object, its box in pixels of the frame and inside it."""

    label: str
    class_id: int | None
    confidence: float
    box: Box
    attributes: dict[str, Any]


@dataclass(frozen=True)
class Answer:
    found: tuple[Found, ...]
    model: Model | None


class _FoundOnWire(Struct, rename="camel"):
    label: Annotated[str, Meta(min_length=1, max_length=200)]
    confidence: Fraction
    bounding_box: Box
    class_id: int | None = None


class _SizeOnWire(Struct):
    width: int
    height: int


class _Problem(Struct):
    """RFC 9457; a list as its detail is how FastAPI says that parameters are wrong."""

    type: str = ""
    detail: Any = None


class _AnswerOnWire(Struct):
    detections: Annotated[list[dict[str, Any]], Meta(max_length=MOST_FOUND)]
    model: Model | None = None
    frame: _SizeOnWire | None = None


KNOWN = frozenset({"label", "confidence", "boundingBox", "classId"})


async def infer(client: httpx.AsyncClient, frame: Frame, traceparent: str) -> Answer:
    """The caller sets the deadline. Raises Unanswered or Refused."""
    try:
        async with client.stream(
            "POST",
            "/detect",
            params=_question(frame),
            content=frame.jpeg,
            headers={"content-type": "image/jpeg", "traceparent": traceparent},
        ) as response:
            await _check_status(response)
            body = await _bounded(response)
    except httpx.TimeoutException as error:
        raise Unanswered("AI_TIMEOUT", is_down=True) from error
    except httpx.HTTPError as error:
        raise Unanswered("AI_UNREACHABLE", is_down=True) from error
    return answer_of(body, frame.width, frame.height)


def _question(frame: Frame) -> dict[str, str]:
    asked = {"model": frame.model, "minConfidence": frame.min_confidence}
    return {name: str(value) for name, value in asked.items() if value is not None}


async def _check_status(response: httpx.Response) -> None:
    status = response.status_code
    if status in REFUSALS:
        if is_of_the_picture(await _bounded(response)):
            raise Refused
        raise Unanswered("AI_MISASKED", is_down=False)
    if status in BUSY:
        wait = _retry_after_s(response.headers)
        raise Unanswered("AI_BUSY", is_down=status != 429 and wait is None, retry_after_s=wait)
    if status == 404:
        raise Unanswered("AI_NO_SUCH_MODEL", is_down=False)
    if status != 200:
        raise Unanswered("AI_ERROR", is_down=status >= 500)


def is_of_the_picture(refusal: bytes) -> bool:
    """Whether another picture, asked about in the same way, might be answered."""
    try:
        problem = msgspec.json.decode(refusal, type=_Problem)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return True
    slug = problem.type.rpartition("/")[2]
    if slug in {"", "about:blank"}:
        return not isinstance(problem.detail, list)
    return slug in OF_THE_PICTURE


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds; the other form of the header, a date, is taken for its absence."""
    value = headers.get("retry-after", "")
    return min(float(value), LONGEST_RETRY_AFTER_S) if value.isdecimal() else None


async def _bounded(response: httpx.Response) -> bytes:
    body = bytearray()
    async for chunk in response.aiter_bytes(64 * 1024):
        body += chunk
        if len(body) > MOST_ANSWER_BYTES:
            raise Unanswered("AI_ANSWER_TOO_LARGE", is_down=False)
    return bytes(body)


def answer_of(body: bytes, width: int, height: int) -> Answer:
    """The answer to a frame of that size; raises Unanswered for what it can't have said."""
    try:
        answer = msgspec.json.decode(body, type=_AnswerOnWire)
        _check_size(answer.frame, width, height)
        found = tuple(_found(raw, width, height) for raw in answer.detections)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, OverflowError) as error:
        raise Unanswered("AI_ANSWER", is_down=False) from error
    return Answer(found, answer.model)


def _check_size(said: _SizeOnWire | None, width: int, height: int) -> None:
    if said is not None and (said.width, said.height) != (width, height):
        raise msgspec.ValidationError("a frame of another size")


def _found(raw: dict[str, Any], width: int, height: int) -> Found:
    said = msgspec.convert(raw, _FoundOnWire)
    return Found(
        label=said.label,
        class_id=said.class_id,
        confidence=said.confidence,
        box=_inside(said.bounding_box, width, height),
        attributes={name: value for name, value in raw.items() if name not in KNOWN},
    )


def _inside(box: Box, width: int, height: int) -> Box:
    """Cut at the edges of the frame; raises ValidationError for a box that is not of it."""
    left, top, right, bottom = box.x, box.y, box.x + box.width, box.y + box.height
    if not all(map(math.isfinite, (left, top, right, bottom))):
        raise msgspec.ValidationError("a box that is no number")
    is_of_frame = (
        -BOX_SLACK <= left <= right <= width + BOX_SLACK
        and -BOX_SLACK <= top <= bottom <= height + BOX_SLACK
    )
    if not is_of_frame or box.width < 0 or box.height < 0:
        raise msgspec.ValidationError("a box outside of the frame")
    left, right = max(left, 0.0), min(right, float(width))
    top, bottom = max(top, 0.0), min(bottom, float(height))
    return Box(x=left, y=top, width=max(right - left, 0.0), height=max(bottom - top, 0.0))
