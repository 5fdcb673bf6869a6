"""The statuses that a stream had, by pages: newest first."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, RowMapping, select, tuple_

from schemas.tables import status_history
from services.gateway.answers import TransitionAnswer


@dataclass(frozen=True)
class Placed:
    """A transition, and its place in the list: the next page begins after it."""

    position: list[str]
    answer: TransitionAnswer


def transitions(
    connection: Connection, stream_id: str, limit: int, after: Sequence[str] | None
) -> list[Placed]:
    column = status_history.c
    place = (column.since, column.topic_partition, column.topic_offset)
    query = select(status_history).where(column.stream_id == stream_id)
    if after is not None:
        since, partition, offset = after
        here = (datetime.fromisoformat(since), int(partition), int(offset))
        query = query.where(tuple_(*place) < tuple_(*here))
    query = query.order_by(*(part.desc() for part in place)).limit(limit)
    return [_placed(row) for row in connection.execute(query).mappings()]


def _placed(row: RowMapping) -> Placed:
    position = [row["since"].isoformat(), str(row["topic_partition"]), str(row["topic_offset"])]
    answer = TransitionAnswer(**{name: row[name] for name in TransitionAnswer.model_fields})
    return Placed(position, answer)
