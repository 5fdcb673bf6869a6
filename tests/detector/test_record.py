from dataclasses import dataclass, field
from typing import Any

from schemas.messages import Box, Frame, now
from services.detector.record import detections_of


@dataclass(frozen=True)
class Seen:
    label: str
    confidence: float
    box: Box
    class_id: int | None = 0
    attributes: dict[str, Any] = field(default_factory=dict)


def frame(**more: Any) -> Frame:
    facts: dict[str, Any] = {"stream_id": "s", "epoch": 1, "seq": 2, "captured_at": now()}
    return Frame(**facts, width=640, height=480, **more)


def test_boxes_are_told_to_a_hundredth_of_a_pixel_and_a_millionth_of_the_frame() -> None:
    box = Box(x=469.54, y=192.91, width=29.649999999999977, height=77.29999999999998)
    [found] = detections_of(frame(), [Seen("person", 0.9, box)])
    assert found.bounding_box == Box(x=469.54, y=192.91, width=29.65, height=77.3)
    assert found.normalized_box == Box(x=0.733656, y=0.401896, width=0.046328, height=0.161042)


def test_only_labels_that_the_stream_asked_for_are_told_and_numbered_among_themselves() -> None:
    box = Box(x=0, y=0, width=1, height=1)
    seen = [Seen("car", 0.9, box), Seen("person", 0.5, box), Seen("person", 0.3, box)]
    [person] = detections_of(frame(labels=("person",), min_confidence=0.4), seen)
    [alone] = detections_of(frame(), [Seen("person", 0.5, box)])
    assert (person.label, person.confidence, person.id) == ("person", 0.5, alone.id)
