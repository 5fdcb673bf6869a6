"""The streams table: the truth about what is wanted. Statuses and the topic follow it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Select, any_, delete, func, insert, literal, select, text, update

from schemas.messages import Source, StreamSpec, now
from schemas.tables import streams

SLOTS_IN_TURN = 0x510C  # the advisory lock of those who choose a slot


class NoSuchStream(Exception):
    """There is none, or it was deleted."""


class ChangedMeanwhile(Exception):
    """The stream is not at the generation that was expected."""


@dataclass(frozen=True)
class StreamRow:
    """The columns of the table."""

    id: str  # a ULID
    name: str
    url: str
    sources: list[dict[str, Any]]
    sealed_credentials: str | None
    fps: float
    frame_width: int | None
    detection_enabled: bool
    model: str | None
    min_confidence: float | None
    labels: list[str]
    max_frame_age_ms: int
    idle_gate: bool
    trust_source_clock: bool
    verify_tls: bool
    tags: list[str]
    running: bool
    slot: int
    old_slot: int | None
    generation: int
    created_at: datetime
    updated_at: datetime
    deleted_at: datetime | None
    purge: bool

    @property
    def spec(self) -> StreamSpec:
        """What streams.v1 should say of it."""
        return StreamSpec(
            stream_id=self.id,
            slot=self.slot,
            generation=self.generation,
            running=self.running,
            name=self.name,
            url=self.url,
            sources=tuple(Source(url=s["url"], roles=tuple(s["roles"])) for s in self.sources),
            sealed_credentials=self.sealed_credentials,
            fps=self.fps,
            frame_width=self.frame_width,
            detection_enabled=self.detection_enabled,
            model=self.model,
            min_confidence=self.min_confidence,
            labels=tuple(self.labels),
            max_frame_age_ms=self.max_frame_age_ms,
            idle_gate=self.idle_gate,
            trust_source_clock=self.trust_source_clock,
            verify_tls=self.verify_tls,
            tags=tuple(self.tags),
        )


_COLUMNS = [streams.c[field.name] for field in fields(StreamRow)]


def _rows(connection: Connection, query: Select[Any]) -> list[StreamRow]:
    return [StreamRow(**row) for row in connection.execute(query).mappings()]


def create(connection: Connection, values: Mapping[str, Any], slots: int) -> StreamRow:
    """`values`: the columns a client chose, and the id. It gets the slot with the fewest streams;
    who creates at the same time waits for its turn, so that no two take the same."""
    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": SLOTS_IN_TURN})
    at = now()
    row = {
        **values,
        "slot": _least_loaded(connection, slots),
        "generation": 1,
        "created_at": at,
        "updated_at": at,
    }
    made = insert(streams).values(row).returning(*_COLUMNS)
    return StreamRow(**connection.execute(made).mappings().one())


def _least_loaded(connection: Connection, slots: int) -> int:
    alive = streams.c.deleted_at.is_(None)
    query = select(streams.c.slot, func.count()).where(alive).group_by(streams.c.slot)
    load: dict[int, int] = {slot: count for slot, count in connection.execute(query)}
    return min(range(slots), key=lambda slot: load.get(slot, 0))


def find(connection: Connection, id: str, *, for_update: bool = False) -> StreamRow:
    """Raises NoSuchStream."""
    if not (id.isascii() and id.isalnum()):
        raise NoSuchStream  # what Postgres could not even be asked for: NUL, half a character
    query = select(*_COLUMNS).where(streams.c.id == id, streams.c.deleted_at.is_(None))
    rows = _rows(connection, query.with_for_update() if for_update else query)
    if not rows:
        raise NoSuchStream
    return rows[0]


def newest(
    connection: Connection, limit: int, before: str | None = None, tag: str | None = None
) -> list[StreamRow]:
    """Newest first, beginning with the one created just before `before`."""
    query = select(*_COLUMNS).where(streams.c.deleted_at.is_(None))
    if before is not None:
        query = query.where(streams.c.id < before)
    if tag is not None:
        query = query.where(literal(tag) == any_(streams.c.tags))
    return _rows(connection, query.order_by(streams.c.id.desc()).limit(limit))


def change(
    connection: Connection, row: StreamRow, values: Mapping[str, Any], *, anew: bool = False
) -> StreamRow:
    """The row must have been found for update. What changes nothing makes no new generation,
    unless it is to begin anew."""
    before = asdict(row)
    if not anew and all(before[name] == value for name, value in values.items()):
        return row
    changed = (
        update(streams)
        .where(streams.c.id == row.id)
        .values(**values, generation=row.generation + 1, updated_at=now())
        .returning(*_COLUMNS)
    )
    return StreamRow(**connection.execute(changed).mappings().one())


def mark_deleted(connection: Connection, row: StreamRow, *, purge: bool) -> None:
    """It is gone for clients at once; the row goes when nothing of it runs any more."""
    change(connection, row, {"running": False, "deleted_at": now(), "purge": purge})


def everything(connection: Connection) -> Sequence[StreamRow]:
    """Deleted ones too."""
    return _rows(connection, select(*_COLUMNS))


def begin_move(connection: Connection, row: StreamRow, slot: int) -> bool:
    """One generation on it is to stop in its slot, two on to be in the other. False: it was changed
    meanwhile, or is there."""
    unchanged = (streams.c.id == row.id) & (streams.c.generation == row.generation)
    at_home = streams.c.old_slot.is_(None) & streams.c.deleted_at.is_(None)
    elsewhere = streams.c.slot != slot
    values = {"slot": slot, "old_slot": row.slot, "generation": row.generation + 2}
    moved = update(streams).where(unchanged, at_home, elsewhere).values(values)
    return connection.execute(moved).rowcount > 0


def end_move(connection: Connection, row: StreamRow) -> None:
    here = (streams.c.slot == row.slot) & (streams.c.old_slot == row.old_slot)
    connection.execute(update(streams).where(streams.c.id == row.id, here).values(old_slot=None))


def pass_generation(connection: Connection, id: str, generation: int) -> None:
    """To the one after, unless the stream is already there."""
    behind = (streams.c.id == id) & (streams.c.generation <= generation)
    connection.execute(update(streams).where(behind).values(generation=generation + 1))


def forget(connection: Connection, id: str) -> None:
    connection.execute(delete(streams).where(streams.c.id == id))
