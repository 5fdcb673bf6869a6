"""One line a second, in all, of the messages that libraries repeat while the broker is away."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from typing_extensions import override

LIBRARIES = ("aiokafka", "faust", "kafka", "librdkafka", "mode")
REPEATING = (*LIBRARIES, "uvicorn")  # a line for each connection that speaks no HTTP
INTERVAL_S = 1.0
MOST_KEPT = 1000


@dataclass(slots=True)
class _Kept:
    since: float
    left_out: int = 0


class OncePerSecond(logging.Filter):
    """A message that is new is written at once. Of those that are repeated one is, each second; it
    says how many like it were left out.

    A message is told by its logger and its text before anything is filled in, without digits: what
    differs only in a node's or partition's number is the same.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._kept: dict[tuple[str, str], _Kept] = {}
        self._repeated_at = -INTERVAL_S

    @override
    def filter(self, record: logging.LogRecord) -> bool:
        if not record.name.startswith(REPEATING):
            return True
        now = self._clock()
        text = "".join(c for c in str(record.msg)[:80] if not c.isdigit())
        kept = self._kept.get((record.name, text))
        if kept is not None:
            if now - max(kept.since, self._repeated_at) < INTERVAL_S:
                kept.left_out += 1
                return False
            self._repeated_at = now
        if kept is not None and kept.left_out:
            record.msg = f"{record.msg} (and {kept.left_out} more like it)"
        self._keep((record.name, text), now)
        return True

    def _keep(self, key: tuple[str, str], now: float) -> None:
        if len(self._kept) >= MOST_KEPT:
            self._kept.clear()
        self._kept[key] = _Kept(now)
