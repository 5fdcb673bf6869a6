import numpy as np

from services.ai.letterbox import letterbox


def test_a_picture_stands_in_the_top_left_corner_of_padding() -> None:
    pixels = np.arange(3 * 5 * 3, dtype=np.uint8).reshape(3, 5, 3)
    canvas = letterbox(pixels, 4, 114)
    assert canvas.shape == (4, 8, 3)
    assert (canvas[:3, :5] == pixels).all()
    assert (canvas[3:] == 114).all()
    assert (canvas[:, 5:] == 114).all()


def test_a_picture_that_fits_is_not_padded() -> None:
    pixels = np.ones((32, 64, 3), np.uint8)
    assert (letterbox(pixels, 32, 114) == pixels).all()
