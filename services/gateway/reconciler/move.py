"""Streams that find no room: each moves to a slot whose owner has some.

What a move has come to is told by the row, by the topic and by what the owners say, so that it goes
on wherever a gateway died:

1. The row gets the new slot, keeps the old one, and goes two generations on.
2. In the old slot the stream is told to stop, a generation below the row's. Nothing is said in the
   new one: cameras allow one or two sessions.
3. Once it is seen stopped there, its spec stands in the new slot, and the old one gets a tombstone.
4. Once the topic shows both, and the new owner speaks in a higher epoch than the old one's last,
   the old slot's status gets its tombstone, and the row forgets the old slot. By then no fence
   needs it any more; a stream that was stopped meanwhile stays at this step until it is started.

It has been down since it found no room. The old owner leaves that event as it is, in the status
that says that it stopped; the spec in the new slot hands it to the new owner, who goes on with it.
"""

import time
from collections import Counter as Tally
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import structlog
from msgspec.structs import replace
from prometheus_client import Counter
from sqlalchemy import Connection

from schemas.messages import Down, Instance, Reason, Status, StreamSpec, StreamStatus
from services.gateway.observed import Observed
from services.gateway.reconciler.specs import Place, Specs
from services.gateway.streams import StreamRow, begin_move, end_move

log = structlog.get_logger()

MOVES_A_MINUTE = 6  # each is a camera's restart, and what is full now may have room soon
DELIVERED_WITHIN_S = 1.0

Said = Mapping[Place, StreamSpec | None]
StatusIn = Callable[[int, str], StreamStatus | None]

MOVED = Counter("sightlog_gateway_streams_moved_total", "Streams sent to where there is room")


def is_at_rest(seen: StreamStatus) -> bool:
    return seen.status is Status.STOPPED or seen.owner is None


def old_place(row: StreamRow) -> Place:
    """Nowhere, where the row is in its slot for good."""
    return (-1 if row.old_slot is None else row.old_slot), row.id


def wanted(row: StreamRow, left: Mapping[str, Down | None]) -> tuple[Place, StreamSpec]:
    """Where its spec should stand now, and which. `left`: who has left its old slot, with the event
    that goes on."""
    if row.old_slot is None:
        return (row.slot, row.id), row.spec
    if row.id in left:
        return (row.slot, row.id), replace(row.spec, begun=left[row.id])
    here = {"slot": row.old_slot, "generation": row.generation - 1}
    return old_place(row), replace(row.spec, **here, running=False, moving=True)


def reached(row: StreamRow, said: Said) -> int:
    """The generation below which the row can't be, by what the topic says in its slots."""
    here, before = said.get((row.slot, row.id)), said.get(old_place(row))
    return max(here.generation if here else 0, before.generation + 1 if before else 0)


def is_expected(row: StreamRow, said: Said) -> bool:
    """In its new slot; so it was seen stopped in the old one."""
    there = said.get((row.slot, row.id))
    return there is not None and there.generation >= row.generation


def is_quiet(row: StreamRow, said: Said, seen: StreamStatus | None) -> bool:
    """Nothing of it runs in its old slot, nor will. `seen`: its status there."""
    if old_place(row) not in said:
        return seen is None or is_at_rest(seen)
    told = said[old_place(row)]
    if told is None or told.running or seen is None:
        return False
    return is_at_rest(seen) and seen.observed_generation >= told.generation


@dataclass(frozen=True)
class Owner:
    """An ingestor that is up, and how many cameras are meant for it."""

    instance: Instance
    slots: Sequence[int]
    load: int

    @property
    def capacity(self) -> int:
        return self.instance.capacity or 0

    @property
    def has_room(self) -> bool:
        return self.load < self.capacity


def owners(
    rows: Iterable[StreamRow], alive: Iterable[Instance], status_in: StatusIn, slots: int
) -> list[Owner]:
    """`alive`: who spoke last first; where two claim a slot, that one has it. Rows count for where
    they were sent, so that nobody is sent more than it can take; what it says itself counts too."""
    of_slot: dict[int, str] = {}
    by_name = {instance.instance: instance for instance in alive}
    for name, instance in by_name.items():
        for slot in instance.slots:
            if slot < slots:
                of_slot.setdefault(slot, name)
    meant = Tally(of_slot.get(row.slot) for row in rows if _needs_room(row, status_in))
    return [
        Owner(
            instance,
            sorted(slot for slot, owner in of_slot.items() if owner == name),
            max(meant[name], instance.load or 0),
        )
        for name, instance in by_name.items()
    ]


def _needs_room(row: StreamRow, status_in: StatusIn) -> bool:
    if not row.running or row.deleted_at is not None:
        return False
    seen = status_in(row.slot, row.id)
    return seen is None or not (_is_current(row, seen) and seen.reason is Reason.ENDED)


def _is_current(row: StreamRow, seen: StreamStatus) -> bool:
    return seen.observed_generation == row.generation


def without_room(
    rows: Iterable[StreamRow], owned: Iterable[Owner], status_in: StatusIn
) -> list[StreamRow]:
    """Those whose owner says so, who waits longest first."""
    of_slot = {slot: owner.instance.instance for owner in owned for slot in owner.slots}

    def found() -> Iterator[tuple[StreamStatus, StreamRow]]:
        for row in rows:
            seen = status_in(row.slot, row.id)
            if seen is not None and row.old_slot is None and _needs_room(row, status_in):
                is_said_now = seen.owner == of_slot.get(row.slot) and _is_current(row, seen)
                if is_said_now and seen.reason is Reason.CAPACITY:
                    yield seen, row

    return [row for _, row in sorted(found(), key=lambda each: (each[0].since, each[1].id))]


def target(row: StreamRow, rows: Iterable[StreamRow], owned: Iterable[Owner]) -> int | None:
    """The slot with the fewest streams of the owner with the smallest load; None: all are full.

    Never its own owner's: where that has room by now, the stream has it without a move."""
    able = [owner for owner in owned if owner.has_room and owner.slots]
    able = [owner for owner in able if row.slot not in owner.slots]
    if not able:
        return None
    owner = min(able, key=lambda each: (each.load / each.capacity, each.instance.instance))
    streams = Tally(row.slot for row in rows if row.deleted_at is None)
    return min(owner.slots, key=lambda slot: (streams[slot], slot))


class Moves:
    """For the reconciler's thread."""

    def __init__(self, observed: Observed, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._observed = observed
        self._monotonic = monotonic
        self._next_at = -float("inf")

    def left(self, rows: Iterable[StreamRow], specs: Specs) -> dict[str, Down | None]:
        """Who may be said in its new slot, and the event that goes on there."""
        moving = [row for row in rows if row.old_slot is not None and self._has_left(row, specs)]
        return {row.id: self._begun(row, specs) for row in moving}

    def _begun(self, row: StreamRow, specs: Specs) -> Down | None:
        """What was said of it once is kept: the old slot's status may not be read yet."""
        said = specs.said.get((row.slot, row.id))
        if said is not None and is_expected(row, specs.said):
            return said.begun
        before = self._observed.status_in(*old_place(row))
        return before.down if before is not None and before.is_down else None

    def _has_left(self, row: StreamRow, specs: Specs) -> bool:
        slot, _ = old_place(row)
        if is_expected(row, specs.said) or slot >= specs.slots:
            return True
        seen = self._observed.status_in(slot, row.id)
        return self._observed.ready and is_quiet(row, specs.said, seen)

    def begin(self, connection: Connection, rows: Collection[StreamRow], slots: int) -> bool:
        """One at most, and not more often than a few times a minute. True: one has begun."""
        if not self._observed.ready or self._monotonic() < self._next_at:
            return False
        status_in = self._observed.status_in
        owned = owners(rows, self._observed.instances.alive(), status_in, slots)
        for row in without_room(rows, owned, status_in):
            slot = target(row, rows, owned)
            if slot is not None and begin_move(connection, row, slot):
                self._next_at = self._monotonic() + 60 / MOVES_A_MINUTE
                MOVED.inc()
                log.info("move.begun", stream=row.id, slot=slot, old_slot=row.slot)
                return True
        return False

    def end(self, connection: Connection, rows: Iterable[StreamRow], specs: Specs) -> None:
        """Those that are not delivered now are ended in a later pass: nobody waits for each."""
        over = [row for row in rows if self._is_over(row, specs)]
        for row in over:
            if row.old_slot is not None and row.old_slot < specs.slots:
                specs.forget_status(old_place(row), row.slot)
        if not over or not specs.delivered(DELIVERED_WITHIN_S):
            return
        for row in over:
            end_move(connection, row)
            log.info("move.ended", stream=row.id, slot=row.slot, old_slot=row.old_slot)

    def _is_over(self, row: StreamRow, specs: Specs) -> bool:
        if row.old_slot is None or row.deleted_at is not None:
            return False
        said = specs.said.get((row.slot, row.id))
        is_said = said is not None and replace(said, begun=None) == row.spec
        if not is_said or old_place(row) in specs.said:
            return False
        before = self._observed.status_in(*old_place(row))
        here = self._observed.status_in(row.slot, row.id)
        if before is None:
            return self._observed.ready
        return here is not None and here.epoch > before.epoch
