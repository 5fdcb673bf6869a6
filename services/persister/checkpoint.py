"""Heartbeats -> checkpoints of the ledger: what an owner had said of its epoch by then.

Of each minute the last is kept, so also the last of an epoch: a row for each minute that a stream
runs, and the books close from any of them to any other. Repeats change nothing, in any order.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

import msgspec
from sqlalchemy import Connection, delete, select, tuple_
from sqlalchemy.dialects.postgresql import insert

from schemas.messages import Heartbeat
from schemas.tables import ledgers

KEPT = timedelta(days=30)
PRUNED_AT_ONCE = 50_000  # rows

_KEY = (ledgers.c.stream_id, ledgers.c.epoch, ledgers.c.minute)

Key = tuple[str, int, datetime]


def store_checkpoints(connection: Connection, arrived: Iterable[Heartbeat]) -> None:
    last: dict[Key, Heartbeat] = {}
    for heartbeat in arrived:
        known = last.get(_key(heartbeat))
        if known is None or heartbeat.at > known.at:
            last[_key(heartbeat)] = heartbeat
    if not last:
        return
    statement = insert(ledgers)
    said = {column.name: statement.excluded[column.name] for column in set(ledgers.c) - set(_KEY)}
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=_KEY,
            set_=said,
            where=ledgers.c.at < statement.excluded.at,
        ),
        [_row(key, last[key]) for key in sorted(last)],
    )


def _key(heartbeat: Heartbeat) -> Key:
    minute = heartbeat.at.replace(second=0, microsecond=0)
    return heartbeat.stream_id, heartbeat.epoch, minute


def _row(key: Key, heartbeat: Heartbeat) -> dict[str, Any]:
    totals = heartbeat.totals
    dropped: dict[str, int] = msgspec.to_builtins(totals.dropped)
    return {
        **dict(zip(("stream_id", "epoch", "minute"), key, strict=True)),
        "at": heartbeat.at,
        "captured": totals.captured,
        "published": totals.published,
        "undetected": totals.undetected,
        "pending": totals.pending,
        "dropped": {cause: count for cause, count in dropped.items() if count},
    }


def prune(connection: Connection, at: datetime) -> int:
    """Checkpoints that have had their time; how many went."""
    old = select(*_KEY).where(ledgers.c.minute < at - KEPT).limit(PRUNED_AT_ONCE)
    return connection.execute(delete(ledgers).where(tuple_(*_KEY).in_(old))).rowcount
