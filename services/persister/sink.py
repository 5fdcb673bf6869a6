"""Outcome codes and detection rows <-> Postgres.

Rows are exactly right whatever dies, and whenever:

* `judge` folds the records of a topic partition, in order, into codes and rows. What is stored is
  at any time the fold of some prefix [0, n) of the partition: a batch [a, b) is folded in by one
  transaction, codes and rows together, and nobody starts a batch at an `a` above `n`: `a` is either
  a committed offset, and offsets are committed only after the transaction that covers them, or the
  end of the same persister's last stored batch.
* Where `a` < `n` the records in between are folded in a second time, which changes nothing (see
  `judge`). So a crash before the commit of the rows leaves [0, a) and one after it [0, b), both of
  which the next persister continues correctly, whether or not the offsets were committed.
* Two persisters may both believe to own a partition for a while. Its advisory lock makes their
  transactions follow one another, and either order is a case of the above. (The codes read are also
  locked themselves: a stream's records should all be in one partition, but a foreign producer's
  partitioner may have put some elsewhere.)

`ON CONFLICT DO NOTHING` is not what makes this true; it guards against two rows of one id only.
"""

import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

import msgspec
import psycopg
from psycopg.types.json import Jsonb
from sqlalchemy import Connection, Engine, TextClause, event, select, text, tuple_
from sqlalchemy.dialects.postgresql import dialect, insert
from sqlalchemy.engine.interfaces import DBAPIConnection

from schemas.messages import Detection, DetectionRecord, Model
from schemas.tables import detections, outcomes

BlockKey = tuple[str, int, int]

_COLUMNS = ", ".join(column.name for column in detections.columns)
_POSTGRESQL = dialect()  # type: ignore[no-untyped-call]  # SQLAlchemy's own; it has no hint
_TYPES = [column.type.compile(_POSTGRESQL).lower() for column in detections.columns]
_MAKE_STAGE = "CREATE TEMP TABLE new_detections (LIKE detections) ON COMMIT DELETE ROWS"
_COPY = f"COPY new_detections ({_COLUMNS}) FROM STDIN (FORMAT BINARY)"
_KEEP: TextClause = text(
    f"INSERT INTO detections ({_COLUMNS}) SELECT {_COLUMNS} FROM new_detections"
    " ON CONFLICT DO NOTHING"
)
_NO_MODEL = Model(name="", version="", digest="")


def stage_on_connect(engine: Engine) -> None:
    """Each new connection gets the temporary table that rows are copied to."""

    @event.listens_for(engine, "connect")
    def _(connection: DBAPIConnection, _: object) -> None:
        cursor = connection.cursor()
        cursor.execute(_MAKE_STAGE)
        cursor.close()
        connection.commit()


def read_blocks(connection: Connection, keys: Iterable[BlockKey]) -> dict[BlockKey, bytes]:
    """The stored ones of these, locked."""
    key = (outcomes.c.stream_id, outcomes.c.epoch, outcomes.c.block)
    query = select(outcomes).where(tuple_(*key).in_(set(keys))).order_by(*key).with_for_update()
    return {
        (row.stream_id, row.epoch, row.block): bytes(row.codes) for row in connection.execute(query)
    }


def write_blocks(connection: Connection, blocks: Mapping[BlockKey, bytes]) -> None:
    if not blocks:
        return
    statement = insert(outcomes)
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=[outcomes.c.stream_id, outcomes.c.epoch, outcomes.c.block],
            set_={"codes": statement.excluded.codes},
        ),
        [
            {"stream_id": stream_id, "epoch": epoch, "block": block, "codes": codes}
            for (stream_id, epoch, block), codes in sorted(blocks.items())
        ],
    )


def write_rows(connection: Connection, records: Iterable[DetectionRecord]) -> int:
    """One row per detection; returns how many there were to write."""
    rows = [row for record in records for row in rows_of(record)]
    if not rows:
        return 0
    psycopg_connection = cast(
        "psycopg.Connection[Any]", connection.connection.driver_connection
    )  # SQLAlchemy knows no COPY
    with psycopg_connection.cursor() as cursor, cursor.copy(_COPY) as copy:
        copy.set_types(_TYPES)
        for row in rows:
            _write(copy, row)
    connection.execute(_KEEP)
    return len(rows)


def _write(copy: psycopg.Copy, row: tuple[Any, ...]) -> None:
    """Raises psycopg.DataError, also where psycopg itself has no form for a value: it says so with
    Python's own exceptions."""
    try:
        copy.write_row(row)
    except (TypeError, ValueError, OverflowError, struct.error) as error:
        raise psycopg.DataError(f"{type(error).__name__}: {error}") from error


def rows_of(record: DetectionRecord) -> Iterator[tuple[Any, ...]]:
    for position, detection in enumerate(record.detections):
        yield _row(record, position, detection)


def _row(record: DetectionRecord, position: int, detection: Detection) -> tuple[Any, ...]:
    """In the order of the table's columns."""
    frame, model, box = record.frame, record.model or _NO_MODEL, detection.bounding_box
    return (
        frame.captured_at,
        detection.id,
        record.stream_id,
        frame.epoch,
        frame.seq,
        position,
        detection.label,
        detection.class_id,
        detection.confidence,
        box.x,
        box.y,
        box.width,
        box.height,
        frame.width,
        frame.height,
        detection.track_id,
        record.image_path,
        model.name or None,
        model.version or None,
        model.digest or None,
        Jsonb({"clock": frame.clock, "attributes": detection.attributes}, msgspec.json.encode),
    )
