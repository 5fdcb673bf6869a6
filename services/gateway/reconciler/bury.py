"""The end of a deleted stream: its row goes when its tombstone is seen and nothing runs it.

Where `purge` was asked for, its detections and pictures go first, a portion at each pass, and the
row stays, hidden, for as long as Kafka may hold a message of the stream: it tells the persisters
to store none of them. What one of them was storing in that moment goes with a later sweep.
"""

from collections.abc import Callable, Collection
from datetime import datetime, timedelta

import structlog
from msgspec.structs import replace
from sqlalchemy import Connection, delete

from schemas.messages import Down, StreamStatus, down_event, now
from schemas.tables import heartbeats, ledgers, outcomes, status_history, statuses
from schemas.topics import DETECTIONS, HEARTBEATS, SNAPSHOTS
from services.gateway.detections import remove
from services.gateway.observed import Observed
from services.gateway.reconciler.move import is_at_rest
from services.gateway.reconciler.specs import Specs
from services.gateway.snapshots import StoreAway
from services.gateway.streams import StreamRow, forget

log = structlog.get_logger()

ROWS_AT_ONCE = 5000
PICTURES_AT_ONCE = 1000
NO_OWNER_AFTER = timedelta(minutes=10)  # an owner that says nothing for so long is gone
NOT_BEGUN_AFTER = timedelta(seconds=30)  # an owner that saw the last spec has told so by then
SWEPT_AGAIN_AFTER = timedelta(minutes=1)
RETENTION = timedelta(
    milliseconds=max(int(t.config["retention.ms"]) for t in (DETECTIONS, HEARTBEATS, SNAPSHOTS))
)
FORGOTTEN_AFTER = RETENTION + timedelta(days=1)  # later Kafka holds nothing of a purged stream
DELIVERED_WITHIN_S = 1.0
OF_THE_PURGED = (status_history, outcomes, ledgers)


def is_over(row: StreamRow, seen: StreamStatus | None, said: Collection[str], at: datetime) -> bool:
    """`said`: the streams of which the topic still says something."""
    if row.id in said or row.deleted_at is None:
        return False
    last_spec = row.generation - 1  # the deletion is a generation that no owner is told
    deleted_for = at - row.deleted_at
    # Who has an event that goes on has more to say, and then nothing may follow the tombstone.
    if seen is not None and (not is_at_rest(seen) or seen.is_down):
        return deleted_for > NO_OWNER_AFTER
    has_obeyed = seen is not None and seen.observed_generation >= last_spec
    return has_obeyed or deleted_for > NOT_BEGUN_AFTER


def last_down(row: StreamRow, seen: Collection[StreamStatus | None]) -> Down | None:
    """What is left to be told of a stream that is deleted: the end of its event."""
    said = [status for status in seen if status is not None]
    down = max(said, key=lambda status: status.epoch).down if said else None
    if down is None or down.ended_at is not None:
        return down
    ended_at = max(row.deleted_at or row.updated_at, down.started_at)
    return replace(down, ended_at=ended_at, revision=down.revision + 1)


class Burial:
    def __init__(self, observed: Observed, remove_pictures: Callable[[str, int], int]) -> None:
        """`remove_pictures(stream_id, at_most)` answers how many it removed."""
        self._observed = observed
        self._remove_pictures = remove_pictures
        self._sweep_at: dict[str, datetime] = {}  # of purged streams that were swept clean

    def bury(self, connection: Connection, specs: Specs, deleted: Collection[StreamRow]) -> bool:
        """Each step may be repeated: who is interrupted begins again at the next pass. True: that
        should be soon, there is more to remove."""
        if not self._observed.ready:
            return False
        kept = {row.id for row in deleted}
        self._sweep_at = {id: due for id, due in self._sweep_at.items() if id in kept}
        said, at = {stream_id for _, stream_id in specs.said}, now()
        over = [row for row in deleted if self._is_over(row, said, at)]
        due = [row for row in over if not row.purge or self._sweep_at.get(row.id, at) <= at]
        try:
            unpurged = [row for row in due if row.purge and not self._purged(connection, row.id)]
        except StoreAway as error:
            log.warning("pictures.unremovable", error=str(error))
            return False
        self._forget(connection, specs, [row for row in due if row not in unpurged], at)
        return bool(unpurged)

    def _is_over(self, row: StreamRow, said: Collection[str], at: datetime) -> bool:
        return all(is_over(row, status, said, at) for status in self._seen(row))

    def _seen(self, row: StreamRow) -> list[StreamStatus | None]:
        """In both slots, where it was on its way; who speaks in the new one has its event, too."""
        if row.old_slot is None:
            return [self._observed.status(row.id)]
        here, before = (self._observed.status_in(at, row.id) for at in (row.slot, row.old_slot))
        return [here, before] if here is None else [here]

    def _forget(
        self, connection: Connection, specs: Specs, rows: Collection[StreamRow], at: datetime
    ) -> None:
        for row in rows:
            self._say_last(specs, row)
        if not rows or not specs.delivered(DELIVERED_WITHIN_S):
            return
        for row in rows:
            self._remove(connection, row, at)

    def _say_last(self, specs: Specs, row: StreamRow) -> None:
        """Who told of an event and died has left nobody else to tell its end."""
        if (down := last_down(row, self._seen(row))) is not None:
            specs.tell(down_event(row.id, down))
        for slot in (row.slot, row.old_slot):
            if slot is not None and slot < specs.slots:
                specs.forget_status((slot, row.id))

    def _remove(self, connection: Connection, row: StreamRow, at: datetime) -> None:
        for table in (statuses, heartbeats, *(OF_THE_PURGED if row.purge else ())):
            connection.execute(delete(table).where(table.c.stream_id == row.id))
        if row.purge and (again := next_sweep(row.deleted_at or at, at)) is not None:
            self._note_swept(row.id, again)
            return
        forget(connection, row.id)
        log.info("stream.forgotten", stream=row.id, purged=row.purge)

    def _note_swept(self, stream_id: str, again: datetime) -> None:
        if stream_id not in self._sweep_at:
            log.info("stream.purged", stream=stream_id)
        self._sweep_at[stream_id] = again

    def _purged(self, connection: Connection, stream_id: str) -> bool:
        rows = remove(connection, stream_id, ROWS_AT_ONCE)
        return rows + self._remove_pictures(stream_id, PICTURES_AT_ONCE) == 0


def next_sweep(deleted_at: datetime, at: datetime) -> datetime | None:
    """When the deletion is twice as old, and a last time before the row is forgotten; None: that
    was it."""
    last = deleted_at + FORGOTTEN_AFTER
    return None if at >= last else min(last, at + max(SWEPT_AGAIN_AFTER, at - deleted_at))
