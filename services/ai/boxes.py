"""The output of YOLOX -> boxes: grids and strides undone, weak ones and repeats dropped.

The decoding is that of YOLOX's `demo_postprocess`: centre = (raw + cell) * stride, size =
exp(raw) * stride, score = objectness * class.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.intp]

OBJECTNESS = 4
FIRST_CLASS = 5
LARGEST_LOG_SIZE = 12.0
"""exp of it times a stride is beyond any picture: a wild output can't overflow."""

MOST_CANDIDATES = 1000
"""The best ones that NMS compares, so that a confidence of 0 costs milliseconds too."""


@dataclass(frozen=True)
class Boxes:
    """Best first. `corners` is (n, 4): left, top, right, bottom."""

    corners: Floats
    scores: Floats
    classes: Integers

    def __len__(self) -> int:
        return len(self.scores)

    def only(self, chosen: npt.NDArray[Any]) -> "Boxes":
        """By index or by mask."""
        return Boxes(self.corners[chosen], self.scores[chosen], self.classes[chosen])


def candidates(
    output: Floats, canvas: tuple[int, int], strides: tuple[int, ...], min_confidence: float
) -> Boxes:
    """What in `output` (anchors, 5 + classes) is at or above `min_confidence`.

    In pixels of the canvas, which is (height, width). A score is never above its objectness, so
    only rows whose objectness reaches the threshold are looked at.
    """
    cells, sizes = grid(canvas, strides)
    likely = output[:, OBJECTNESS] >= min_confidence
    rows, cells, sizes = output[likely], cells[likely], sizes[likely]
    scores = rows[:, OBJECTNESS, None] * rows[:, FIRST_CLASS:]
    classes = scores.argmax(axis=1)
    best = scores[np.arange(len(scores)), classes]
    centres = (rows[:, 0:2] + cells) * sizes
    halves = np.exp(np.minimum(rows[:, 2:4], LARGEST_LOG_SIZE)) * sizes / 2
    corners = np.concatenate((centres - halves, centres + halves), axis=1, dtype=np.float32)
    sound = (best >= min_confidence) & np.isfinite(corners).all(axis=1)
    return Boxes(corners, best, classes).only(sound)


@lru_cache(maxsize=32)
def grid(canvas: tuple[int, int], strides: tuple[int, ...]) -> tuple[Floats, Floats]:
    """Each anchor's cell (x, y) and stride, in the output's order: by stride, then row by row."""
    cells, sizes = [], []
    for stride in strides:
        rows, columns = np.mgrid[: canvas[0] // stride, : canvas[1] // stride]
        cells.append(np.stack((columns, rows), axis=-1).reshape(-1, 2))
        sizes.append(np.full((rows.size, 1), stride))
    return np.concatenate(cells).astype(np.float32), np.concatenate(sizes).astype(np.float32)


def suppress(boxes: Boxes, iou: float, most: int) -> Boxes:
    """Non-maximum suppression within each class: a box over `iou` with a better one of it goes."""
    order = np.argsort(-boxes.scores, kind="stable")[:MOST_CANDIDATES]
    kept: list[int] = []
    while order.size and len(kept) < most:
        best, rest = order[0], order[1:]
        kept.append(int(best))
        rivals = boxes.classes[rest] == boxes.classes[best]
        repeats = rivals & (overlap(boxes.corners[best], boxes.corners[rest]) > iou)
        order = rest[~repeats]
    return boxes.only(np.array(kept, np.intp))


def overlap(one: Floats, others: Floats) -> Floats:
    """Intersection over union of one box (4,) with each of `others` (n, 4)."""
    inner = np.minimum(one[2:], others[:, 2:]) - np.maximum(one[:2], others[:, :2])
    shared = np.prod(np.maximum(inner, 0), axis=1)
    union = np.prod(one[2:] - one[:2]) + np.prod(others[:, 2:] - others[:, :2], axis=1) - shared
    ratio: Floats = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return ratio


def restore(boxes: Boxes, scale: float, size: Sequence[int]) -> Boxes:
    """Into pixels of the picture sent, `size` (width, height), clipped to it; none is empty."""
    limits = np.array([*size, *size], np.float32)
    corners = np.clip(boxes.corners / np.float32(scale), 0, limits)
    there = (corners[:, 2:] > corners[:, :2]).all(axis=1)
    return Boxes(corners, boxes.scores, boxes.classes).only(there)
