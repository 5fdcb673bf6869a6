"""What the whole stands on goes away for a while, and what is seen meanwhile."""

import ctypes
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil
from websockets.sync.client import connect

from deploy.local import commands
from deploy.local.place import Place
from tests.pipeline.seen import Backlog
from tests.stack import RunningStack, eventually

TIMEOUT_S = 60.0
ASK_EVERY_S = 0.25
MNT_DETACH = 2

Outage = Callable[[RunningStack, str], AbstractContextManager[None]]
"""Within it, a part is away."""


@contextmanager
def killed(stack: RunningStack, part: str) -> Iterator[None]:
    """A part, by SIGKILL."""
    place = Place(stack.folder)
    try:
        assert commands.hold(place, part, "KILL", TIMEOUT_S) == 0
        yield
    finally:
        assert commands.release(place, part, TIMEOUT_S) == 0


@contextmanager
def silent(stack: RunningStack, part: str) -> Iterator[None]:
    """A part that takes connections and answers nothing."""
    process = psutil.Process(stack.part(part)["pid"])
    family = [process, *process.children(recursive=True)]
    for member in family:
        with suppress(psutil.NoSuchProcess):
            member.suspend()
    try:
        yield
    finally:
        for member in family:
            with suppress(psutil.NoSuchProcess):
                member.resume()


@contextmanager
def unwritable(stack: RunningStack) -> Iterator[None]:
    """The folder of pictures: root may write wherever there is a folder, so there is none."""
    folder = Path(stack["storagePath"])
    away = folder.with_name("frames.away")
    folder.rename(away)
    folder.write_text("no folder")
    try:
        yield
    finally:
        folder.unlink()
        away.rename(folder)


@contextmanager
def full(stack: RunningStack) -> Iterator[None]:
    """The disk of pictures. Raises PermissionError where this process may not mount one.

    A small disk is mounted on the folder and stays there until `unmount`.
    """
    folder = Path(stack["storagePath"])
    mount(folder, "size=1m")
    try:
        fill(folder / "filler")
        yield
        (folder / "filler").unlink()
        mount(folder, "remount,size=500m")
    except BaseException:
        unmount(folder)
        raise


def mount(folder: Path, options: str) -> None:
    words = options.split(",")
    flags = 32 if "remount" in words else 0
    data = ",".join(word for word in words if word != "remount")
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"tmpfs", bytes(folder), b"tmpfs", flags, data.encode()):
        raise PermissionError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def unmount(folder: Path) -> None:
    ctypes.CDLL(None).umount2(bytes(folder), MNT_DETACH)


def fill(file: Path) -> None:
    with suppress(OSError), file.open("wb", buffering=0) as filler:
        while True:
            filler.write(b"\0" * 4096)


@dataclass
class Answers:
    """Of a route, asked again and again."""

    statuses: list[int] = field(default_factory=list)  # 0: no answer
    seconds: list[float] = field(default_factory=list)
    retry_after: list[str | None] = field(default_factory=list)


class Asking:
    """One thread that asks a route in turn with its siblings, until it is ended."""

    def __init__(self, url: str) -> None:
        self.answers = Answers()
        self._url = url
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self._thread.start()

    def end(self) -> Answers:
        self._ended.set()
        self._thread.join()
        return self.answers

    def _ask(self) -> None:
        with httpx.Client(timeout=20) as client:
            while not self._ended.wait(ASK_EVERY_S):
                begun = time.monotonic()
                try:
                    answer = client.get(self._url)
                except httpx.TransportError:
                    self.answers.statuses.append(0)
                    continue
                self.answers.statuses.append(answer.status_code)
                self.answers.seconds.append(time.monotonic() - begun)
                self.answers.retry_after.append(answer.headers.get("Retry-After"))


@contextmanager
def listening(url: str) -> Iterator[list[str]]:
    """The names of the events that a subscriber hears."""
    heard: list[str] = []
    with connect(f"{url}?snapshot=false") as socket:
        thread = threading.Thread(
            target=lambda: heard.extend(json.loads(text)["event"] for text in socket)
        )
        thread.start()
        try:
            yield heard
        finally:
            socket.close()
            thread.join(5)


def drain(backlog: Backlog, stored: int, begun: float) -> tuple[float, float]:
    """Waits until the persister is level; returns the seconds and the records a second of it.
    `stored` and `begun` are of the end of the outage: it is at work since."""
    assert eventually(lambda: backlog.waiting() <= 1, TIMEOUT_S), backlog.waiting()
    seconds = time.monotonic() - begun
    return seconds, (backlog.stored() - stored) / seconds


def whole_pictures(stack: RunningStack) -> int:
    """How many pictures lie there; each must be a whole JPEG, and nothing else may stay there."""
    folder = Path(stack["storagePath"])

    def strays() -> list[str]:
        """What is being written lies beside the pictures until it is whole."""
        files = (file for file in folder.rglob("*") if file.is_file())
        return [file.name for file in files if file.suffix != ".jpg"]

    assert eventually(lambda: not strays(), 10), f"left behind: {strays()}"
    files = list(folder.rglob("*.jpg"))
    for file in files:
        picture = file.read_bytes()
        assert picture.startswith(b"\xff\xd8"), file.name
        assert picture.endswith(b"\xff\xd9"), file.name
    return len(files)
