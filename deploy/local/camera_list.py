"""The file that names the simulated cameras. It holds no password, only what can check one."""

import os
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct
from typing_extensions import override

from deploy.local.camera_fault import parse_fault
from deploy.local.rtsp_auth import Scheme

Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Username = Annotated[str, Meta(pattern=r'^[^:"\\\x00-\x1f]{1,255}$')]


class CamerasUnreadable(Exception):
    """The cameras file is not what it should be; the message names the place, no value."""


class Camera(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Served at `rtsp://HOST:PORT/NAME`.

    `clip` is a path, from the cameras file if relative. `fps` plays its pictures at that rate
    instead of the clip's own. `username` and `ha1` (see `digest_ha1`) come together or not at
    all; `schemes` are the ways of proving the password that the camera offers.
    """

    name: Name
    clip: Annotated[str, Meta(min_length=1)]
    fps: Annotated[float, Meta(gt=0, le=240)] | None = None
    username: Username | None = None
    ha1: Annotated[str, Meta(pattern="^[0-9a-f]{32}$")] | None = None
    schemes: Annotated[tuple[Scheme, ...], Meta(min_length=1)] = ("digest", "basic")
    fault: str = "none"

    def __post_init__(self) -> None:
        if (self.username is None) != (self.ha1 is None):
            raise ValueError("username and ha1: expected both or neither")
        parse_fault(self.fault)

    @override
    def __repr__(self) -> str:
        return f"Camera({self.name!r})"


class _File(Struct, frozen=True, forbid_unknown_fields=True):
    cameras: list[Camera]


def read_cameras(path: Path) -> list[Camera]:
    """No file means no cameras yet. Raises CamerasUnreadable."""
    try:
        cameras = msgspec.json.decode(path.read_bytes(), type=_File).cameras
    except FileNotFoundError:
        return []
    except (OSError, msgspec.DecodeError) as error:
        raise CamerasUnreadable(f"{path}: {error}") from error
    twice = [
        name for name, count in Counter(camera.name for camera in cameras).items() if count > 1
    ]
    if twice:
        raise CamerasUnreadable(f"{path}: expected each name once, {twice[0]} is there twice")
    return cameras


def write_cameras(path: Path, cameras: Sequence[Camera]) -> None:
    """Whole or not at all, readable by its owner only."""
    data = msgspec.json.format(msgspec.json.encode(_File(list(cameras))), indent=2)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data + b"\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
