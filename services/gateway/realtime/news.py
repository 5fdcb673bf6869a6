"""What clients are told, word for word: `{"event", "cursor", "data"}`.

Built from the messages of the topics; each is serialised once, and once more for each different
filter that changes what is in it.
"""

from datetime import datetime
from typing import Any, Literal

import msgspec
from msgspec import Struct
from typing_extensions import override

from schemas.messages import (
    Box,
    Detection,
    DetectionRecord,
    Model,
    Outcome,
    Reason,
    Status,
    StreamSpec,
    StreamStatus,
    wire_time,
)
from services.gateway.realtime.cursor import watermark
from services.gateway.realtime.sockets import framed
from services.gateway.realtime.subscribe import Subscription

DELETED = "DELETED"  # the status of a stream that is no more

_encode = msgspec.json.Encoder().encode


class StatusData(Struct, frozen=True, kw_only=True, rename="camel"):
    """`stream:status`."""

    stream_id: str
    status: str
    reason: Reason | None = None
    message: str | None = None
    hint: str | None = None
    since: datetime | None = None
    generation: int | None = None
    observed_generation: int = 0
    owner: str | None = None
    epoch: int = 0


class Size(Struct, frozen=True):
    width: int
    height: int


class DetectionData(Struct, frozen=True, kw_only=True, rename="camel"):
    """One detection, as in REST."""

    id: str
    stream_id: str
    timestamp: str
    label: str
    confidence: float
    bounding_box: Box
    normalized_box: Box
    image_path: str | None
    metadata: dict[str, Any]  # what else the AI sent stands in it, unread


class RecordData(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """`detection`."""

    stream_id: str
    frame_id: str
    record_id: str
    timestamp: str
    frame: Size
    image_path: str | None
    model: Model | None
    detections: tuple[DetectionData, ...]
    outcome: Outcome = Outcome.OK  # said only where it is another


class SnapshotData(Struct, frozen=True):
    """`snapshot`; not complete where the topics could not be read to their end in time."""

    streams: tuple[StatusData, ...]
    complete: bool = True


GapReason = Literal["slow", "retention", "unknown-cursor"]


def status_data(status: StreamStatus, spec: StreamSpec | None) -> StatusData:
    return StatusData(
        stream_id=status.stream_id,
        status=status.status,
        reason=status.reason,
        message=status.message,
        hint=status.hint,
        since=status.since,
        generation=spec.generation if spec else None,
        observed_generation=status.observed_generation,
        owner=status.owner,
        epoch=status.epoch,
    )


def awaited(spec: StreamSpec) -> StatusData:
    """Of a stream that nobody has said anything about yet."""
    status = Status.STARTING if spec.running else Status.STOPPED
    return StatusData(stream_id=spec.stream_id, status=status, generation=spec.generation)


def deleted(stream_id: str) -> StatusData:
    return StatusData(stream_id=stream_id, status=DELETED)


def record_data(record: DetectionRecord, subscription: Subscription | None = None) -> RecordData:
    """With only the detections that the subscription keeps."""
    kept = (
        detection
        for detection in record.detections
        if subscription is None or subscription.keeps(detection.label, detection.confidence)
    )
    frame = record.frame
    return RecordData(
        stream_id=record.stream_id,
        frame_id=frame.id,
        record_id=record.record_id,
        timestamp=wire_time(frame.captured_at),
        frame=Size(frame.width, frame.height),
        image_path=record.image_path,
        model=record.model,
        detections=tuple(detection_data(detection, record) for detection in kept),
        outcome=record.outcome,
    )


def detection_data(detection: Detection, record: DetectionRecord) -> DetectionData:
    frame = record.frame
    return DetectionData(
        id=str(detection.id),
        stream_id=record.stream_id,
        timestamp=wire_time(frame.captured_at),
        label=detection.label,
        confidence=detection.confidence,
        bounding_box=detection.bounding_box,
        normalized_box=detection.normalized_box,
        image_path=record.image_path,
        metadata=detection.attributes
        | {
            "frameId": frame.id,
            "recordId": record.record_id,
            "seq": frame.seq,
            "epoch": frame.epoch,
            "frame": Size(frame.width, frame.height),
            "clock": frame.clock,
            "model": record.model,
            "classId": detection.class_id,
            "trackId": detection.track_id,
        },
    )


def told(event: str, cursor: str, data: object) -> bytes:
    """A whole message as it stands on the wire."""
    return framed(
        b'{"event":"%b","cursor":"%b","data":%b}' % (event.encode(), cursor.encode(), _encode(data))
    )


def gap(
    cursor: str, since: datetime | None, until: datetime, why: GapReason, missed: int | None = None
) -> bytes:
    times = {"from": since and wire_time(since), "to": wire_time(until)}
    return told("gap", cursor, times | {"missed": missed, "reason": why})


class News:
    """One thing that happened, for every subscriber that wants it."""

    def __init__(self, event: str, stream_id: str, at: datetime, cursor: str, data: object) -> None:
        self.event = event
        self.stream_id = stream_id
        self.at = at
        self.cursor = cursor
        self._data = data
        self._message: bytes | None = None

    def message_for(self, subscription: Subscription) -> bytes | None:
        if not subscription.wants(self.event, self.stream_id):
            return None
        if self._message is None:
            self._message = told(self.event, self.cursor, self._data)
        return self._message


class RecordNews(News):
    """A record: what a subscriber sees of it depends on its filters."""

    def __init__(self, record: DetectionRecord, cursor: str) -> None:
        super().__init__("detection", record.stream_id, record.frame.captured_at, cursor, None)
        self._record = record
        self._messages: dict[tuple[frozenset[str], float], tuple[bool, bytes]] = {}

    @override
    def message_for(self, subscription: Subscription) -> bytes | None:
        if not subscription.wants(self.event, self.stream_id):
            return None
        if not (self._record.detections or subscription.empty):
            return None
        filters = (subscription.labels, subscription.min_confidence)
        if filters not in self._messages:
            data = record_data(self._record, subscription)
            seen = bool(data.detections) and data.outcome == Outcome.OK
            self._messages[filters] = seen, told(self.event, self.cursor, data)
        seen, message = self._messages[filters]
        return message if seen or subscription.empty else None


class GapNews(News):
    """Told to everybody: nobody knows what was in it."""

    def __init__(self, cursor: str, at: datetime, reason: GapReason) -> None:
        super().__init__("gap", "", at, cursor, None)
        self._message = gap(cursor, watermark(cursor), at, reason)

    @override
    def message_for(self, subscription: Subscription) -> bytes | None:
        return self._message
