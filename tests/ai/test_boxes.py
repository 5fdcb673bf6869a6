from math import exp, log

import numpy as np
import pytest

from services.ai.boxes import Boxes, candidates, grid, restore, suppress

CANVAS = (32, 64)  # 4x8 cells of 8, then 2x4 of 16, then 1x2 of 32
STRIDES = (8, 16, 32)
ANCHORS = 32 + 8 + 2
SIZE_OF_16 = log(2)  # times stride 8


def nothing(classes: int = 3) -> np.ndarray:
    return np.zeros((ANCHORS, 5 + classes), np.float32)


def boxes(*rows: tuple[float, float, float, float, float, int]) -> Boxes:
    return Boxes(
        np.array([row[:4] for row in rows], np.float32),
        np.array([row[4] for row in rows], np.float32),
        np.array([row[5] for row in rows], np.intp),
    )


def test_the_grid_goes_row_by_row_and_stride_by_stride() -> None:
    cells, sizes = grid(CANVAS, STRIDES)
    assert cells[[0, 1, 8, 31, 32, 36, 40, 41]].tolist() == [
        [0, 0], [1, 0], [0, 1], [7, 3], [0, 0], [0, 1], [0, 0], [1, 0],
    ]  # fmt: skip
    assert sizes[:, 0].tolist() == [8] * 32 + [16] * 8 + [32] * 2


def test_an_anchor_becomes_a_box_around_its_cell() -> None:
    output = nothing()
    output[8 + 3] = (0.5, 0.25, SIZE_OF_16, log(4), 0.8, 0.1, 0.9, 0.2)  # cell (3, 1), stride 8
    output[32 + 4] = (0, 0, 0, 0, 1, 0, 0, 0.5)  # cell (0, 1), stride 16
    found = candidates(output, CANVAS, STRIDES, 0.3)
    assert found.corners.tolist() == pytest.approx(
        np.array([[28 - 8, 10 - 16, 28 + 8, 10 + 16], [-8, 8, 8, 24]]), abs=1e-4
    )
    assert found.scores.tolist() == pytest.approx([0.72, 0.5])
    assert found.classes.tolist() == [1, 2]


def test_a_score_is_objectness_times_class() -> None:
    output = nothing()
    output[0, 4:6] = (0.6, 0.7)
    assert len(candidates(output, CANVAS, STRIDES, 0.43)) == 0
    assert len(candidates(output, CANVAS, STRIDES, 0.41)) == 1


@pytest.mark.parametrize("wild", [np.nan, np.inf, -np.inf])
def test_a_wild_output_is_no_box_and_no_warning(wild) -> None:
    output = nothing()
    output[0] = wild
    output[1, 4:] = 1
    output[1, 0] = wild
    assert len(candidates(output, CANVAS, STRIDES, 0.1)) == 0


def test_a_wild_size_stays_finite() -> None:
    output = nothing()
    output[0] = (0, 0, 1000, 0, 1, 1, 0, 0)
    found = candidates(output, CANVAS, STRIDES, 0.1)
    assert found.corners[0, 2] == pytest.approx(exp(12) * 4, rel=1e-4)
    assert restore(found, 0.5, (100, 50)).corners.tolist() == [[0, 0, 100, 8]]


def test_the_best_box_stays_and_what_overlaps_it_goes() -> None:
    found = boxes((1, 0, 11, 10, 0.5, 0), (0, 0, 10, 10, 0.9, 0), (20, 0, 30, 10, 0.7, 0))
    kept = suppress(found, 0.45, 100)
    assert kept.scores.tolist() == pytest.approx([0.9, 0.7])


def test_boxes_that_overlap_less_than_the_bound_both_stay() -> None:
    third = boxes((0, 0, 10, 10, 0.9, 0), (5, 0, 15, 10, 0.8, 0))  # they share a third
    assert len(suppress(third, 0.34, 100)) == 2
    assert len(suppress(third, 0.33, 100)) == 1


def test_a_box_does_not_suppress_one_of_another_class() -> None:
    assert len(suppress(boxes((0, 0, 9, 9, 0.9, 0), (0, 0, 9, 9, 0.8, 1)), 0.45, 100)) == 2


def test_no_more_than_the_most_are_kept_best_first() -> None:
    apart = [(20 * n, 0, 20 * n + 10, 10, n / 10, 0) for n in range(10)]
    assert suppress(boxes(*apart), 0.45, 3).scores.tolist() == pytest.approx([0.9, 0.8, 0.7])


def test_boxes_come_back_in_pixels_sent_clipped_to_the_picture() -> None:
    found = boxes((-5, 10, 50, 60, 0.9, 0), (400, 0, 416, 10, 0.8, 0))  # the second: in the padding
    kept = restore(found, 0.625, (640, 80))
    assert kept.corners.tolist() == [[0, 16, 80, 80]]


def test_nothing_is_found_in_nothing() -> None:
    found = suppress(candidates(nothing(), CANVAS, STRIDES, 0.5), 0.45, 100)
    assert len(restore(found, 1, (64, 32))) == 0
