"""Logs that stay bounded: one older part of each is kept beside it as `NAME.log.1`."""

import shutil
from pathlib import Path

LARGEST_BYTES = 16 * 1024 * 1024


def rotate(log: Path, largest_bytes: int = LARGEST_BYTES) -> bool:
    """Move a large log's content aside and go on with an empty one; whether that was done.

    Its writer keeps the file open for appending, so the content is copied and the file cut. What
    is written between the two is lost: a few lines in many megabytes.
    """
    if not log.exists() or log.stat().st_size <= largest_bytes:
        return False
    shutil.copyfile(log, log.with_name(f"{log.name}.1"))
    with log.open("r+b") as file:
        file.truncate(0)
    return True
