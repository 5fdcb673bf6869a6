"""A decoded picture, or a camera's own JPEG, into the JPEG that is published."""

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import simplejpeg
from av import VideoFrame
from av.video.plane import VideoPlane
from av.video.reformatter import VideoReformatter

QUALITY = 85
FULL_RANGE = 2  # AVCOL_RANGE_JPEG
HUFFMAN_TABLES = b"\xff\xc4"  # DHT: cameras may leave them out, decoders of JPEG files may not

# Video is limited range, 16..235 and 16..240; JPEG is full range (BT.601, JFIF).
LUMA = np.clip(np.rint((np.arange(256) - 16) * 255 / 219), 0, 255).astype(np.uint8)
CHROMA = np.clip(np.rint((np.arange(256) - 128) * 255 / 224 + 128), 0, 255).astype(np.uint8)

Plane = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Compressed:
    """A JPEG and its size in pixels."""

    jpeg: bytes
    width: int
    height: int


class Compressor:
    """Scales down to the wanted width, never up; keeps one scaler for all pictures."""

    def __init__(self, frame_width: int | None) -> None:
        self._frame_width = frame_width
        self._scaler = VideoReformatter()

    def compress(self, picture: VideoFrame) -> Compressed:
        """YUV planes go straight into the JPEG, stretched to full range where they are not."""
        full = is_full_range(picture)
        width, height = even_size(picture.width, picture.height, self._frame_width)
        # The same range on both sides, so that the scaler scales only: a table costs less.
        scaled = self._scaler.reformat(
            picture, width=width, height=height, format="yuvj420p" if full else "yuv420p"
        )
        planes = [plane(scaled.planes[0], width, height)]
        planes += [plane(each, width // 2, height // 2) for each in scaled.planes[1:3]]
        if not full:
            planes = [LUMA[planes[0]], CHROMA[planes[1]], CHROMA[planes[2]]]
        jpeg = simplejpeg.encode_jpeg_yuv_planes(*planes, quality=QUALITY)
        return Compressed(cast(bytes, jpeg), width, height)

    def passed(self, jpeg: bytes) -> Compressed | None:
        """A camera's JPEG as it is, or None where it must be made anew.

        Raises ValueError where it is none.
        """
        height, width, *_ = simplejpeg.decode_jpeg_header(jpeg)
        if self._frame_width is not None and width > self._frame_width:
            return None
        if HUFFMAN_TABLES not in jpeg[:4096]:
            return None
        return Compressed(jpeg, width, height)


def is_full_range(picture: VideoFrame) -> bool:
    return picture.color_range == FULL_RANGE or picture.format.name.startswith("yuvj")


def even_size(width: int, height: int, frame_width: int | None) -> tuple[int, int]:
    """The picture's size at the wanted width; even, since chroma has half of each."""
    even = max(2, min(width, frame_width or width) // 2 * 2)
    return even, max(2, round(height * even / width / 2) * 2)


def plane(source: VideoPlane, width: int, height: int) -> Plane:
    """The pixels without their padding, not copied."""
    rows: npt.NDArray[Any] = np.frombuffer(memoryview(source), np.uint8).reshape(
        -1, source.line_size
    )
    return np.ascontiguousarray(rows[:height, :width])
