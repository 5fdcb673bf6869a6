from pathlib import Path

import msgspec
import numpy as np
import pytest

from services.ai.detect import Detector
from services.ai.manifest import read_manifest
from services.ai.model import CPU, CUDA, Model, ModelRefused, providers
from services.ai.settings import BUNDLED


@pytest.mark.parametrize(
    ("wanted", "available", "asked"),
    [
        ("auto", [CPU], [CPU]),
        ("auto", [CUDA, CPU], [CUDA, CPU]),
        ("cpu", [CUDA, CPU], [CPU]),
        ("cuda", [CUDA, CPU], [CUDA, CPU]),
    ],
)
def test_cuda_is_used_where_it_is_there_and_not_forbidden(wanted, available, asked) -> None:
    assert providers(wanted, available) == asked


def test_cuda_that_is_not_there_is_not_replaced_in_silence() -> None:
    with pytest.raises(ModelRefused, match="no CUDA"):
        providers("cuda", [CPU])


def test_a_canvas_gives_a_row_for_each_cell(detector: Detector) -> None:
    output = detector.model.run(np.zeros((320, 416, 3), np.uint8))
    assert output.shape == (40 * 52 + 20 * 26 + 10 * 13, 85)


def test_what_is_no_graph_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(b"not a graph")
    with pytest.raises(ModelRefused, match=r"x\.onnx"):
        Model(tmp_path / "x.onnx", "cpu", 1)


def test_a_manifest_that_contradicts_its_graph_is_refused(detector: Detector) -> None:
    manifest = read_manifest(BUNDLED)
    fewer = msgspec.structs.replace(manifest.output, labels=manifest.output.labels[:79])
    with pytest.raises(ModelRefused, match="84 values"):
        Detector(msgspec.structs.replace(manifest, output=fewer), detector.model, 2**25)
    renamed = msgspec.structs.replace(manifest.input, name="pixels")
    with pytest.raises(ModelRefused, match="input"):
        Detector(msgspec.structs.replace(manifest, input=renamed), detector.model, 2**25)
