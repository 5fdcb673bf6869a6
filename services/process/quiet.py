"""One line a second of each message that libraries repeat while the broker is away."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from typing_extensions import override

LIBRARIES = ("aiokafka", "faust", "kafka", "librdkafka", "mode")
INTERVAL_S = 1.0
MOST_KEPT = 1000


@dataclass(slots=True)
class _Kept:
    since: float
    left_out: int = 0


class OncePerSecond(logging.Filter):
    """The line that follows a silence says how many were left out.

    A message is told by its logger and its text before anything is filled in, without digits: what
    differs only in a node's or partition's number is the same.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._kept: dict[tuple[str, str], _Kept] = {}

    @override
    def filter(self, record: logging.LogRecord) -> bool:
        if not record.name.startswith(LIBRARIES):
            return True
        now = self._clock()
        text = "".join(c for c in str(record.msg)[:80] if not c.isdigit())
        kept = self._kept.get((record.name, text))
        if kept is not None and now - kept.since < INTERVAL_S:
            kept.left_out += 1
            return False
        if kept is not None and kept.left_out:
            record.msg = f"{record.msg} (and {kept.left_out} more like it)"
        self._keep((record.name, text), now)
        return True

    def _keep(self, key: tuple[str, str], now: float) -> None:
        if len(self._kept) >= MOST_KEPT:
            self._kept.clear()
        self._kept[key] = _Kept(now)
