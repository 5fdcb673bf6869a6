import shutil
from pathlib import Path

import pytest

from services.ai.manifest import ManifestRefused, read_manifest
from services.ai.settings import BUNDLED


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """A copy of the bundled model, to be spoilt."""
    for suffix in (".onnx", ".toml"):
        shutil.copy(BUNDLED.with_suffix(suffix), tmp_path)
    return tmp_path / BUNDLED.name


def test_the_bundled_manifest_is_that_of_the_bundled_model() -> None:
    manifest = read_manifest(BUNDLED)
    assert (manifest.name, manifest.license) == ("yolox-nano", "Apache-2.0")
    assert (len(manifest.output.labels), manifest.output.labels[0]) == (80, "person")


def test_a_graph_that_was_changed_is_refused(graph: Path) -> None:
    with graph.open("ab") as file:
        file.write(b"\0")
    with pytest.raises(ManifestRefused, match="sha256"):
        read_manifest(graph)


@pytest.mark.parametrize(
    ("found", "put"),
    [
        ("long_side = 416", "long_side = 0"),
        ("long_side = 416", "long_side = '416'"),
        ("min_confidence = 0.45", "min_confidence = 1.5"),
        ("BGR", "RGB"),
        ("[input]", "surprise = 1\n[input]"),
        ('version = "1.0.0"', ""),
        ("[input]", "[input"),
    ],
)
def test_a_manifest_that_is_not_understood_is_refused(graph: Path, found: str, put: str) -> None:
    manifest = graph.with_suffix(".toml")
    manifest.write_text(manifest.read_text().replace(found, put, 1))
    with pytest.raises(ManifestRefused, match=r"\.toml"):
        read_manifest(graph)


def test_a_model_without_a_manifest_is_refused(graph: Path) -> None:
    graph.with_suffix(".toml").unlink()
    with pytest.raises(ManifestRefused, match="No such file"):
        read_manifest(graph)
