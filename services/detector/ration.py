"""Which frames with a detection are kept as snapshots."""


class Ration:
    """At most so many a minute of each stream, evenly spaced: so a long scene is covered all along.

    Streams that did not ask for a minute are forgotten.
    """

    def __init__(self, per_minute: int) -> None:
        self._spacing_s = 60 / per_minute if per_minute else None
        self._next: dict[str, float] = {}  # in the order of the last snapshot
        self._forgotten_at = 0.0

    def __len__(self) -> int:
        return len(self._next)

    def allows(self, stream_id: str, now: float) -> bool:
        """True takes one; `now` by the monotonic clock."""
        if self._spacing_s is None or now < self._next.get(stream_id, now):
            return False
        self._next.pop(stream_id, None)
        self._next[stream_id] = now + self._spacing_s
        if now - self._forgotten_at > 60:
            self._forgotten_at = now
            self._next = {s: at for s, at in self._next.items() if at > now}
        return True
