"""Pictures into JPEGs."""

import numpy as np
import pytest
import simplejpeg
from av import VideoFrame

from services.ingestor.compress import Compressor, even_size

FULL, LIMITED = 2, 1


def grey(value, width=640, height=480, form="yuv420p", colour_range=LIMITED):
    picture = VideoFrame(width, height, form)
    for plane, level in zip(picture.planes, (value, 128, 128), strict=True):
        plane.update(bytes([level]) * plane.buffer_size)
    picture.color_range = colour_range
    return picture


def shown(compressed):
    return simplejpeg.decode_jpeg(compressed.jpeg, colorspace="RGB")


@pytest.mark.parametrize("level", [16, 60, 126, 180, 235])
def test_a_grey_patch_of_limited_range_video_is_shown_as_bright_as_it_was(level):
    wanted = (level - 16) * 255 / 219
    pixels = shown(Compressor(320).compress(grey(level)))
    assert np.abs(pixels.astype(float) - wanted).max() <= 2


@pytest.mark.parametrize("level", [0, 60, 126, 255])
@pytest.mark.parametrize(("form", "colour_range"), [("yuvj420p", 0), ("yuv420p", FULL)])
def test_full_range_video_is_not_stretched(level, form, colour_range):
    pixels = shown(Compressor(320).compress(grey(level, form=form, colour_range=colour_range)))
    assert np.abs(pixels.astype(float) - level).max() <= 2


def test_the_picture_keeps_its_shape_and_is_never_blown_up():
    assert even_size(1920, 1080, 640) == (640, 360)
    assert even_size(320, 240, 640) == (320, 240)
    assert even_size(1921, 1081, None) == (1920, 1080)
    assert even_size(1080, 1920, 641) == (640, 1138)


def test_an_odd_sized_picture_is_made_even():
    compressed = Compressor(None).compress(grey(126, 641, 361))
    height, width, *_ = simplejpeg.decode_jpeg_header(compressed.jpeg)
    assert (compressed.width, compressed.height) == (width, height) == (640, 360)


def test_ten_bit_video_is_compressed_too():
    compressed = Compressor(320).compress(grey(126, form="yuv420p").reformat(format="yuv420p10le"))
    assert np.abs(shown(compressed).astype(float) - 128).max() <= 3


def test_a_cameras_jpeg_passes_through_untouched_where_its_size_is_right():
    jpeg = Compressor(None).compress(grey(126, 320, 240)).jpeg
    passed = Compressor(640).passed(jpeg)
    assert passed is not None
    assert passed.jpeg is jpeg
    assert (passed.width, passed.height) == (320, 240)


def test_a_cameras_jpeg_is_made_anew_where_it_is_too_wide_or_lacks_its_tables():
    jpeg = Compressor(None).compress(grey(126, 1280, 720)).jpeg
    assert Compressor(640).passed(jpeg) is None
    assert Compressor(None).passed(jpeg.replace(b"\xff\xc4", b"\xff\xef")) is None


def test_bytes_that_are_no_jpeg_are_refused():
    with pytest.raises(ValueError):
        Compressor(640).passed(b"\x00" * 100)
