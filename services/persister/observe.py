"""Statuses and heartbeats -> the newest of each stream, and the history of statuses.

A status is newer than another of its partition by its offset. Between partitions (the stream's slot
moved) the higher epoch is newer, then the later `since`. So an epoch that was forged within what
`decode` believes lasts until the stream's owner speaks again in the same partition, or with the
higher epoch that it mints when it sees the forged one.

What is folded in again may bring a status back that its tombstone had taken away, until the same
reading comes to that tombstone again; offsets are committed behind it only.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec
from sqlalchemy import Connection, and_, delete, or_, select, tuple_
from sqlalchemy.dialects.postgresql import distinct_on, insert

from schemas.messages import Heartbeat, StreamStatus
from schemas.tables import heartbeats, status_history, statuses
from services.persister.arrival import Arrival

State = tuple[Any, ...]
"""What of a status makes a change of it a transition."""

_STATE = (
    status_history.c.status,
    status_history.c.reason,
    status_history.c.owner,
    status_history.c.epoch,
    status_history.c.observed_generation,
)
_KEPT = ("status", "reason", "message", "hint", "since", "attempt", "owner", "epoch")


def store_statuses(connection: Connection, arrivals: Iterable[Arrival]) -> None:
    """All of them from partitions that are locked."""
    by_partition: dict[int, list[Arrival]] = defaultdict(list)
    for arrival in arrivals:
        by_partition[arrival.origin.partition].append(arrival)
    for partition, here in by_partition.items():
        _store_history(connection, partition, here)
        _store_newest(connection, partition, here)


def store_heartbeats(connection: Connection, arrived: Iterable[Heartbeat]) -> None:
    newest: dict[str, Heartbeat] = {}
    for heartbeat in arrived:
        known = newest.get(heartbeat.stream_id)
        if known is None or _age(heartbeat) > _age(known):
            newest[heartbeat.stream_id] = heartbeat
    if not newest:
        return
    statement = insert(heartbeats)
    new = statement.excluded
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=[heartbeats.c.stream_id],
            set_={"epoch": new.epoch, "at": new.at, "value": new.value},
            where=tuple_(heartbeats.c.epoch, heartbeats.c.at) < tuple_(new.epoch, new.at),
        ),
        [_heartbeat_row(newest[stream_id]) for stream_id in sorted(newest)],
    )


def _age(heartbeat: Heartbeat) -> tuple[Any, ...]:
    return heartbeat.epoch, heartbeat.at


def _heartbeat_row(heartbeat: Heartbeat) -> dict[str, Any]:
    return {
        "stream_id": heartbeat.stream_id,
        "epoch": heartbeat.epoch,
        "at": heartbeat.at,
        "value": msgspec.to_builtins(heartbeat),  # what was not understood may be no JSON
    }


def _store_newest(connection: Connection, partition: int, arrivals: Iterable[Arrival]) -> None:
    last = {stream_of(arrival): arrival for arrival in arrivals}
    for stream_id in sorted(last):
        arrival = last[stream_id]
        if arrival.message is None:
            _forget(connection, stream_id, partition, arrival.origin.offset)
        else:
            _upsert(connection, partition, arrival)


def _forget(connection: Connection, stream_id: str, partition: int, offset: int) -> None:
    """A tombstone takes away what its own partition said before it."""
    connection.execute(
        delete(statuses).where(
            statuses.c.stream_id == stream_id,
            statuses.c.topic_partition == partition,
            statuses.c.topic_offset < offset,
        )
    )


def _upsert(connection: Connection, partition: int, arrival: Arrival) -> None:
    status: StreamStatus = arrival.message
    statement = insert(statuses).values(
        stream_id=status.stream_id,
        **{name: getattr(status, name) for name in _KEPT},
        next_retry_at=status.next_retry_at,
        endpoint=status.endpoint,
        observed_generation=status.observed_generation,
        source=msgspec.to_builtins(status.source),
        topic_partition=partition,
        topic_offset=arrival.origin.offset,
    )
    new, old = statement.excluded, statuses.c
    newer_here = and_(
        old.topic_partition == new.topic_partition, old.topic_offset < new.topic_offset
    )
    newer_elsewhere = and_(
        old.topic_partition != new.topic_partition,
        tuple_(old.epoch, old.since) < tuple_(new.epoch, new.since),
    )
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=[old.stream_id],
            set_={column.name: new[column.name] for column in old if column is not old.stream_id},
            where=or_(newer_here, newer_elsewhere),
        )
    )


def _store_history(connection: Connection, partition: int, arrivals: Iterable[Arrival]) -> None:
    """Whether a status is a transition is seen from the history before it.

    The row of the newest status would not do: when a batch is folded in again, that one is already
    newer than the batch.
    """
    said = [arrival for arrival in arrivals if arrival.message is not None]
    if not said:
        return
    first = min(arrival.origin.offset for arrival in said)
    streams = {arrival.message.stream_id for arrival in said}
    known = _states_before(connection, partition, first, streams)
    rows = [_history_row(partition, arrival) for arrival in transitions(said, known)]
    if rows:
        connection.execute(insert(status_history).on_conflict_do_nothing(), rows)


def _states_before(
    connection: Connection, partition: int, offset: int, streams: set[str]
) -> dict[str, State]:
    query = (
        select(status_history.c.stream_id, *_STATE)
        .ext(distinct_on(status_history.c.stream_id))
        .where(
            status_history.c.stream_id.in_(streams),
            status_history.c.topic_partition == partition,
            status_history.c.topic_offset < offset,
        )
        .order_by(status_history.c.stream_id, status_history.c.topic_offset.desc())
    )
    return {row[0]: tuple(row[1:]) for row in connection.execute(query)}


def transitions(arrivals: Iterable[Arrival], known: Mapping[str, State]) -> Iterator[Arrival]:
    """Those that change what is known; a repeated or re-published status does not."""
    current = dict(known)
    for arrival in arrivals:
        status: StreamStatus = arrival.message
        state = tuple(getattr(status, column.name) for column in _STATE)
        if current.get(status.stream_id) != state:
            current[status.stream_id] = state
            yield arrival


def _history_row(partition: int, arrival: Arrival) -> dict[str, Any]:
    status: StreamStatus = arrival.message
    return {
        "stream_id": status.stream_id,
        "topic_partition": partition,
        "topic_offset": arrival.origin.offset,
        **{name: getattr(status, name) for name in _KEPT},
        "observed_generation": status.observed_generation,
    }


def stream_of(arrival: Arrival) -> str:
    """Of a tombstone only the key says whose it is."""
    if arrival.message is None:
        return (arrival.origin.key or b"").decode()
    return str(arrival.message.stream_id)
