"""How much of the machine's processor is ours."""

import math
import os
from pathlib import Path

CPU_MAX = Path("/sys/fs/cgroup/cpu.max")  # docs.kernel.org/admin-guide/cgroup-v2.html


def usable_cores(cpu_max: Path = CPU_MAX) -> int:
    """As many as this process may run on, and as its container may use up: one at least."""
    there = os.cpu_count() or 1
    ours = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else there
    return max(1, min(ours, _quota(cpu_max) or ours))


def _quota(cpu_max: Path) -> int | None:
    """None where there is no bound, or none that is told."""
    try:
        share, period = cpu_max.read_text().split()
        return math.ceil(int(share) / int(period))
    except (OSError, ValueError):  # "max" is no number
        return None
