"""Whether bytes are a JPEG at all, without decoding it: a walk over its markers."""

from typing import Final

SOI: Final = b"\xff\xd8"
FRAME_MARKERS: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF0..15
STANDALONE: Final = frozenset({0x01, *range(0xD0, 0xD8)})  # TEM, RST0..7: no length follows
MOST_MARKERS: Final = 256


class NotAJPEG(ValueError):
    """Starts or goes on as no JPEG does."""


def size_of(jpeg: bytes) -> tuple[int, int]:
    """Width and height as its frame header says (ITU T.81, B.2.2); raises NotAJPEG."""
    if not jpeg.startswith(SOI):
        raise NotAJPEG("does not start as a JPEG")
    at = 2
    for _ in range(MOST_MARKERS):
        marker, at = _marker(jpeg, at)
        if marker in STANDALONE:
            continue
        if marker in FRAME_MARKERS:
            return _dimensions(jpeg, at)
        at += _length(jpeg, at)
    raise NotAJPEG("no frame header")


def _marker(jpeg: bytes, at: int) -> tuple[int, int]:
    if at >= len(jpeg) or jpeg[at] != 0xFF:
        raise NotAJPEG("no marker where one must stand")
    while at < len(jpeg) and jpeg[at] == 0xFF:  # any number of fill bytes
        at += 1
    if at >= len(jpeg) or jpeg[at] in {0x00, 0xD9, 0xDA}:  # stuffing, end, scan: too early
        raise NotAJPEG("no frame header")
    return jpeg[at], at + 1


def _length(jpeg: bytes, at: int) -> int:
    length = int.from_bytes(jpeg[at : at + 2], "big")
    if length < 2:
        raise NotAJPEG("cut short")
    return length


def _dimensions(jpeg: bytes, at: int) -> tuple[int, int]:
    if _length(jpeg, at) < 8 or len(jpeg) < at + 7:
        raise NotAJPEG("cut short")
    height = int.from_bytes(jpeg[at + 3 : at + 5], "big")
    width = int.from_bytes(jpeg[at + 5 : at + 7], "big")
    if not (width and height):
        raise NotAJPEG("no size")
    return width, height
