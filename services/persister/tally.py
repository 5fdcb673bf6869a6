"""Batch after batch -> a line a second at most."""

import time

import structlog

log = structlog.get_logger()

REPORTED_EVERY_S = 1.0


class Tally:
    """What a lane stored since it was last said."""

    def __init__(self) -> None:
        self._batches = self._messages = self._refused = 0
        self._report_from = 0.0

    def add(self, messages: int, refused: int) -> None:
        self._batches += 1
        self._messages += messages
        self._refused += refused

    def report(self, lane: str, *, at_once: bool = False) -> None:
        if not self._batches or not (at_once or time.monotonic() >= self._report_from):
            return
        log.info(
            "batches.stored",
            lane=lane,
            batches=self._batches,
            messages=self._messages,
            refused=self._refused,
        )
        self._batches = self._messages = self._refused = 0
        self._report_from = time.monotonic() + REPORTED_EVERY_S
