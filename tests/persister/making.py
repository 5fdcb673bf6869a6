"""Messages as the other services would send them, and as they arrive."""

from datetime import UTC, datetime, timedelta
from typing import Any

from schemas.messages import (
    Box,
    Detection,
    DetectionRecord,
    FrameFacts,
    Heartbeat,
    Ledger,
    Model,
    Outcome,
    Snapshot,
    Status,
    StreamStatus,
    detection_id,
    frame_id,
    image_path,
    snapshot_filename,
)
from schemas.topics import DETECTIONS, HEARTBEATS, SNAPSHOTS, STREAM_STATUS, Origin, Topic
from services.persister.arrival import Arrival

NOON = datetime(2026, 11, 22, 12, 0, 0, 1, tzinfo=UTC)
DOOR, YARD, GATE = (f"01KAN0T5D3W8Y7R2Q4V6X9Z1B{last}" for last in "ABC")
MODEL = Model(name="yolox-nano", version="1", digest="sha256:00")
EPOCH = 1_795_348_800_000
PREFIX = "test."

TOPIC_OF: dict[type, Topic[Any]] = {
    DetectionRecord: DETECTIONS,
    StreamStatus: STREAM_STATUS,
    Heartbeat: HEARTBEATS,
    Snapshot: SNAPSHOTS,
}


def record(
    seq: int,
    *labels: str,
    stream_id: str = DOOR,
    epoch: int = EPOCH,
    outcome: Outcome = Outcome.OK,
    at: datetime | None = None,
) -> DetectionRecord:
    frame = frame_id(stream_id, epoch, seq)
    captured_at = at or NOON + timedelta(milliseconds=200 * seq)
    return DetectionRecord(
        record_id=frame,
        stream_id=stream_id,
        frame=FrameFacts(
            id=frame, epoch=epoch, seq=seq, width=640, height=360, captured_at=captured_at
        ),
        outcome=outcome,
        model=MODEL if outcome is Outcome.OK else None,
        detected_at=captured_at + timedelta(milliseconds=40),
        image_path=image_path(stream_id, snapshot_filename(captured_at, epoch, seq)),
        detections=tuple(detection(frame, place, label) for place, label in enumerate(labels)),
    )


def detection(record_id: str, place: int, label: str) -> Detection:
    return Detection(
        id=detection_id(record_id, place),
        label=label,
        class_id=0,
        confidence=0.75,
        bounding_box=Box(x=64, y=36, width=128, height=72),
        normalized_box=Box(x=0.1, y=0.1, width=0.2, height=0.2),
    )


def status(
    status: Status, *, stream_id: str = DOOR, epoch: int = EPOCH, minute: int = 0, **more: Any
) -> StreamStatus:
    since = NOON + timedelta(minutes=minute)
    return StreamStatus(stream_id=stream_id, status=status, epoch=epoch, since=since, **more)


def heartbeat(minute: int, *, stream_id: str = DOOR, epoch: int = EPOCH) -> Heartbeat:
    return Heartbeat(
        stream_id=stream_id,
        epoch=epoch,
        at=NOON + timedelta(minutes=minute),
        window_s=10,
        totals=Ledger(captured=minute, published=minute),
    )


def snapshot(
    seq: int, *, stream_id: str = DOOR, path: str | None = None, jpeg: bytes = b""
) -> Snapshot:
    captured_at = NOON + timedelta(milliseconds=200 * seq)
    filename = snapshot_filename(captured_at, EPOCH, seq)
    return Snapshot(
        stream_id=stream_id,
        frame_id=frame_id(stream_id, EPOCH, seq),
        captured_at=captured_at,
        path=image_path(stream_id, filename) if path is None else path,
        jpeg=jpeg or b"\xff\xd8\xff picture %d \xff\xd9" % seq,
    )


def arrival(message: Any, offset: int = 0, partition: int = 0) -> Arrival:
    topic = TOPIC_OF[type(message)]
    return Arrival(
        Origin(
            topic=topic.named(PREFIX),
            partition=partition,
            offset=offset,
            timestamp_ms=None,
            key=topic.key(message),
            value=topic.encode(message),
            headers=topic.headers(message, "sightlog/test/1", ""),
        ),
        message,
    )


def arrivals(*messages: Any, first: int = 0, partition: int = 0) -> list[Arrival]:
    """At consecutive offsets of one partition."""
    return [arrival(message, first + more, partition) for more, message in enumerate(messages)]


def tombstone(stream_id: str, offset: int, partition: int = 0) -> Arrival:
    key = stream_id.encode()
    return Arrival(
        Origin(STREAM_STATUS.named(PREFIX), partition, offset, None, key, None, ()), None
    )
