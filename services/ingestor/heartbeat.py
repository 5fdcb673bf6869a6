"""A stream's heartbeats: every ten seconds of running, and a last one of each camera and epoch.

One that is refused is no loss while the stream is ours: what it would have said is in the next one.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from statistics import median

from msgspec.structs import replace

from schemas.messages import Dropped, Heartbeat, Ledger, Rates, Reason, from_unix_us, now
from services.ingestor import metrics
from services.ingestor.children import Child
from services.ingestor.publish import Account, Outbox

ENCODINGS_KEPT = 256
EPOCHS_KEPT = 4  # the last word on an epoch may come after the first on the next

Beat = Callable[[Heartbeat], bool]
"""Takes a heartbeat, or says False where it can't be sent now."""


class Pulse:
    """How a stream fared since its last heartbeat, and where that left off. Encode times come from
    another thread."""

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


@dataclass(frozen=True)
class Seen:
    """Of the stream, when it is asked for a heartbeat."""

    is_running: bool  # frames come from its camera
    reason: Reason | None
    process: Child | None  # of its camera


class Heartbeats:
    """Those of one stream."""

    def __init__(self, stream_id: str, outbox: Outbox, beat: Beat, every_s: float) -> None:
        self._stream_id = stream_id
        self._outbox = outbox
        self._beat = beat
        self._every_s = every_s
        self._pulse = Pulse()
        self._owes_one = False  # of a camera that has ended
        self._finals: list[Account] = []  # that were not told yet

    def note_start(self) -> None:
        """Of a camera."""
        self._pulse.restart()

    def note_end(self) -> None:
        """Of a camera."""
        self._owes_one = True

    def note_encoding(self, encode_ms: float) -> None:
        """From any thread."""
        self._pulse.note_encoding(encode_ms)

    def tick(self, seen: Seen) -> None:
        """Says what is due."""
        self._tell_finals(self._outbox.final_accounts(), seen)
        if seen.is_running:
            is_due = self._pulse.age_s >= self._every_s
        else:
            is_due = self._owes_one and self._outbox.is_settled
        account_now = self._outbox.account() if is_due else None
        if account_now is not None:
            tell = self._tell_last if self._owes_one else self._tell
            self._owes_one = not tell(account_now, seen) and self._owes_one

    def finish(self, seen: Seen) -> None:
        """The stream is given up: whatever the fate of its last frames, this is the last word."""
        self._tell_finals(self._outbox.final_accounts(anyway=True), seen)

    def _tell_finals(self, accounts: list[Account], seen: Seen) -> None:
        """One per epoch, and no epoch begins before the broker has taken its status: few wait."""
        due = self._finals + accounts
        self._finals = [account for account in due if not self._tell_last(account, seen)]

    def _tell_last(self, account: Account, seen: Seen) -> bool:
        """Unless the one before it said it all."""
        has_news = self._pulse.has_news(account.epoch, account.totals)
        return not has_news or self._tell(account, seen)

    def _tell(self, account: Account, seen: Seen) -> bool:
        bytes_published = self._outbox.bytes_published
        heartbeat = self._pulse.beat(
            self._stream_id, account.epoch, account.totals, now(), bytes_published
        )
        reasons = complaints(heartbeat, seen.reason)
        told = self._beat(
            replace(
                heartbeat,
                last_seq=account.last_seq,
                last_frame_at=last_frame_at(account.last_frame_at_us),
                process_rss_bytes=seen.process.memory_bytes() if seen.process else None,
                health="degraded" if reasons else "ok",
                reasons=reasons,
            )
        )
        if told:
            self._pulse.told(heartbeat, bytes_published)
            metrics.count(heartbeat.ledger, heartbeat.bytes_per_s * heartbeat.window_s)
        return told


def complaints(heartbeat: Heartbeat, reason: Reason | None) -> tuple[str, ...]:
    """Why the stream is not well, if it is not."""
    dropped = heartbeat.ledger.dropped
    found = {
        "OVERLOAD": dropped.overload > 0,
        "CORRUPT": dropped.corrupt > 0,
        "TOO_LARGE": dropped.too_large > 0,
    }
    state = (str(reason),) if reason else ()
    return state + tuple(name for name, holds in found.items() if holds)


def last_frame_at(unix_us: int) -> datetime | None:
    return from_unix_us(unix_us) if unix_us else None
