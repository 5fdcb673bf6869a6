import numpy
import pytest
import simplejpeg
from hypothesis import given
from hypothesis import strategies as st

from services.detector.jpeg import NotAJPEG, size_of
from tests.detector.fake_ai import a_jpeg


@pytest.mark.parametrize("colorspace", ["GRAY", "RGB"])
def test_the_size_of_a_real_jpeg_is_read_from_its_header(colorspace):
    channels = 1 if colorspace == "GRAY" else 3
    picture = numpy.zeros((360, 640, channels), numpy.uint8)
    assert size_of(simplejpeg.encode_jpeg(picture, colorspace=colorspace)) == (640, 360)


@pytest.mark.parametrize(
    "jpeg",
    [
        b"",
        b"\xff\xd8",
        b"\xff\xd8\xff\xd9",
        b"\xff\xd8\x00\x00",
        b"\xff\xd8\xff\xe0\x00\x00",
        b"\xff\xd8\xff\xe0\x00\x01",
        b"\xff\xd8" + b"\xff\xd0" * 1000,
        b"\xff\xd8" + b"\xff" * 1000,
        b"\xff\xd8\xff\xc0\x00\x11\x08\x01",
        b"\x89PNG\r\n\x1a\n",
        a_jpeg("x", width=0),
    ],
)
def test_what_is_no_jpeg_is_told_from_one(jpeg):
    with pytest.raises(NotAJPEG):
        size_of(jpeg)


@given(st.binary(max_size=300))
def test_any_bytes_are_either_of_some_size_or_no_jpeg(junk):
    try:
        width, height = size_of(b"\xff\xd8\xff" + junk)
    except NotAJPEG:
        return
    assert width > 0
    assert height > 0
