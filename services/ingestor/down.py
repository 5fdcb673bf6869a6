"""When a stream that should run is down: one event from its first failure to its recovery.

A short failure is none, and a recovery must hold: a camera that comes and goes is down once. While
its frames can't be stored (BROKER_DOWN) a camera is not down. Whoever stops a stream, or deletes
it, ends its event; who hands it over does not, nor who stops it because it moves.

What the event says next stands in the stream's status first. Only once the broker has that is the
event itself told, and only once the broker has the event does it go on: so whoever owns the stream
next finds in its status what may not have been told, and tells it again, with the same id.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from msgspec.structs import replace

from schemas.messages import Down, Reason, Status, StreamStatus

BLIP_S = 5.0  # a failure that is over sooner is no event
STEADY_S = 5.0  # frames must come for so long, or a recovery is none
RETELL_S = 5.0  # after the broker took no event


class Told(Enum):
    """How far what the event says has come."""

    NOWHERE = "nowhere"
    IN_STATUS = "in the status"
    ON_ITS_WAY = "on its way"
    LOST = "lost"
    YES = "yes"


@dataclass(frozen=True)
class Instant:
    by_clock: datetime  # UTC
    monotonic_s: float


@dataclass(frozen=True)
class Condition:
    """Of a stream, at an instant."""

    status: Status
    reason: Reason | None
    frames: int  # so far; any change of it says that there are new ones


class Outage:
    """Of one stream. `down` is what its status must say."""

    def __init__(self, known: StreamStatus | None, at: Instant, begun: Down | None = None) -> None:
        """`known` is the last status on the topic, by whomever; where there is none, `begun` is
        what the stream brings from another slot."""
        self.down = known.down if known else begun
        self._told = Told.IN_STATUS if self.down else Told.YES
        self._failing_since: Instant | None = None
        self._well_since: Instant | None = None
        self._frames = 0
        self._framed_at_s = self._lost_at_s = at.monotonic_s
        if known is not None and known.status is Status.ERROR:
            self._failing_since = Instant(known.since, at.monotonic_s)

    @property
    def is_open(self) -> bool:
        return self.down is not None and self.down.ended_at is None

    @property
    def is_settled(self) -> bool:
        """Whether all that there is to tell is on its way at least."""
        return not self.is_open and self._told in (Told.ON_ITS_WAY, Told.YES)

    def note(self, condition: Condition, at: Instant) -> None:
        """To be told again and again, also when nothing changes."""
        if condition.frames != self._frames:
            self._frames, self._framed_at_s = condition.frames, at.monotonic_s
        if self._told is Told.LOST and at.monotonic_s - self._lost_at_s >= RETELL_S:
            self._told = Told.IN_STATUS
        if condition.status is Status.RUNNING:
            self._note_well(at)
        elif condition.reason is not None and condition.reason is not Reason.ENDED:
            self._note_failing(condition.reason, at)
        else:
            self._well_since = None
            if condition.status is not Status.STARTING:
                self._end(at)

    def _note_well(self, at: Instant) -> None:
        self._well_since = self._well_since or at
        if self._framed_at_s - self._well_since.monotonic_s >= STEADY_S:
            self._end(self._well_since)

    def _note_failing(self, reason: Reason, at: Instant) -> None:
        self._well_since = None
        self._failing_since = self._failing_since or at
        if self._told is not Told.YES:
            return
        if self.down is None:
            if at.monotonic_s - self._failing_since.monotonic_s >= BLIP_S:
                self._say(Down(started_at=self._failing_since.by_clock, reason=reason))
        elif self.down.reason != reason:
            self._say(replace(self.down, reason=reason, revision=self.down.revision + 1))

    def _end(self, at: Instant) -> None:
        self._failing_since = None
        if self.down is not None and self._told is Told.YES:
            self._say(ended(self.down, at.by_clock))

    def _say(self, down: Down) -> None:
        self.down, self._told = down, Told.NOWHERE

    # How it comes to be known

    def acknowledge(self, down: Down | None) -> None:
        """The broker has a status that says so."""
        if down == self.down and self._told is Told.NOWHERE:
            self._told = Told.IN_STATUS

    @property
    def due(self) -> Down | None:
        """What must be told now."""
        return self.down if self._told is Told.IN_STATUS else None

    def note_sent(self) -> None:
        """Of what can't be sent at all, it is known by now that it was lost."""
        if self._told is Told.IN_STATUS:
            self._told = Told.ON_ITS_WAY

    def note_lost(self, at: Instant) -> None:
        """The broker did not take the event: it is due again after a while."""
        self._told, self._lost_at_s = Told.LOST, at.monotonic_s

    def note_told(self) -> None:
        """The broker has the event as it is now."""
        self._told = Told.YES
        if not self.is_open:
            self.down = None


def ended(down: Down, at: datetime) -> Down:
    """The same event, over; a clock may have been set back since it began."""
    if down.ended_at is not None:
        return down
    return replace(down, ended_at=max(at, down.started_at), revision=down.revision + 1)
