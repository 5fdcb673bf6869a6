"""Named points at which a test makes a process die as `kill -9` would.

`SIGHTLOG_CRASH_AT=POINT[:n]` sends SIGKILL to the process itself the n-th time it gets there. The
points are listed with the interfaces; nothing happens without the variable.
"""

import os
import signal
from itertools import count


def _armed(setting: str) -> tuple[str, int]:
    point, _, times = setting.partition(":")
    return point, int(times or 1)


_POINT, _TIMES = _armed(os.environ.get("SIGHTLOG_CRASH_AT", ""))  # noqa: TID251 -- tests only
_passes = count(1)


def crash_point(name: str) -> None:
    """The n-th call with the armed name does not return."""
    if name == _POINT and next(_passes) == _TIMES:
        os.kill(os.getpid(), signal.SIGKILL)
