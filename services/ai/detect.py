"""The pipeline: one JPEG -> the boxes of one model."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from services.ai.boxes import FIRST_CLASS, Boxes, candidates, restore, suppress
from services.ai.decode import decode
from services.ai.letterbox import letterbox
from services.ai.manifest import Manifest, ManifestRefused, read_manifest
from services.ai.model import Model, ModelRefused, Provider

__all__ = ["Detector", "ManifestRefused", "ModelRefused", "Sighting"]


@dataclass(frozen=True)
class Sighting:
    """Boxes in pixels of the picture sent, whose size this is."""

    boxes: Boxes
    width: int
    height: int


class Detector:
    """A model and its manifest, which agree. `detect` may be called by any thread."""

    def __init__(self, manifest: Manifest, model: Model, max_pixels: int) -> None:
        self.manifest = manifest
        self.model = model
        self._max_pixels = max_pixels
        agree(manifest, model)

    @classmethod
    def load(cls, graph: Path, provider: Provider, threads: int, max_pixels: int) -> "Detector":
        """ManifestRefused or ModelRefused before anything is served; the first run is behind us."""
        detector = cls(read_manifest(graph), Model(graph, provider, threads), max_pixels)
        side = rounded(detector.manifest.input.long_side, detector.manifest.input.multiple)
        detector.model.run(np.zeros((side, side, 3), np.uint8))
        return detector

    def detect(self, jpeg: bytes, min_confidence: float | None = None) -> Sighting:
        """UnusablePicture (a ValueError of `decode`) if it is no JPEG that can be decoded."""
        takes, gives, defaults = self.manifest.input, self.manifest.output, self.manifest.defaults
        threshold = defaults.min_confidence if min_confidence is None else min_confidence
        picture = decode(jpeg, takes.long_side, self._max_pixels)
        canvas = letterbox(picture.pixels, takes.multiple, takes.pad_value)
        output = self.model.run(canvas)
        found = candidates(output, (canvas.shape[0], canvas.shape[1]), gives.strides, threshold)
        boxes = suppress(found, defaults.nms_iou, defaults.max_detections)
        size = picture.width, picture.height
        return Sighting(restore(boxes, picture.scale, size), *size)


def rounded(side: int, multiple: int) -> int:
    return side // multiple * multiple or multiple


def agree(manifest: Manifest, model: Model) -> None:
    """The graph proposes, the manifest decides; where they differ nothing is guessed."""
    values = FIRST_CLASS + len(manifest.output.labels)
    takes = (manifest.input.name, "tensor(float)", (3,))
    if (model.input.name, model.input.kind, model.input.shape[1:2]) != takes:
        raise ModelRefused(f"the input {model.input} is not the manifest's {manifest.input}")
    if (model.output.name, model.output.shape[-1]) != (manifest.output.name, values):
        raise ModelRefused(f"the output {model.output} is not {values} values for each anchor")
