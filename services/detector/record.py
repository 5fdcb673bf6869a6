"""A frame and what became of it -> its record. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Protocol

from schemas.messages import (
    Box,
    Detection,
    DetectionRecord,
    Frame,
    FrameFacts,
    Model,
    Outcome,
    Timing,
    detection_id,
    now,
    record_id,
)


class Sighting(Protocol):
    """One object as the AI service told it, its box in pixels of the frame."""

    @property
    def label(self) -> str: ...
    @property
    def class_id(self) -> int | None: ...
    @property
    def confidence(self) -> float: ...
    @property
    def box(self) -> Box: ...
    @property
    def attributes(self) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True)
class Finding:
    """What became of a frame."""

    outcome: Outcome
    reason: str | None = None  # a stable code, unless ok
    model: Model | None = None
    detections: tuple[Detection, ...] = ()
    image_path: str | None = None

    def with_image(self, path: str) -> "Finding":
        return replace(self, image_path=path)


def frame_facts(frame: Frame, published_at: datetime | None) -> FrameFacts:
    return FrameFacts(
        id=frame.id,
        epoch=frame.epoch,
        seq=frame.seq,
        width=frame.width,
        height=frame.height,
        captured_at=frame.captured_at,
        published_at=published_at,
        clock=frame.clock,
    )


def record_of(
    frame: FrameFacts, stream_id: str, finding: Finding, timing: Timing
) -> DetectionRecord:
    return DetectionRecord(
        record_id=record_id(frame.id),
        stream_id=stream_id,
        frame=frame,
        outcome=finding.outcome,
        reason=finding.reason,
        model=finding.model,
        timing=timing,
        detected_at=now(),
        image_path=finding.image_path,
        detections=finding.detections,
    )


def detections_of(frame: Frame, sightings: Iterable[Sighting]) -> tuple[Detection, ...]:
    """Those the stream asked for: its labels (none given: all), its least confidence."""
    wanted = [
        seen
        for seen in sightings
        if (not frame.labels or seen.label in frame.labels)
        and (frame.min_confidence is None or seen.confidence >= frame.min_confidence)
    ]
    return tuple(_detection(frame, index, seen) for index, seen in enumerate(wanted))


def _detection(frame: Frame, index: int, seen: Sighting) -> Detection:
    return Detection(
        id=detection_id(record_id(frame.id), index),
        label=seen.label,
        class_id=seen.class_id,
        confidence=seen.confidence,
        bounding_box=_scaled(seen.box, 1, 1, digits=2),
        normalized_box=_scaled(seen.box, frame.width, frame.height, digits=6),
        attributes=seen.attributes,
    )


def _scaled(box: Box, width: int, height: int, digits: int) -> Box:
    """Digits that mean nothing would cost readers and disks the most."""
    return Box(
        x=round(box.x / width, digits),
        y=round(box.y / height, digits),
        width=round(box.width / width, digits),
        height=round(box.height / height, digits),
    )
