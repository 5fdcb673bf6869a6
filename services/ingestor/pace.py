"""At most so many pictures a second, evenly, by the pictures' own time."""

import math

EARLY_S, EARLY_TICKS = 0.045, 0.35
"""How early a picture may come, at most: cameras' timestamps jitter. These are no numbers that a
common source rate puts pictures on, where rounding would decide."""


class Pacer:
    """Admits one picture per tick of 1/fps.

    Ticks are counted as integers from the first picture: adding 1/fps again and again would drift
    and skip.
    """

    def __init__(self, fps: float) -> None:
        self._fps = fps
        self._begin_s: float | None = None
        self._last_tick = -1

    @property
    def fps(self) -> float:
        return self._fps

    def retune(self, fps: float) -> None:
        """Start counting anew, at the next picture."""
        if fps != self._fps:
            self._fps, self._begin_s, self._last_tick = fps, None, -1

    def admits(self, media_s: float) -> bool:
        """Whether the picture is the first of its tick. Times never go back."""
        if self._begin_s is None:
            self._begin_s = media_s
        early = min(EARLY_TICKS, EARLY_S * self._fps)
        tick = math.floor((media_s - self._begin_s) * self._fps + early)
        if tick <= self._last_tick:
            return False
        self._last_tick = tick
        return True
