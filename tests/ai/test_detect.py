from pathlib import Path

import numpy as np

from services.ai.detect import Detector
from tests.ai.walk import Frame, Known, iou

PROGRESSIVE = Path(__file__).parent / "pictures" / "progressive.jpg"

ENOUGH = 0.5
PRECISION = 0.85  # 0.950 over all 120 frames
RECALL = 0.90  # 0.960


def test_what_is_found_in_the_walk_is_there_and_most_of_it_is_found(
    detector: Detector, frames: list[Frame]
) -> None:
    found = true = known = seen = 0
    for frame in frames:
        boxes = detector.detect(frame.jpeg).boxes
        corners = [tuple(row) for row in boxes.corners.tolist()]
        persons = [box for box, kind in zip(corners, boxes.classes, strict=True) if kind == 0]
        found += len(corners)
        true += sum(matches(box, frame.known) for box in corners)
        there = [box for box in frame.known if box.label == "person" and not box.ignored]
        known += len(there)
        seen += sum(any(iou(box.corners, other) >= ENOUGH for other in persons) for box in there)
    assert true / found >= PRECISION, (true, found)
    assert seen / known >= RECALL, (seen, known)


def matches(box, known: list[Known]) -> bool:
    return any(iou(box, other.corners) >= ENOUGH for other in known)


def test_a_lower_threshold_finds_more_and_a_higher_one_less(detector, jpeg: bytes) -> None:
    counts = [len(detector.detect(jpeg, threshold).boxes) for threshold in (0.0, 0.3, 0.7, 1.0)]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] == detector.manifest.defaults.max_detections
    assert counts[-1] == 0


def test_boxes_lie_in_the_picture_best_first(detector, jpeg: bytes) -> None:
    sighting = detector.detect(jpeg, 0.05)
    boxes = sighting.boxes
    assert (boxes.corners >= 0).all()
    assert (boxes.corners <= [640, 480, 640, 480]).all()
    assert (np.diff(boxes.scores) <= 0).all()


def test_persons_are_found_in_a_small_progressive_picture(detector) -> None:
    sighting = detector.detect(PROGRESSIVE.read_bytes())
    assert (sighting.width, sighting.height) == (240, 180)
    assert sighting.boxes.classes.tolist().count(0) == 2
