"""Camera processes that outlived their ingestor: found by a later one, and ended.

A camera ends with its link, and by the kernel with its fork server. One hole is left: where the
fork server itself is stopped (by a debugger, by a frozen control group) while its ingestor dies,
its cameras keep their connections, of which many a camera allows one or two.

All processes of an ingestor carry a mark in their environment, that names the installation and the
ingestor by its process id and start. Looked for in /proc, so on Linux only; elsewhere cameras end
with their link, at the latest once they can run.
"""

import hashlib
import os
import re
import signal
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import structlog

log = structlog.get_logger()

MARK = "SIGHTLOG_CAMERAS_OF"
MADE = re.compile(r"(?P<digest>[0-9a-f]{16})\.(?P<pid>[0-9]{1,9})\.(?P<started>[0-9]+)")
PROC = Path("/proc")
STATE, STARTED = 0, 19  # of /proc/PID/stat, behind the name: fields 3 and 22 of proc_pid_stat(5)


def mark(installation: Sequence[str]) -> None:
    """From now on, processes that are started have our name in their environment."""
    made = mark_of(installation, os.getpid())
    os.environ[MARK] = made  # noqa: TID251 -- no setting: it is for ingestors to come


def mark_of(installation: Sequence[str], owner: int) -> str:
    return f"{_digest(installation)}.{owner}.{_started(owner)}"


def end_orphans(installation: Sequence[str]) -> int:
    """How many there were: of this installation, our own user and our own process namespace, and
    of an ingestor that lives no more."""
    handles = [handle for pid, mark in _orphans(installation) for handle in _handles(pid, mark)]
    for handle in handles:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(handle, signal.SIGKILL)
        os.close(handle)
    if handles:
        log.warning("orphans.killed", count=len(handles))
    return len(handles)


def _digest(installation: Sequence[str]) -> str:
    return hashlib.sha256("\0".join(installation).encode()).hexdigest()[:16]


def _orphans(installation: Sequence[str]) -> Iterator[tuple[int, str]]:
    digest = _digest(installation)
    for folder in PROC.glob("[0-9]*"):
        made = MADE.fullmatch(_mark_on(folder))
        if made is None or made["digest"] != digest or not _is_near(folder):
            continue
        if _started(int(made["pid"])) != made["started"]:
            yield int(folder.name), made[0]


def _mark_on(folder: Path) -> str:
    """Empty also where we may not look."""
    with suppress(OSError):
        for entry in (folder / "environ").read_bytes().split(b"\0"):
            name, _, value = entry.partition(b"=")
            if name == MARK.encode():
                return value.decode(errors="replace")
    return ""


def _is_near(folder: Path) -> bool:
    """In another namespace, another process has the number that the mark names."""
    with suppress(OSError):
        is_ours = folder.stat().st_uid == os.getuid()
        return is_ours and (folder / "ns/pid").readlink() == (PROC / "self/ns/pid").readlink()
    return False


def _started(pid: int) -> str:
    """In the kernel's ticks: who had this number before has another. Empty: nobody has it."""
    try:
        fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[STATE] == "Z" else fields[STARTED]


def _handles(pid: int, mark: str) -> Iterator[int]:
    """None or one, that is of the process with this mark, whoever gets its number."""
    try:
        handle = os.pidfd_open(pid)
    except OSError:
        return
    if _mark_on(PROC / str(pid)) == mark:
        yield handle
    else:
        os.close(handle)
