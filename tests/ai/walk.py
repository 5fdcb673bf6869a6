"""The bundled walk as the pictures an ingestor makes of it, and what is known to be in them."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import simplejpeg

MEDIA = Path(__file__).parents[2] / "deploy" / "local" / "media"
WIDTH, HEIGHT, CLIP_WIDTH = 640, 480, 768

Corners = tuple[float, float, float, float]


@dataclass(frozen=True)
class Known:
    label: str
    corners: Corners
    ignored: bool


@dataclass(frozen=True)
class Frame:
    jpeg: bytes
    known: list[Known]


def walk(every: int) -> list[Frame]:
    """Every n-th frame."""
    truth = json.loads((MEDIA / "vtest_12s.boxes.json").read_text())["frames"]
    frames = zip(jpegs(), truth, strict=True)
    return [Frame(jpeg, known(row)) for n, (jpeg, row) in enumerate(frames) if n % every == 0]


def jpegs() -> Iterator[bytes]:
    with av.open(str(MEDIA / "vtest_12s.mp4")) as container:
        for picture in container.decode(video=0):
            planes = picture.reformat(WIDTH, HEIGHT, format="yuvj420p").planes
            arrays = [
                np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)
                for plane in planes
            ]
            cut = [
                np.ascontiguousarray(a[:, : p.width]) for a, p in zip(arrays, planes, strict=True)
            ]
            yield simplejpeg.encode_jpeg_yuv_planes(*cut, quality=85)


def known(row: dict[str, Any]) -> list[Known]:
    scale = WIDTH / CLIP_WIDTH
    return [
        Known(
            box["label"],
            (
                box["x"] * scale,
                box["y"] * scale,
                (box["x"] + box["width"]) * scale,
                (box["y"] + box["height"]) * scale,
            ),
            box["ignore"],
        )
        for box in row["boxes"]
    ]


def iou(one: Corners, other: Corners) -> float:
    """By hand, so that it does not share a fault with the service."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(width, 0) * max(height, 0)
    areas = [(right - left) * (bottom - top) for left, top, right, bottom in (one, other)]
    return shared / (sum(areas) - shared)
