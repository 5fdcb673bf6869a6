"""What a model's graph means: the TOML file beside it. The graph proposes, this decides."""

import hashlib
import tomllib
from pathlib import Path
from typing import Annotated, Literal

import msgspec

Unit = Annotated[float, msgspec.Meta(ge=0, le=1)]
Positive = Annotated[int, msgspec.Meta(ge=1)]
Byte = Annotated[int, msgspec.Meta(ge=0, le=255)]


class ManifestRefused(ValueError):
    """The manifest is missing or wrong, or it is not the one of this graph."""


class Fact(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One table of the file; a name this version does not know is an error."""


class Input(Fact, frozen=True):
    name: str
    layout: Literal["float32 NCHW BGR 0..255"]
    long_side: Positive
    multiple: Positive
    pad_value: Byte


class Output(Fact, frozen=True):
    name: str
    layout: Literal["yolox"]
    strides: tuple[Positive, ...]
    labels: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]


class Defaults(Fact, frozen=True):
    min_confidence: Unit
    nms_iou: Unit
    max_detections: Positive


class Manifest(Fact, frozen=True):
    name: Annotated[str, msgspec.Meta(pattern="^[a-z0-9][a-z0-9._-]{0,62}$")]
    version: str
    license: str
    copyright: str
    source: str
    digest: Annotated[str, msgspec.Meta(pattern="^sha256:[0-9a-f]{64}$")]
    input: Input
    output: Output
    defaults: Defaults


def read_manifest(graph: Path) -> Manifest:
    """The manifest beside `graph` (same name, `.toml`), after the graph's digest is checked."""
    try:
        text = graph.with_suffix(".toml").read_text(encoding="utf-8")
        manifest = msgspec.convert(tomllib.loads(text), Manifest)
        with graph.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ManifestRefused(f"{error.filename}: {error.strerror}") from error
    except (ValueError, msgspec.ValidationError) as error:
        raise ManifestRefused(f"{graph.with_suffix('.toml').name}: {error}") from error
    if manifest.digest != f"sha256:{found}":
        raise ManifestRefused(f"{graph.name} has sha256 {found}, its manifest names another")
    return manifest
