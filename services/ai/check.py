"""`check MODEL.onnx --image X --out Y`: a user's model and manifest, tried on one picture."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import simplejpeg

from services.ai.app import answer
from services.ai.decode import UnusablePicture
from services.ai.detect import Detector, ManifestRefused, ModelRefused, Sighting
from services.ai.draw import draw

MAX_PIXELS = 2**25


def check(arguments: Sequence[str]) -> int:
    """Writes the picture with its boxes, prints the service's own answer. 0; or 1, and why."""
    asked = parsed(arguments)
    try:
        detector = Detector.load(asked.model, "cpu", 1, MAX_PIXELS)
        jpeg = asked.image.read_bytes()
        sighting = detector.detect(jpeg, asked.min_confidence)
        asked.out.write_bytes(drawn(jpeg, sighting))
    except (ManifestRefused, ModelRefused, UnusablePicture, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    body = answer(detector, sighting).model_dump(by_alias=True)
    sys.stdout.write(json.dumps(body, indent=1) + "\n")
    return 0


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m services.ai check")
    parser.add_argument("model", type=Path, help="an .onnx file with its manifest beside it")
    parser.add_argument("--image", type=Path, required=True, help="a JPEG")
    parser.add_argument("--out", type=Path, required=True, help="the JPEG to write, with boxes")
    parser.add_argument("--min-confidence", type=float, help="0 to 1; default the manifest's")
    return parser.parse_args(arguments)


def drawn(jpeg: bytes, sighting: Sighting) -> bytes:
    pixels = simplejpeg.decode_jpeg(jpeg, colorspace="BGR")
    corners = sighting.boxes.corners.round().astype(int).tolist()
    encoded: bytes = simplejpeg.encode_jpeg(draw(pixels, corners), 90, "BGR")
    return encoded
