"""Messages as the other services send them."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from schemas.messages import (
    Box,
    Detection,
    DetectionRecord,
    FrameFacts,
    Heartbeat,
    Instance,
    Ledger,
    Model,
    Outcome,
    Rates,
    Status,
    StreamSpec,
    StreamStatus,
    Timing,
    detection_id,
    frame_id,
    image_path,
    record_id,
    snapshot_filename,
)

NOON = datetime(2026, 11, 1, 12, 0, 0, 1, tzinfo=UTC)
DOOR = "01JZ0000000000000000000001"
YARD = "01JZ0000000000000000000002"

SLOT = 0


def a_spec(stream_id: str = DOOR, *, generation: int = 1, running: bool = True) -> StreamSpec:
    return StreamSpec(
        stream_id=stream_id,
        slot=SLOT,
        generation=generation,
        running=running,
        name="door",
        url="rtsp://camera/1",
    )


def a_status(
    stream_id: str = DOOR, status: Status = Status.RUNNING, *, epoch: int = 1, attempt: int = 0
) -> StreamStatus:
    return StreamStatus(
        stream_id=stream_id,
        status=status,
        since=NOON,
        epoch=epoch,
        attempt=attempt,
        owner="ingestor-1",
        observed_generation=1,
    )


def a_heartbeat(stream_id: str = DOOR, *, at: datetime = NOON, fps: float = 5) -> Heartbeat:
    return Heartbeat(
        stream_id=stream_id,
        epoch=1,
        at=at,
        window_s=10,
        last_seq=49,
        fps=Rates(source=25, published=fps),
        ledger=Ledger(captured=50, published=50),
    )


def an_instance(name: str = "ingestor-1", **more: Any) -> Instance:
    fields: dict[str, Any] = {"service": "ingestor", "version": "1", "endpoint": "http://i:1"}
    return Instance(instance=name, started_at=NOON, at=NOON, **fields | more)


def a_detection(record: str, index: int, label: str = "person", confidence: float = 0.9):
    return Detection(
        id=detection_id(record, index),
        label=label,
        class_id=0,
        confidence=confidence,
        bounding_box=Box(x=64, y=36, width=128, height=180),
        normalized_box=Box(x=0.1, y=0.1, width=0.2, height=0.5),
        attributes={"colour": "red"},
    )


def a_record(
    seq: int,
    *labels: str,
    stream_id: str = DOOR,
    epoch: int = 1,
    outcome: Outcome = Outcome.OK,
    confidence: float = 0.9,
    padding: str = "",
) -> DetectionRecord:
    """One detection per label; `padding` makes it as large as a test needs."""
    at = NOON + timedelta(seconds=seq / 5)
    record = record_id(frame_id(stream_id, epoch, seq))
    return DetectionRecord(
        record_id=record,
        stream_id=stream_id,
        frame=FrameFacts(
            id=frame_id(stream_id, epoch, seq),
            epoch=epoch,
            seq=seq,
            width=640,
            height=360,
            captured_at=at,
        ),
        outcome=outcome,
        reason=padding or None,
        model=Model(name="yolox_nano", version="1", digest="sha256:0" + padding),
        timing=Timing(since_capture_ms=40),
        detected_at=at + timedelta(milliseconds=40),
        image_path=image_path(stream_id, snapshot_filename(at, epoch, seq)) if labels else None,
        detections=tuple(
            a_detection(record, index, label, confidence) for index, label in enumerate(labels)
        ),
    )


def an_id(number: int) -> UUID:
    return UUID(int=number)
