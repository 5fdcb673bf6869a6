"""Streams that find no room move to where there is some."""

import signal
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from itertools import count
from typing import Any

import httpx
import pytest
from msgspec.structs import replace
from sqlalchemy import Engine, select

from deploy.local.environment import minimal_environment
from schemas.messages import Down, Reason, Status, StreamStatus, now
from schemas.tables import streams
from schemas.topics import MOVED_TO, STREAM_STATUS, STREAMS, Topic
from services.gateway.observed import Observed
from services.gateway.realtime.follow import Follower
from services.gateway.realtime.hub import Hub
from services.gateway.realtime.news import News
from services.gateway.reconciler.bury import Burial
from services.gateway.reconciler.move import (
    MOVES_A_MINUTE,
    Moves,
    is_expected,
    is_quiet,
    owners,
    reached,
    target,
    wanted,
    without_room,
)
from services.gateway.reconciler.reconcile import Reconciler, differences
from services.gateway.reconciler.silence import Silences
from services.gateway.reconciler.specs import Specs
from services.gateway.streams import StreamRow, begin_move, change, find, mark_deleted
from services.process.kafka import headers_of
from tests.gateway.clock import Clock
from tests.gateway.gateway_process import running
from tests.gateway.messages import NOON, an_instance
from tests.gateway.parts import INTERNAL_KEY, said
from tests.gateway.reconciler.ingestors import Ingestors, Site
from tests.gateway.reconciler.spoken import Spoken
from tests.gateway.test_answers import a_row
from tests.gateway.topic import all_of, last_values, wait_until

A, B, C, D = (f"01KAPZ000000000000000000{letter}0" for letter in "ABCD")
MOVING = a_row(id=A, slot=2, old_slot=0, generation=5)
OLD, NEW = (0, A), (2, A)
HALT = replace(MOVING.spec, slot=0, generation=4, running=False, moving=True)
BEFORE = replace(HALT, generation=3, running=True)


def test_a_stream_that_moves_is_told_to_stop_before_anything_is_said_in_its_new_slot():
    assert list(differences([MOVING], {OLD: BEFORE})) == [(OLD, HALT)]
    assert list(differences([MOVING], {OLD: HALT})) == []


def test_once_it_has_left_it_is_said_in_its_new_slot_and_no_more_in_the_old():
    left = {A: None}
    assert list(differences([MOVING], {OLD: HALT}, left)) == [(NEW, MOVING.spec), (OLD, None)]
    assert list(differences([MOVING], {OLD: HALT, NEW: MOVING.spec}, left)) == [(OLD, None)]
    assert list(differences([MOVING], {}, left)) == [(NEW, MOVING.spec)]
    assert list(differences([MOVING], {NEW: MOVING.spec}, left)) == []


@pytest.mark.parametrize(
    ("told", "seen", "quiet"),
    [
        (BEFORE, said(A, Status.STOPPED, 3), False),  # was told nothing yet
        (HALT, said(A, Status.ERROR, 3), False),
        (HALT, said(A, Status.STOPPED, 3), False),  # handed over: the next owner may run it
        (HALT, said(A, Status.STOPPING, 4), False),
        (HALT, said(A, Status.STOPPED, 4), True),
        (HALT, None, False),
        ("poison", said(A, Status.STOPPED, 4), False),
        (None, said(A, Status.ERROR, 4), False),
        (None, said(A, Status.STOPPED, 4), True),
        (None, None, True),
    ],
)
def test_it_has_left_when_it_is_seen_stopped_as_it_was_told(told, seen, quiet):
    topic = {} if told is None else {OLD: None if told == "poison" else told}
    assert is_quiet(MOVING, topic, seen) is quiet


def test_what_was_said_in_the_new_slot_is_not_taken_back():
    assert is_expected(MOVING, {NEW: MOVING.spec})
    assert not is_expected(MOVING, {NEW: replace(MOVING.spec, generation=2)})  # from long ago
    assert not is_expected(MOVING, {})


def test_a_row_passes_what_was_forged_in_either_of_its_slots():
    assert reached(MOVING, {OLD: HALT, NEW: MOVING.spec}) == MOVING.generation
    assert reached(MOVING, {OLD: replace(HALT, generation=90)}) == 91
    assert wanted(a_row(id=A, slot=2, old_slot=0, generation=92), {})[1].generation == 91
    assert reached(a_row(id=A, slot=2), {OLD: replace(HALT, generation=90)}) == 0


FULL = {"reason": Reason.CAPACITY, "owner": "full"}


def test_an_event_goes_on_in_the_new_slot_until_the_move_is_over():
    """As it was said there once, also while the old slot's status is not read yet."""
    down = Down(started_at=NOON, reason=Reason.CAPACITY)
    handed_over = replace(MOVING.spec, begun=down)
    assert list(differences([MOVING], {OLD: HALT}, {A: down})) == [(NEW, handed_over), (OLD, None)]
    specs: Any = Spoken(delivers=True)
    specs.said = {NEW: handed_over}
    assert Moves(Observed()).left([MOVING], specs) == {A: down}
    settled = a_row(id=A, slot=2, generation=5)
    assert list(differences([settled], {NEW: handed_over})) == [(NEW, settled.spec)]


class Said:
    """Statuses by slot and stream."""

    def __init__(self, *found: tuple[int, StreamStatus]) -> None:
        self._found = {(slot, status.stream_id): status for slot, status in found}

    def __call__(self, slot: int, stream_id: str) -> StreamStatus | None:
        return self._found.get((slot, stream_id))


def moved(rows: list[StreamRow], alive: Any, statuses: Said) -> tuple[list[str], int | None]:
    """Who would move, in this order, and where the first would."""
    owned = owners(rows, alive, statuses, slots=8)
    waiting = without_room(rows, owned, statuses)
    return [row.id for row in waiting], target(waiting[0], rows, owned) if waiting else None


def test_who_waits_longest_moves_to_the_emptiest_slot_of_the_least_loaded():
    at = now()
    rows = [a_row(id=id, slot=slot) for id, slot in [(A, 0), (B, 0), (C, 0), (D, 4)]]
    statuses = Said(
        (0, said(A, Status.RUNNING, 3, owner="full")),
        (0, said(B, Status.ERROR, 3, since=at, **FULL)),
        (0, said(C, Status.ERROR, 3, since=at - timedelta(seconds=1), **FULL)),
        (4, said(D, Status.RUNNING, 3, owner="half")),
    )
    alive = [
        an_instance("full", capacity=1, load=1, slots=(0, 1)),
        an_instance("half", capacity=2, load=1, slots=(2, 3)),
        an_instance("large", capacity=9, load=0, slots=(4, 5, 6, 9)),
        an_instance("spare", capacity=9, load=0),
    ]
    assert moved(rows, alive, statuses) == ([C, B], 5)
    assert moved(rows, alive[:2], statuses) == ([C, B], 2)
    assert moved(rows, alive[:1], statuses) == ([C, B], None)


def test_nobody_moves_to_the_owner_that_it_has():
    """A bulk stop makes room there at once, while the last word of who waits is still CAPACITY."""
    rows = [a_row(id=A, slot=0), a_row(id=B, slot=2)]
    statuses = Said(
        (0, said(A, Status.ERROR, 3, **FULL)),
        (2, said(B, Status.ERROR, 3, since=now(), reason=Reason.CAPACITY, owner="other")),
    )
    alive = [
        an_instance("full", capacity=3, load=2, slots=(0, 1)),
        an_instance("other", capacity=3, load=3, slots=(2, 3)),
    ]
    assert moved(rows[:1], alive, statuses) == ([A], None)
    owned = owners(rows, alive, statuses, slots=8)
    assert [target(row, rows, owned) for row in rows] == [None, 1]


def test_what_was_sent_somewhere_counts_there_before_it_has_arrived():
    sent = [a_row(id=id, slot=2, old_slot=0) for id in (B, C)]
    waiting = a_row(id=A, slot=0)
    statuses = Said((0, said(A, Status.ERROR, 3, **FULL)))
    alive = [
        an_instance("full", capacity=1, load=1, slots=(0, 1)),
        an_instance("other", capacity=3, load=0, slots=(2, 3)),
    ]
    assert moved([waiting, *sent], alive, statuses) == ([A], 3)
    more = a_row(id=D, slot=3)
    assert moved([waiting, *sent, more], alive, statuses) == ([A], None)
    ended = Said(
        (0, said(A, Status.ERROR, 3, **FULL)),
        (3, said(D, Status.STOPPED, 3, reason=Reason.ENDED)),
    )
    assert moved([waiting, *sent, more], alive, ended) == ([A], 3)
    stopped = a_row(id=D, slot=3, running=False)
    assert moved([waiting, *sent, stopped], alive, statuses) == ([A], 3)


@pytest.mark.parametrize(
    ("row", "status", "slots"),
    [
        ({}, FULL, ()),  # nobody owns its slot: an ingestor will take it
        ({}, FULL | {"owner": "before"}, (0,)),  # its owner has just changed
        ({}, FULL | {"reason": Reason.UNREACHABLE}, (0,)),
        ({"generation": 4}, FULL, (0,)),  # changed since
        ({"running": False}, FULL, (0,)),
        ({"deleted_at": now()}, FULL, (0,)),
        ({"slot": 0, "old_slot": 1}, FULL, (0,)),  # on its way
    ],
)
def test_only_what_its_owner_has_no_room_for_now_moves(row, status, slots):
    rows = [a_row(**{"id": A, "slot": 0} | row)]
    alive = [an_instance("full", capacity=1, slots=slots), an_instance("b", capacity=1, slots=(2,))]
    assert moved(rows, alive, Said((0, said(A, Status.ERROR, 3, **status))))[0] == []


def test_of_two_that_claim_a_slot_the_one_that_spoke_last_has_it():
    alive = [an_instance("new", slots=(0,)), an_instance("old", slots=(0, 1))]
    slots = {owner.instance.instance: owner.slots for owner in owners([], alive, Said(), 8)}
    assert slots == {"new": [0], "old": [1]}


def test_a_row_does_not_move_to_where_it_is(engine: Engine):
    row = a_row(id=A, slot=1)
    with engine.connect() as connection:
        connection.execute(streams.insert().values(**vars(row)))
        assert not begin_move(connection, row, 1)
        assert begin_move(connection, row, 2)
        assert not begin_move(connection, row, 3)  # it was changed meanwhile
        connection.rollback()


def test_all_moves_that_are_over_wait_once_for_the_broker(engine: Engine):
    rows = [a_row(id=id, slot=2, old_slot=0) for id in (A, B, C)]
    specs: Any = Spoken(delivers=False)
    specs.said = {(row.slot, row.id): row.spec for row in rows}
    observed = Observed()
    observed.note_ready()
    with engine.connect() as connection:
        connection.execute(streams.insert(), [vars(row) for row in rows])
        moves = Moves(observed)
        moves.end(connection, rows, specs)
        assert (specs.waits, len(specs.forgotten)) == (1, 3)
        left = select(streams.c.id).where(streams.c.old_slot.is_not(None))
        assert len(connection.execute(left).all()) == 3
        specs.delivers = True
        moves.end(connection, rows, specs)
        assert connection.execute(left).all() == []
        connection.rollback()


# On a real broker and database, with ingestors of the test's own.


class Scene:
    """Two ingestors, the table and the topic."""

    def __init__(self, kafka: str, prefix: str, engine: Engine) -> None:
        self.full = Site("full", (0, 1), capacity=2)
        self.empty = Site("empty", (2, 3), capacity=0)
        self.ingestors = Ingestors(kafka, prefix, self.full, self.empty)
        self.topic = partial(last_values, kafka, prefix)
        self._kafka, self._prefix = kafka, prefix
        self._engine = engine

    def store(self, **more: Any) -> str:
        """A stream in a slot of the one that will be full."""
        id = next(_ids)
        with self._engine.begin() as connection:
            connection.execute(streams.insert().values(**vars(a_row(id=id, slot=0, **more))))
        return id

    def row(self, id: str) -> StreamRow:
        with self._engine.connect() as connection:
            found = connection.execute(select(streams).where(streams.c.id == id))
            return StreamRow(**found.mappings().one())

    def exists(self, id: str) -> bool:
        with self._engine.connect() as connection:
            found = connection.execute(select(streams.c.id).where(streams.c.id == id))
            return found.first() is not None

    def alter(self, id: str, **values: Any) -> None:
        """As a client does."""
        with self._engine.begin() as connection:
            change(connection, find(connection, id, for_update=True), values)

    def delete(self, id: str) -> None:
        with self._engine.begin() as connection:
            mark_deleted(connection, find(connection, id, for_update=True), purge=False)

    def lacks_room(self, id: str) -> bool:
        status = self.ingestors.last(0, id)
        return status is not None and status.reason is Reason.CAPACITY

    def homes_told(self, topic: Topic[Any], id: str) -> list[str | None]:
        """Where the stream lives on, by each of its tombstones, in the order in which they came:
        partitions are read in any."""
        found = all_of(self._kafka, topic.named(self._prefix))
        found.sort(key=lambda each: each.timestamp()[1])
        ends = [each for each in found if each.key() == id.encode() and each.value() is None]
        return [
            next((value.decode() for name, value in headers_of(each) if name == MOVED_TO), None)
            for each in ends
        ]

    def is_told_to_stop(self, id: str) -> bool:
        spec = self.topic().get((0, id))
        return spec is not None and not spec.running

    def is_said_anew(self, id: str) -> bool:
        return (2, id) in self.topic()

    def has_arrived(self, id: str) -> bool:
        row = self.row(id)
        return (row.slot, row.old_slot) == (2, None) and id in self.empty.running

    def begin(self, id: str, *, until_it_has_left: bool) -> None:
        """A move, to go on once both ingestors listen again."""
        self.full.is_deaf, self.empty.is_deaf = not until_it_has_left, until_it_has_left
        self.empty.capacity = 1
        wait_until(lambda: (self.is_said_anew if until_it_has_left else self.is_told_to_stop)(id))

    def go_on(self) -> None:
        self.full.is_deaf = self.empty.is_deaf = False


_ids = (f"01KAPZ00000000000000000{number:03}" for number in count())


@pytest.fixture
def scene(kafka, topic_prefix, engine: Engine) -> Iterator[Scene]:
    with engine.begin() as connection:
        connection.execute(streams.delete())
    made = Scene(kafka, topic_prefix, engine)
    made.ingestors.start()
    yield made
    made.ingestors.stop()
    assert made.ingestors.twice == []


@pytest.fixture
def observed(kafka, topic_prefix) -> Iterator[Observed]:
    observed, hub = Observed(), Hub[News]()
    follower = Follower({"bootstrap.servers": kafka}, topic_prefix, observed, hub)
    follower.start()
    yield observed
    follower.stop()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def reconciler(
    database_url, kafka, topic_prefix, observed, clock, monkeypatch
) -> Iterator[Reconciler]:
    monkeypatch.setattr("services.gateway.reconciler.reconcile.EVERY_S", 0.1)
    specs = partial(Specs, {"bootstrap.servers": kafka}, topic_prefix, "sightlog/gateway/test")
    burial = Burial(observed, lambda *_: 0)
    made = Reconciler(database_url, specs, burial, Moves(observed, clock), Silences(observed))
    made.start()
    yield made
    made.stop()


@pytest.fixture
def three(scene, reconciler) -> list[str]:
    """In slots of one ingestor, which has room for two; the last finds none."""
    ids = [scene.store(), scene.store()]
    wait_until(lambda: scene.full.running == {*ids})
    ids.append(scene.store())
    wait_until(lambda: scene.lacks_room(ids[-1]))
    return ids


def test_a_stream_moves_to_where_there_is_room_and_nothing_of_it_stays(scene, observed, three):
    *others, id = three
    scene.empty.capacity = 1
    wait_until(lambda: scene.has_arrived(id))
    row = scene.row(id)
    assert row.generation == 5
    assert scene.topic() == {(each.slot, each.id): each.spec for each in map(scene.row, three)}
    wait_until(lambda: observed.status_in(0, id) is None)
    assert scene.homes_told(STREAMS, id) == ["2"]
    assert set(scene.homes_told(STREAM_STATUS, id)) == {"2"}  # again, where the broker was slow
    status = observed.status(id)
    assert (status.status, status.owner) == (Status.RUNNING, "empty")
    assert scene.full.running == {*others}


def test_nobody_moves_where_nobody_has_room(scene, observed, three):
    wait_until(lambda: len(observed.instances.alive()) == 2)
    for _ in range(3):
        later = scene.store(running=False)  # said in a later pass
        wait_until(lambda: observed.spec(later) is not None)  # noqa: B023 -- called at once
    row = scene.row(three[-1])
    assert (row.slot, row.old_slot, row.generation) == (0, None, 3)


def test_a_few_move_a_minute(scene, clock, three):
    waiting = [three[-1], scene.store(), scene.store()]
    wait_until(lambda: all(map(scene.lacks_room, waiting)))
    scene.empty.capacity = 5
    for moved in range(1, 4):
        wait_until(lambda: len(scene.empty.running) == moved)  # noqa: B023 -- called at once
        assert sum(scene.row(id).slot == 0 for id in waiting) == 3 - moved
        clock.at += 60 / MOVES_A_MINUTE
    assert scene.full.running == {*three[:2]}


def test_a_change_on_the_way_arrives(scene, three):
    id = three[-1]
    scene.begin(id, until_it_has_left=False)
    scene.alter(id, fps=9)
    wait_until(lambda: scene.topic()[0, id].fps == 9)
    assert scene.is_told_to_stop(id)
    assert not scene.is_said_anew(id)
    scene.begin(id, until_it_has_left=True)
    scene.alter(id, fps=8)
    wait_until(lambda: scene.topic()[2, id].fps == 8)
    scene.go_on()
    wait_until(lambda: scene.has_arrived(id))
    assert scene.topic()[2, id] == scene.row(id).spec


@pytest.mark.parametrize("late", [False, True], ids=["before it has left", "after it has left"])
def test_who_is_stopped_on_the_way_arrives_stopped_and_starts_there(scene, observed, three, late):
    """The old slot's word stays until a higher epoch is there: fences have it from nowhere else."""
    id = three[-1]
    scene.begin(id, until_it_has_left=late)
    scene.alter(id, running=False)
    if late:  # its new owner would begin with an older word, if that were all
        wait_until(lambda: scene.topic()[2, id] == scene.row(id).spec)
        wait_until(lambda: scene.ingestors.has_read((2, id), scene.row(id).spec))
    scene.go_on()
    wait_until(lambda: scene.topic().get((2, id)) == scene.row(id).spec)
    wait_until(lambda: (0, id) not in scene.topic())
    wait_until(lambda: observed.status_in(2, id) is not None)
    assert scene.empty.running == set()
    assert scene.row(id).old_slot == 0
    epoch = observed.status_in(0, id).epoch
    scene.alter(id, running=True)
    wait_until(lambda: scene.has_arrived(id))
    assert observed.status(id).epoch > epoch


AT_ONCE, SOON = timedelta(seconds=0.3), timedelta(seconds=5)


@pytest.mark.parametrize("late", [False, True], ids=["before it has left", "after it has left"])
def test_who_is_deleted_on_the_way_leaves_nothing(scene, observed, three, late, monkeypatch):
    patience = SOON if late else AT_ONCE  # for the last word of one who had begun
    monkeypatch.setattr("services.gateway.reconciler.bury.NOT_BEGUN_AFTER", patience)
    id = three[-1]
    scene.begin(id, until_it_has_left=late)
    scene.delete(id)
    if not late:  # the old slot's owner has not said that it stopped
        deleted_at = now()
        wait_until(lambda: now() - deleted_at > 4 * AT_ONCE)
        assert scene.exists(id)
    scene.go_on()
    wait_until(lambda: not scene.exists(id), 30)
    assert not [place for place in scene.topic() if place[1] == id]
    assert scene.homes_told(STREAMS, id)[-1] is None
    wait_until(lambda: observed.status(id) is None)
    assert id not in scene.full.running | scene.empty.running


FEW = ["before_publish:1", "after_publish:1", "before_publish:2"]
"""Before it is told to stop, after that, and when it was said in its new slot, perhaps, and the old
one has no tombstone yet."""
ALL = ["before_publish:1", "after_publish:1", "before_publish:1", "before_publish:2"]
ALL += ["after_publish:1"]


@pytest.fixture
def environment(database_url, kafka, topic_prefix, tmp_path) -> dict[str, str]:
    return minimal_environment() | {
        "DATABASE_URL": database_url,
        "KAFKA_BOOTSTRAP_SERVERS": kafka,
        "SIGHTLOG_TOPIC_PREFIX": topic_prefix,
        "SIGHTLOG_INTERNAL_KEY": INTERNAL_KEY,
        "FRAME_STORAGE_PATH": str(tmp_path / "frames"),
        "GATEWAY_AUTH": "off",
    }


@pytest.mark.parametrize("points", [FEW, pytest.param(ALL, marks=pytest.mark.soak)])
def test_a_move_goes_on_wherever_a_gateway_dies(
    scene, three, reconciler, environment, tmp_path, points
):
    id = three[-1]
    reconciler.stop()
    scene.empty.capacity = 1
    for point in points:
        crash = {"SIGHTLOG_CRASH_AT": f"reconciler.{point}"}
        with running(environment | crash, tmp_path) as doomed:
            assert doomed.wait(30) == -signal.SIGKILL, point
    with running(environment, tmp_path) as gateway:
        wait_until(lambda: scene.has_arrived(id))
        answer = httpx.get(f"{gateway.url}/streams/{id}").json()
        assert (answer["status"], answer["owner"]) == ("RUNNING", "empty")
    assert scene.topic() == {(each.slot, each.id): each.spec for each in map(scene.row, three)}
