"""Files that a reader sees whole or not at all, and that two writers change in turn."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_whole(path: Path, text: str, mode: int = 0o600) -> None:
    """Replace the file in one step; it never exists with wider permissions than `mode`."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.unlink(missing_ok=True)
    with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as file:
        file.write(text)
    beside.replace(path)


@contextmanager
def changing(path: Path) -> Iterator[None]:
    """For who reads the file and writes what follows from it: one at a time, in whatever process,
    so that neither undoes what the other did."""
    with path.with_name(f".{path.name}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
