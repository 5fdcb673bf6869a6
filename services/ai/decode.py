"""JPEG bytes -> pixels near the size the model wants, without decoding what it does not need."""

from dataclasses import dataclass
from math import log

import numpy as np
import numpy.typing as npt
import simplejpeg

EIGHTHS = 8
"""libjpeg's inverse DCT can leave out detail: n/8 of the size at n/8 of the cost or less."""

SHORTEST_SIDE = 16
LONGEST_SIDE = 16_384
MAX_SCANS = 64
"""A progressive file of libjpeg has 10 scans; each one costs a pass over the whole picture."""

START_OF_SCAN = b"\xff\xda"

Pixels = npt.NDArray[np.uint8]


class UnusablePicture(ValueError):
    """Not a JPEG that can be decoded here, or not one worth its cost; the message says which."""


@dataclass(frozen=True)
class Picture:
    """BGR pixels, shape (height, width, 3), and the size of what was sent.

    A pixel of `pixels` is `1 / scale` pixels of the picture sent. The EXIF orientation is ignored:
    boxes are in the pixels as stored.
    """

    pixels: Pixels
    scale: float
    width: int
    height: int


def decode(jpeg: bytes, long_side: int, max_pixels: int) -> Picture:
    """The picture at the decoder's scale nearest to `long_side`; grey becomes BGR.

    UnusablePicture before anything is decoded if the header is no JPEG's, names a CMYK picture, or
    a size out of bounds; after it if the data is cut or corrupt.
    """
    width, height = check_header(jpeg, max_pixels)
    eighths, step = scaling(max(width, height), long_side)
    try:
        pixels = simplejpeg.decode_jpeg(
            jpeg,
            colorspace="BGR",
            min_width=scaled(width, eighths),
            min_height=scaled(height, eighths),
        )
    except ValueError as error:
        raise UnusablePicture(f"the JPEG can't be decoded: {error}") from error
    return Picture(pixels[::step, ::step], eighths / EIGHTHS / step, width, height)


def check_header(jpeg: bytes, max_pixels: int) -> tuple[int, int]:
    """Width and height; costs microseconds whatever the header promises."""
    try:
        height, width, colour, _ = simplejpeg.decode_jpeg_header(jpeg)
    except ValueError as error:
        raise UnusablePicture(f"not a JPEG: {len(jpeg)} bytes without a usable header") from error
    if colour in {"CMYK", "YCCK"}:
        raise UnusablePicture("CMYK pictures are not supported")
    if min(width, height) < SHORTEST_SIDE or max(width, height) > LONGEST_SIDE:
        raise UnusablePicture(
            f"{width}x{height}: sides of {SHORTEST_SIDE} to {LONGEST_SIDE} pixels are supported"
        )
    if width * height > max_pixels:
        raise UnusablePicture(f"{width}x{height}: more than {max_pixels} pixels")
    if jpeg.count(START_OF_SCAN) > MAX_SCANS:
        raise UnusablePicture(f"more than {MAX_SCANS} scans")
    return int(width), int(height)


def scaling(side: int, wanted: int) -> tuple[int, int]:
    """How many eighths, and then every how manieth pixel, bring `side` nearest to `wanted`.

    Never enlarges. Only sides above 12 times `wanted` need the second.
    """
    eighths = min(range(1, EIGHTHS + 1), key=lambda n: abs(log(side * n / EIGHTHS / wanted)))
    return eighths, max(1, round(scaled(side, eighths) / wanted)) if eighths == 1 else 1


def scaled(side: int, eighths: int) -> int:
    """As libjpeg rounds: up."""
    return -(-side * eighths // EIGHTHS)
