"""The simulated cameras of a stack: one process for all, and the list it serves."""

import itertools
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import av
from msgspec.structs import replace

from deploy.local.camera import Camera, read_cameras, write_cameras
from deploy.local.child import Command, Warden
from deploy.local.environment import minimal_environment
from deploy.local.files import changing
from deploy.local.ports import answers

BUNDLED = Path(__file__).parent / "media"
CLIP = "vtest_12s.mp4"


class NoSuchCamera(RuntimeError):
    """No simulated camera of that name."""


@dataclass(frozen=True)
class CameraProcess:
    """`python -m deploy.local.camera`: it follows the list by itself."""

    cameras_file: Path
    port: int
    log: Path
    name: str = "cameras"

    def prepare(self, warden: Warden) -> None:
        """Nothing: no list is an empty list."""

    def command(self) -> Command:
        options = ("--port", str(self.port), "--cameras", str(self.cameras_file))
        return Command(
            argv=(sys.executable, "-m", "deploy.local.camera", *options),
            environment=minimal_environment(),
            folder=self.cameras_file.parent,
            log=self.log,
        )

    def is_ready(self) -> bool:
        return answers(self.port)


def put_cameras(file: Path, cameras: list[Camera]) -> None:
    """On the list, in place of any of the same names."""
    names = {camera.name for camera in cameras}
    with changing(file):
        others = [camera for camera in read_cameras(file) if camera.name not in names]
        write_cameras(file, [*others, *cameras])


def add_cameras(file: Path, count: int, like: Camera) -> list[str]:
    """So many more of them; their names are the next `camN` that nobody has."""
    with changing(file):
        cameras = read_cameras(file)
        names = _free_names({camera.name for camera in cameras}, count)
        write_cameras(file, [*cameras, *(replace(like, name=name) for name in names)])
    return names


def _free_names(taken: set[str], count: int) -> list[str]:
    numbered = (f"cam{number}" for number in itertools.count(1))
    return list(itertools.islice((name for name in numbered if name not in taken), count))


def set_fault(file: Path, name: str, fault: str) -> None:
    """Raises NoSuchCamera, and ValueError for a fault that is none."""
    with changing(file):
        cameras = read_cameras(file)
        if name not in {camera.name for camera in cameras}:
            raise NoSuchCamera(f"no camera {name} in {file}")
        changed = [
            replace(camera, fault=fault) if camera.name == name else camera for camera in cameras
        ]
        write_cameras(file, changed)


def described_cameras(file: Path, port: int) -> list[dict[str, Any]]:
    """The cameras as `stack.json` shows them; a password is nowhere known."""
    return [
        {
            "name": camera.name,
            "url": f"rtsp://127.0.0.1:{port}/{camera.name}",
            "username": camera.username,
            "clip": str(file.parent / camera.clip),
            "fps": camera.fps or clip_fps(file.parent / camera.clip),
        }
        for camera in read_cameras(file)
    ]


@cache
def clip_fps(clip: Path) -> float | None:
    """Pictures a second as the clip itself says; None where it can't be read."""
    try:
        with av.open(clip) as container:
            rate = container.streams.video[0].average_rate
    except (OSError, av.FFmpegError, IndexError):
        return None
    return float(rate) if rate else None
