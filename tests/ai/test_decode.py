import struct
from pathlib import Path

import numpy as np
import pytest
import simplejpeg

from services.ai.decode import MAX_SCANS, UnusablePicture, decode, scaling

PICTURES = Path(__file__).parent / "pictures"
MANY = 2**25


def jpeg_of(height: int, width: int, colour: str = "BGR", channels: int = 3) -> bytes:
    """Plain grey noise; no two pixels need to be alike for what is tested here."""
    pixels = np.random.default_rng(1).integers(0, 255, (height, width, channels), np.uint8)
    encoded: bytes = simplejpeg.encode_jpeg(pixels, 85, colour, "Gray" if channels == 1 else "444")
    return encoded


def promising(jpeg: bytes, width: int, height: int, bits: int = 8) -> bytes:
    """The same bytes, with another size in their header."""
    at = jpeg.index(b"\xff\xc0") + 4
    return jpeg[:at] + struct.pack(">BHH", bits, height, width) + jpeg[at + 5 :]


@pytest.mark.parametrize(
    ("side", "eighths", "step"),
    [
        (640, 5, 1),
        (1280, 3, 1),
        (1920, 2, 1),
        (3840, 1, 1),
        (416, 8, 1),
        (100, 8, 1),
        (8192, 1, 2),
        (16384, 1, 5),
    ],
)
def test_the_scale_brings_the_long_side_nearest_to_the_model_s(side, eighths, step) -> None:
    assert scaling(side, 416) == (eighths, step)


@pytest.mark.parametrize(
    ("sent", "seen", "scale"),
    [((480, 640), (300, 400), 5 / 8), ((360, 640), (225, 400), 5 / 8), ((99, 33), (99, 33), 1)],
)
def test_a_picture_is_decoded_at_its_scale(sent, seen, scale) -> None:
    picture = decode(jpeg_of(*sent), 416, MANY)
    assert (picture.height, picture.width) == sent
    assert picture.pixels.shape == (*seen, 3)
    assert picture.scale == scale


def test_a_huge_picture_is_thinned_out_further() -> None:
    picture = decode(jpeg_of(200, 8200), 416, MANY)
    assert picture.pixels.shape == (13, 513, 3)
    assert picture.scale == 1 / 16


def test_blue_comes_first() -> None:
    red = np.zeros((32, 32, 3), np.uint8)
    red[..., 0] = 255
    jpeg = simplejpeg.encode_jpeg(red, 95, "RGB", "444")
    assert decode(jpeg, 416, MANY).pixels[16, 16] == pytest.approx([0, 0, 255], abs=3)


def test_grey_becomes_three_equal_channels() -> None:
    pixels = decode(jpeg_of(64, 64, "GRAY", 1), 416, MANY).pixels
    assert pixels.shape == (64, 64, 3)
    assert (pixels[..., 0] == pixels[..., 2]).all()


def test_a_progressive_picture_is_decoded() -> None:
    picture = decode((PICTURES / "progressive.jpg").read_bytes(), 416, MANY)
    assert (picture.width, picture.height) == (240, 180)
    assert picture.pixels.std() > 20


def test_an_orientation_tag_turns_nothing() -> None:
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    plain = jpeg_of(64, 128)
    tagged = plain[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + plain[2:]
    assert (decode(tagged, 416, MANY).pixels == decode(plain, 416, MANY).pixels).all()


@pytest.mark.parametrize(
    ("jpeg", "reason"),
    [
        (b"", "not a JPEG"),
        (b"\x89PNG\r\n\x1a\n" + bytes(99), "not a JPEG"),
        (b"GIF89a" + bytes(99), "not a JPEG"),
        (b"\xff\xd8\xff\xd9", "not a JPEG"),
        (jpeg_of(64, 64)[:900], "Premature end"),
        (jpeg_of(64, 64)[:-2], "Premature end"),
        (jpeg_of(64, 64, "CMYK", 4), "CMYK"),
        (promising(jpeg_of(64, 64), 64, 64, bits=12), "precision 12"),
        (promising(jpeg_of(64, 64), 16_000, 16_000), "more than"),
        (promising(jpeg_of(64, 64), 65_535, 1), "not a JPEG"),
        (promising(jpeg_of(64, 64), 65_500, 16), "sides of"),
        (promising(jpeg_of(64, 64), 640, 1), "sides of"),
        (jpeg_of(64, 64) + b"\xff\xda" * MAX_SCANS, "scans"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_usable_picture_is_refused_with_the_reason(jpeg, reason) -> None:
    with pytest.raises(UnusablePicture, match=reason):
        decode(jpeg, 416, MANY)
