"""The end of a deleted stream: its row goes when its tombstone is seen and nothing runs it.

Where `purge` was asked for, its detections and pictures go first, a portion at each pass.
"""

from collections.abc import Callable, Collection
from datetime import datetime, timedelta

import structlog
from sqlalchemy import Connection, delete

from schemas.messages import Status, StreamStatus, now
from schemas.tables import heartbeats, status_history, statuses
from services.gateway.detections import remove
from services.gateway.observed import Observed
from services.gateway.snapshots import StoreAway
from services.gateway.specs import Specs
from services.gateway.streams import StreamRow, forget

log = structlog.get_logger()

ROWS_AT_ONCE = 5000
PICTURES_AT_ONCE = 1000
NO_OWNER_AFTER = timedelta(minutes=10)  # an owner that says nothing for so long is gone
DELIVERED_WITHIN_S = 1.0


def is_over(row: StreamRow, seen: StreamStatus | None, said: Collection[str], at: datetime) -> bool:
    """`said`: the streams of which the topic still says something."""
    if row.id in said:
        return False
    if seen is None or seen.status is Status.STOPPED or seen.owner is None:
        return True
    return row.deleted_at is not None and at - row.deleted_at > NO_OWNER_AFTER


class Burial:
    def __init__(self, observed: Observed, remove_pictures: Callable[[str, int], int]) -> None:
        """`remove_pictures(stream_id, at_most)` answers how many it removed."""
        self._observed = observed
        self._remove_pictures = remove_pictures

    def bury(self, connection: Connection, specs: Specs, deleted: Collection[StreamRow]) -> bool:
        """Each step may be repeated: who is interrupted begins again at the next pass. True: that
        should be soon, there is more to remove."""
        if not self._observed.ready:
            return False
        said = {stream_id for _, stream_id in specs.said}
        over = [row for row in deleted if is_over(row, self._observed.status(row.id), said, now())]
        try:
            unpurged = [row for row in over if row.purge and not self._purged(connection, row.id)]
        except StoreAway as error:
            log.warning("pictures.unremovable", error=str(error))
            return False
        for row in over:
            if row not in unpurged:
                self._forget(connection, specs, row)
        return bool(unpurged)

    def _forget(self, connection: Connection, specs: Specs, row: StreamRow) -> None:
        specs.forget_status((row.slot, row.id))
        if not specs.delivered(DELIVERED_WITHIN_S):
            return
        for table in (statuses, heartbeats, *([status_history] if row.purge else [])):
            connection.execute(delete(table).where(table.c.stream_id == row.id))
        forget(connection, row.id)
        log.info("stream.forgotten", stream=row.id, purged=row.purge)

    def _purged(self, connection: Connection, stream_id: str) -> bool:
        rows = remove(connection, stream_id, ROWS_AT_ONCE)
        return rows + self._remove_pictures(stream_id, PICTURES_AT_ONCE) == 0
