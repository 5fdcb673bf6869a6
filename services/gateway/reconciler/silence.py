"""Streams of which nothing is heard: their owner is dead, or there never was one.

Who runs a stream says so every 10 s. Where that ends, or nobody begins, nobody is left to tell that
the stream is down, so the reconciler does, and tells of the end once a new owner is heard. Where an
owner speaks it has its own event, and ours is over: a stream has one at a time.

A stream whose attempts are minutes apart, or that waits for its turn, says nothing meanwhile. Its
owner's word of life counts for it then, as long as that has the stream's slot.

What is open stands in a table before it is told and until its end has been told: who reconciles
next tells it again, with the same id, and goes on with it.
"""

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import structlog
from sqlalchemy import Connection, delete, select
from sqlalchemy.dialects.postgresql import insert

from schemas.messages import (
    NO_HEARTBEAT,
    Down,
    Heartbeat,
    Instance,
    Reason,
    Status,
    StreamStatus,
    down_event,
    now,
)
from schemas.tables import heartbeats, silences
from services.gateway.observed import Observed
from services.gateway.reconciler.specs import Specs
from services.gateway.streams import StreamRow

log = structlog.get_logger()

SILENT_S = 30.0
MOST_AT_ONCE_S = 5.0  # a longer step of the watermark is no time in which we listened
DELIVERED_WITHIN_S = 1.0


@dataclass(frozen=True)
class Silence:
    """Since the last word of that epoch's owner."""

    stream_id: str
    since: datetime
    epoch: int


class Quiet:
    """For how long nothing was heard of each stream, while we could hear."""

    def __init__(self) -> None:
        self._heard: dict[str, tuple[Hashable, float]] = {}

    def note(self, heard: Mapping[str, Hashable], listened_s: float) -> set[str]:
        """Those that are silent. `heard`: the last word of each stream that should speak."""
        self._heard = {
            stream_id: (word, self._quiet_s(stream_id, word, listened_s))
            for stream_id, word in heard.items()
        }
        return {stream_id for stream_id, (_, quiet_s) in self._heard.items() if quiet_s > SILENT_S}

    def _quiet_s(self, stream_id: str, word: Hashable, listened_s: float) -> float:
        before, quiet_s = self._heard.get(stream_id, (None, 0.0))
        return quiet_s + listened_s if before == word else 0.0


def should_speak(row: StreamRow, status: StreamStatus | None) -> bool:
    """Somebody should run it, and has told of no event itself."""
    return is_wanted(row) and not (status and (status.is_down or is_done(row, status)))


def is_wanted(row: StreamRow) -> bool:
    return row.running and row.deleted_at is None


def is_done(row: StreamRow, status: StreamStatus) -> bool:
    """Its file was played; one that was started again since is not."""
    return status.reason is Reason.ENDED and not is_outdated(row, status)


def is_outdated(row: StreamRow, status: StreamStatus) -> bool:
    return status.observed_generation < row.generation


def word_of_life(
    row: StreamRow, status: StreamStatus | None, owner: Instance | None
) -> datetime | None:
    """Its owner's, where it is one of the stream: not where heartbeats are due, nor where somebody
    is still to begin."""
    if status is None or status.status in (Status.RUNNING, Status.STOPPED) or owner is None:
        return None
    return owner.at if {row.slot, row.old_slot} & {*owner.slots} else None


def last_word(
    row: StreamRow, status: StreamStatus | None, beats: Sequence[tuple[int, datetime]]
) -> tuple[int, datetime]:
    """The epoch and the time of it; where nobody began since the stream was started, since then."""
    words = [*beats, (status.epoch, status.since)] if status else [*beats]
    epoch, since = max(words, default=(0, row.updated_at))
    if status and not (status.status is Status.STOPPED and is_outdated(row, status)):
        return epoch, since
    return epoch, max(since, row.updated_at)


def is_over(
    silence: Silence,
    row: StreamRow | None,
    status: StreamStatus | None,
    heartbeat: Heartbeat | None,
) -> bool:
    if row is None or not should_speak(row, status):
        return True
    last = (silence.epoch, silence.since)
    return heartbeat is not None and (heartbeat.epoch, heartbeat.at) > last


class Silences:
    """For the one thread that reconciles."""

    def __init__(self, observed: Observed) -> None:
        self._observed = observed
        self._quiet = Quiet()
        self._watermark: datetime | None = None
        self._told: set[Silence] = set()

    def note(self, connection: Connection, specs: Specs, rows: Sequence[StreamRow]) -> None:
        if not self._observed.ready:
            return
        known = {row.id: row for row in rows}
        silent = self._quiet.note(self._last_words(rows), self._listened_s())
        found = [Silence(**row) for row in connection.execute(select(silences)).mappings()]
        new = silent - {silence.stream_id for silence in found}
        found += [self._begin(connection, known[stream_id]) for stream_id in sorted(new)]
        self._tell(connection, specs, found, known)

    def _last_words(self, rows: Sequence[StreamRow]) -> dict[str, Hashable]:
        status = self._observed.status
        return {row.id: self._words(row) for row in rows if should_speak(row, status(row.id))}

    def _words(self, row: StreamRow) -> Hashable:
        status = self._observed.status(row.id)
        owner = self._observed.instances.last(status.owner) if status and status.owner else None
        return status, self._observed.heartbeat(row.id), word_of_life(row, status, owner)

    def _listened_s(self) -> float:
        """Since the last pass: where the broker was away, nobody could be heard. The watermark is
        by a clock, and that may be set back."""
        watermark = self._observed.watermark
        before, self._watermark = self._watermark or watermark, watermark
        return min(max((watermark - before).total_seconds(), 0), MOST_AT_ONCE_S)

    def _begin(self, connection: Connection, row: StreamRow) -> Silence:
        silence = self._silence(connection, row)
        connection.execute(insert(silences).values(vars(silence)).on_conflict_do_nothing())
        log.warning("stream.silent", stream=row.id, since=silence.since.isoformat())
        return silence

    def _silence(self, connection: Connection, row: StreamRow) -> Silence:
        """Its last heartbeat may be older than what we read of the topic."""
        status, heartbeat = self._observed.status(row.id), self._observed.heartbeat(row.id)
        words = [(heartbeat.epoch, heartbeat.at)] if heartbeat else []
        query = select(heartbeats.c.epoch, heartbeats.c.at)
        stored = connection.execute(query.where(heartbeats.c.stream_id == row.id))
        words += [(beat.epoch, beat.at) for beat in stored]
        epoch, since = last_word(row, status, words)
        return Silence(row.id, since, epoch)

    def _tell(
        self,
        connection: Connection,
        specs: Specs,
        found: Collection[Silence],
        known: Mapping[str, StreamRow],
    ) -> None:
        over = {silence for silence in found if self._is_over(silence, known)}
        untold = [silence for silence in found if silence not in self._told]
        due = [*((each, False) for each in untold), *((each, True) for each in over)]
        for silence, ends in due:
            specs.tell(down_event(silence.stream_id, _down(silence, ends=ends)))
        if not due or not specs.delivered(DELIVERED_WITHIN_S):
            return
        self._told = {*found} - over
        for silence in over:
            here = silences.c.stream_id == silence.stream_id
            connection.execute(delete(silences).where(here))
            log.info("stream.heard", stream=silence.stream_id)

    def _is_over(self, silence: Silence, known: Mapping[str, StreamRow]) -> bool:
        id, seen = silence.stream_id, self._observed
        return is_over(silence, known.get(id), seen.status(id), seen.heartbeat(id))


def _down(silence: Silence, *, ends: bool) -> Down:
    ended_at = max(now(), silence.since) if ends else None
    return Down(
        started_at=silence.since, ended_at=ended_at, reason=NO_HEARTBEAT, revision=int(ends)
    )
