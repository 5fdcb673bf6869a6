"""Where everything of one stack lies, and who runs it."""

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import psutil

from deploy.local.files import changing, write_whole

POLL_S = 0.02
WARDEN_S = 5.0  # a killed supervisor's warden needs two

Described = dict[str, Any]  # stack.json, as INTERFACES.md fixes it


class NoStack(RuntimeError):
    """Nobody runs a stack in this folder."""


class NotDescribed(NoStack):
    """Somebody starts a stack in this folder, which is not ready yet."""


class AlreadyRunning(RuntimeError):
    """Somebody runs a stack in this folder."""


@dataclass(frozen=True)
class Place:
    """The data folder of a stack."""

    folder: Path

    @property
    def stack_file(self) -> Path:
        return self.folder / "stack.json"

    @property
    def _lock_file(self) -> Path:
        return self.folder / "supervisor.lock"

    @property
    def scale_file(self) -> Path:
        return self.folder / "scale.json"

    @property
    def holds_file(self) -> Path:
        return self.folder / "holds.json"

    @property
    def ports_file(self) -> Path:
        return self.folder / "ports.json"

    @property
    def cameras_file(self) -> Path:
        return self.folder / "cameras.json"

    @property
    def secrets(self) -> Path:
        return self.folder / "secrets"

    @property
    def media(self) -> Path:
        return self.folder / "media"

    @property
    def frames(self) -> Path:
        return self.folder / "storage" / "frames"

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    def log(self, name: str) -> Path:
        return self.logs / f"{name}.log"

    def make_folders(self) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for folder in (self.media, self.frames, self.logs):
            folder.mkdir(parents=True, exist_ok=True)
        self.secrets.mkdir(mode=0o700, exist_ok=True)

    @contextmanager
    def owned(self) -> Iterator[int]:
        """Makes this process the one that runs the stack; raises AlreadyRunning.

        Yields the lock, to be held by the warden as well: so it ends when the stack's last process
        has ended, however that was, and no stale note can keep a stack away.
        """
        with self._lock_file.open("a+") as file:
            deadline = time.monotonic() + WARDEN_S
            while not locked(file, fcntl.LOCK_EX):
                if is_alive(self._noted_pid()) or time.monotonic() > deadline:
                    raise AlreadyRunning(f"a stack runs in {self.folder} already")
                time.sleep(POLL_S)
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            yield file.fileno()

    def supervisor(self) -> int:
        """The process id of the one that runs the stack. Raises NoStack."""
        if self._lock_file.exists():
            with self._lock_file.open() as file:
                if not locked(file, fcntl.LOCK_SH) and is_alive(pid := self._noted_pid()):
                    return pid
        raise NoStack(f"no stack runs in {self.folder}")

    def _noted_pid(self) -> int:
        """Who holds the lock writes its number a moment later."""
        while not (text := self._lock_file.read_text()):
            time.sleep(POLL_S)
        return int(text)

    def described(self) -> Described:
        """`stack.json`. Raises NotDescribed where it is not ready yet."""
        try:
            described: Described = json.loads(self.stack_file.read_text())
        except FileNotFoundError:
            raise NotDescribed(f"the stack in {self.folder} is not ready yet") from None
        return described

    def scale(self) -> dict[str, int]:
        """How many replicas of which service are wanted; one of each where nothing is said."""
        if not self.scale_file.exists():
            return {}
        wanted: dict[str, int] = json.loads(self.scale_file.read_text())
        return wanted

    def want(self, scale: dict[str, int]) -> None:
        """Ask whoever runs the stack for so many replicas, the others as before."""
        with changing(self.scale_file):
            self.want_only(self.scale() | scale)

    def want_only(self, scale: dict[str, int]) -> None:
        """So many replicas, and one of each service that is not named."""
        write_whole(self.scale_file, json.dumps(scale))

    def holds(self) -> dict[str, str]:
        """Which processes are to stay away, and how each is ended: `KILL`, or asked to: `TERM`."""
        if not self.holds_file.exists():
            return {}
        holds: dict[str, str] = json.loads(self.holds_file.read_text())
        return holds

    def hold(self, name: str, how: str) -> None:
        """Ask whoever runs the stack to end this one and keep it away, the others as before."""
        with changing(self.holds_file):
            write_whole(self.holds_file, json.dumps(self.holds() | {name: how}))

    def release(self, name: str) -> None:
        """Ask for it back; harmless where it is not held."""
        with changing(self.holds_file):
            held = {other: how for other, how in self.holds().items() if other != name}
            write_whole(self.holds_file, json.dumps(held))


def locked(file: IO[str], kind: int) -> bool:
    """Whether the lock could be had at once."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_alive(pid: int) -> bool:
    return psutil.pid_exists(pid)
