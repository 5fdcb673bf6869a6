"""Boxes drawn on pixels, for a person to look at."""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

LINE = 2
COLOUR = (64, 255, 64)  # BGR


def draw(
    pixels: npt.NDArray[np.uint8], corners: Iterable[tuple[int, int, int, int]]
) -> npt.NDArray[np.uint8]:
    """A copy with a rectangle at each (left, top, right, bottom)."""
    drawn = pixels.copy()
    for left, top, right, bottom in corners:
        drawn[top : top + LINE, left:right] = COLOUR
        drawn[max(top, bottom - LINE) : bottom, left:right] = COLOUR
        drawn[top:bottom, left : left + LINE] = COLOUR
        drawn[top:bottom, max(left, right - LINE) : right] = COLOUR
    return drawn
