"""A program that outlives its starter just long enough to end what that one started.

Run by path, with the standard library alone. It reads lines from the pipe on stdin: `+PID SIGNAL`
from each child before it becomes its program, `-PID` from the starter once that child is reaped.
The pipe ends when the starter has died, however it died: then every process group still noted gets
its signal, and SIGKILL two seconds later. This works on every Unix; PR_SET_PDEATHSIG is Linux only,
and is lost when a process changes its user.
"""

import os
import signal
import sys
import time
from pathlib import Path

GRACE_S = 2.0


def main() -> None:
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    groups: dict[int, int] = {}
    for line in sys.stdin:
        note(groups, line.split())
    for group, number in groups.items():
        send(group, number)
    deadline = time.monotonic() + GRACE_S
    while any(is_alive(group) for group in groups) and time.monotonic() < deadline:
        time.sleep(0.02)
    for group in groups:
        send(group, signal.SIGKILL)


def note(groups: dict[int, int], words: list[str]) -> None:
    group = int(words[0][1:])
    if words[0].startswith("+"):
        groups[group] = int(words[1])
    else:
        groups.pop(group, None)


def is_alive(leader: int) -> bool:
    """A zombie that waits for its new parent's attention is not."""
    try:
        state = Path(f"/proc/{leader}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):  # gone, or a system without /proc
        return send(leader, 0)
    return state != "Z"


def send(group: int, number: int) -> bool:
    """False when nobody is left in the group."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    except PermissionError:  # macOS says so of a group of zombies
        return False
    return True


if __name__ == "__main__":
    main()
