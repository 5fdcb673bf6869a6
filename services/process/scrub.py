"""Secrets out of the environment that this process was started with.

`/proc/PID/environ` shows the block of memory that the kernel filled at the start, whatever was
taken out of `os.environ` since. So the values are overwritten there, too. Between the start and
this they could be seen, as by `docker inspect`: a file is the better place.
"""

import ctypes
import os
from collections.abc import Collection, MutableMapping
from pathlib import Path

BEGIN, END = 49, 50  # of /proc/self/stat's fields, from 0


def scrub(names: Collection[str], environment: MutableMapping[str, str]) -> None:
    """What is not there is no error, nor is a system without /proc."""
    for name in names:
        environment.pop(name, None)
    _overwrite({os.fsencode(name) for name in names})


def _overwrite(names: Collection[bytes]) -> None:
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return
    begin, end = int(fields[BEGIN - 2]), int(fields[END - 2])  # behind the name, which is field 1
    at = begin
    for entry in ctypes.string_at(begin, end - begin).split(b"\0"):
        name, _, value = entry.partition(b"=")
        if name in names:
            ctypes.memset(at + len(name) + 1, 0, len(value))
        at += len(entry) + 1
