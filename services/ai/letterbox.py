"""A picture -> the canvas the model sees: its pixels in the top left corner, padded."""

import numpy as np
import numpy.typing as npt


def letterbox(
    pixels: npt.NDArray[np.uint8], multiple: int, pad_value: int
) -> npt.NDArray[np.uint8]:
    """(h, w, 3) -> (H, W, 3), H and W the next multiples. Boxes need no shift afterwards."""
    height, width, channels = pixels.shape
    shape = (rounded_up(height, multiple), rounded_up(width, multiple), channels)
    canvas = np.full(shape, pad_value, np.uint8)
    canvas[:height, :width] = pixels
    return canvas


def rounded_up(side: int, multiple: int) -> int:
    return -(-side // multiple) * multiple
