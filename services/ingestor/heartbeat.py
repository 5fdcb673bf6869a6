"""How a stream fared since the last time it was asked."""

import threading
import time
from collections import deque
from datetime import datetime
from statistics import median

from schemas.messages import Dropped, Heartbeat, Ledger, Rates, from_unix_us

ENCODINGS_KEPT = 256
EPOCHS_KEPT = 4  # the last word on an epoch may come after the first on the next


class Pulse:
    """Remembers where the last heartbeat left off. Encode times come from another thread."""

    def __init__(self) -> None:
        self._totals: dict[int, Ledger] = {}  # by epoch
        self._bytes = 0
        self._at_s = time.monotonic()
        self._lock = threading.Lock()
        self._encode_ms: deque[float] = deque(maxlen=ENCODINGS_KEPT)

    @property
    def age_s(self) -> float:
        return time.monotonic() - self._at_s

    def restart(self) -> None:
        """The window begins now: nothing ran before."""
        self._at_s = time.monotonic()

    def note_encoding(self, encode_ms: float) -> None:
        with self._lock:
            self._encode_ms.append(encode_ms)

    def has_news(self, epoch: int, totals: Ledger) -> bool:
        """Whether there is anything that the last heartbeat of this epoch did not say."""
        return totals != self._totals.get(epoch, Ledger())

    def beat(
        self, stream_id: str, epoch: int, totals: Ledger, at: datetime, bytes_published: int
    ) -> Heartbeat:
        """The window since the last one that was `told`. A new epoch's totals, and its window,
        begin at zero."""
        before = self._totals.get(epoch, Ledger())
        window_s = max(self.age_s, 0.001)
        window = minus(totals, before)
        return Heartbeat(
            stream_id=stream_id,
            epoch=epoch,
            at=at,
            window_s=round(window_s, 3),
            fps=Rates(
                source=round(window.captured / window_s, 2),
                published=round(window.published / window_s, 2),
            ),
            ledger=window,
            totals=totals,
            encode_ms_p50=self._median_encode_ms(),
            bytes_per_s=round((bytes_published - self._bytes) / window_s),
        )

    def told(self, heartbeat: Heartbeat, bytes_published: int) -> None:
        """It is on its way: the next window begins."""
        self._totals[heartbeat.epoch], self._bytes = heartbeat.totals, bytes_published
        while len(self._totals) > EPOCHS_KEPT:
            self._totals.pop(min(self._totals))
        self.restart()

    def _median_encode_ms(self) -> float | None:
        with self._lock:
            samples = list(self._encode_ms)
            self._encode_ms.clear()
        return round(median(samples), 2) if samples else None


def minus(totals: Ledger, before: Ledger) -> Ledger:
    """What happened between the two; `pending` may have shrunk."""
    return Ledger(
        captured=totals.captured - before.captured,
        published=totals.published - before.published,
        undetected=totals.undetected - before.undetected,
        dropped=Dropped(
            **{
                cause: getattr(totals.dropped, cause) - getattr(before.dropped, cause)
                for cause in Dropped.__struct_fields__
            }
        ),
        pending=totals.pending - before.pending,
    )


def last_frame_at(unix_us: int) -> datetime | None:
    return from_unix_us(unix_us) if unix_us else None
