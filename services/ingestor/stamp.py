"""When a picture was taken: our UTC, anchored on arrival, with the camera's own spacing."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from schemas.messages import Clock

JUMP_S = 1.0  # further ahead of the arrivals than this, a camera's timestamps have jumped
LATE_S = 5.0  # further behind, they say nothing about the time
LEAK = 0.0005  # how much a camera's clock may run slow against ours (500 ppm)
STEP_S = 1.0  # our clock was set, if it moved this far against the monotonic one
TOGETHER_S = 0.01  # readings of two clocks
MOST_READINGS = 5
PLAUSIBLE_S = 5.0  # a trusted camera's clock may be this far off ours


@dataclass(frozen=True)
class Instant:
    """`media_s` has the camera's spacing and never goes back; `at_s` is monotonic clock."""

    media_s: float
    at_s: float


class MediaClock:
    """Joins a camera's timestamps to our monotonic clock, for one connection.

    A picture can't arrive before it was taken, so the smallest (arrival - timestamp) seen is the
    best guess of how the two clocks lie: network jitter and bursts only ever add to it. It leaks
    upwards, for a camera whose clock runs slow. Missing, repeating, wrapping and backward
    timestamps are replaced by arrival.
    """

    def __init__(self) -> None:
        self._offset_s: float | None = None
        self._last_pts_s: float | None = None
        self._last_arrival_s = 0.0
        self._last = Instant(0.0, 0.0)

    def at(self, pts_s: float | None, arrival_s: float) -> Instant:
        """`pts_s` is the picture's timestamp, `arrival_s` when we had it."""
        passed_s = arrival_s - self._last_arrival_s if self._last_arrival_s else 0.0
        step_s = self._step(pts_s, passed_s)
        if pts_s is None or step_s is None or self._offset_s is None:
            self._offset_s = None if pts_s is None else arrival_s - pts_s
            instant = Instant(self._last.media_s + max(0.0, passed_s), arrival_s)
        else:
            self._offset_s = min(self._offset_s + LEAK * passed_s, arrival_s - pts_s)
            if arrival_s - pts_s - self._offset_s > LATE_S:
                self._offset_s = arrival_s - pts_s
            instant = Instant(self._last.media_s + step_s, pts_s + self._offset_s)
        self._last = Instant(instant.media_s, max(self._last.at_s, instant.at_s))
        self._last_pts_s, self._last_arrival_s = pts_s, arrival_s
        return self._last

    def _step(self, pts_s: float | None, passed_s: float) -> float | None:
        """The camera's time since the last picture, or None where its timestamps are no use."""
        if pts_s is None or self._last_pts_s is None:
            return None
        step_s = pts_s - self._last_pts_s
        return step_s if 0 < step_s <= passed_s + JUMP_S else None


class WallClock:
    """UTC by the monotonic clock, anchored once per connection."""

    def __init__(self, unix_us: int, at_s: float) -> None:
        self._unix_us = unix_us
        self._at_s = at_s

    def unix_us(self, at_s: float) -> int:
        return self._unix_us + round((at_s - self._at_s) * 1_000_000)


def clocks_apart_s(
    utc_s: Callable[[], float] = time.time, monotonic_s: Callable[[], float] = time.monotonic
) -> float:
    """Our UTC less the monotonic clock. On a busy machine a thread may stand still between two
    readings for longer than a step: the closest of a few count."""
    readings = []
    for _ in range(MOST_READINGS):
        before_s, at_s, after_s = monotonic_s(), utc_s(), monotonic_s()
        readings.append((after_s - before_s, at_s - (before_s + after_s) / 2))
        if after_s - before_s <= TOGETHER_S:
            break
    return min(readings)[1]


class ClockWatch:
    """Notices when our UTC is set: by hand, by the first answer of a time server, by a sleep."""

    def __init__(self, apart_s: Callable[[], float] = clocks_apart_s) -> None:
        self._apart_s = apart_s
        self._known_s = apart_s()

    def step_s(self) -> float:
        """By how much it was set since the last time it was; 0 where that is no more than slewing
        makes."""
        apart_s = self._apart_s()
        step_s = apart_s - self._known_s
        if abs(step_s) <= STEP_S:
            return 0.0
        self._known_s = apart_s
        return step_s


def choose(ours_us: int, sender_us: int | None, *, trusted: bool) -> tuple[int, Clock]:
    """The capture time and whose it is: the camera's only where it is trusted and plausible."""
    if sender_us is None:
        return ours_us, Clock()
    offset_ms = (sender_us - ours_us) / 1000
    if trusted and abs(offset_ms) <= PLAUSIBLE_S * 1000:
        return sender_us, Clock(source="source", offset_ms=offset_ms)
    return ours_us, Clock(offset_ms=offset_ms)
