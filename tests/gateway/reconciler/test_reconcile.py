"""The topic agrees with the table, whatever happened to either."""

import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any
from uuid import UUID

import msgspec
import pytest
from sqlalchemy import Engine, Table, func, insert, select, text
from sqlalchemy.exc import DBAPIError
from structlog.testing import capture_logs

from schemas.messages import (
    Down,
    Reason,
    Status,
    StreamSpec,
    down_event,
    image_path,
    now,
    snapshot_key,
)
from schemas.tables import detections, heartbeats, ledgers, status_history, statuses, streams
from schemas.topics import STREAMS
from services.gateway.observed import Observed
from services.gateway.reconciler.bury import (
    FORGOTTEN_AFTER,
    NO_OWNER_AFTER,
    Burial,
    is_over,
    next_sweep,
)
from services.gateway.reconciler.move import Moves
from services.gateway.reconciler.reconcile import (
    LAST_GENERATION,
    LET_GO,
    Reconciler,
    differences,
)
from services.gateway.reconciler.silence import Silences
from services.gateway.reconciler.specs import Place, Specs
from services.gateway.snapshots import Snapshots
from tests.gateway.parts import said
from tests.gateway.reconciler.spoken import Spoken
from tests.gateway.test_answers import a_row
from tests.gateway.test_detections import NAME, NOON
from tests.gateway.test_detections import a_row as a_detection
from tests.gateway.topic import decoded, last_values, messages, say, wait_until

DOWN = Down(started_at=now() - timedelta(hours=1), reason=Reason.TIMEOUT, revision=1)
ENDED = msgspec.structs.replace(DOWN, ended_at=now(), revision=2)
A, B, C = (f"01KAPZ000000000000000000{letter}0" for letter in "ABC")


def test_what_agrees_is_left_alone():
    row = a_row()
    assert list(differences([row], {(row.slot, row.id): row.spec})) == []


@pytest.mark.parametrize("topic", ["missing", "undecodable", "stale", "ahead"])
def test_what_differs_is_said(topic):
    row = a_row()
    place = row.slot, row.id
    said: dict[str, dict[Place, StreamSpec | None]] = {
        "missing": {},
        "undecodable": {place: None},
        "stale": {place: msgspec.structs.replace(row.spec, generation=2, running=False)},
        "ahead": {place: msgspec.structs.replace(row.spec, generation=9)},
    }
    assert list(differences([row], said[topic])) == [(place, row.spec)]


@pytest.mark.parametrize("generation", [LAST_GENERATION, 2**53])
def test_a_generation_that_no_row_can_pass_is_deleted_first_since_readers_ignore_lower_ones(
    generation,
):
    row = a_row()
    place = row.slot, row.id
    forged = msgspec.structs.replace(row.spec, generation=generation)
    assert list(differences([row], {place: forged})) == [(place, None), (place, row.spec)]


def test_what_has_no_row_gets_a_tombstone():
    alive, deleted = a_row(id=A), a_row(id=B, deleted_at=now())
    said = {
        (2, A): alive.spec,
        (2, B): deleted.spec,
        (2, C): replace(alive, id=C).spec,
        (3, A): alive.spec,
    }
    assert list(differences([alive, deleted], said)) == [
        ((2, B), None),
        ((2, C), None),
        ((3, A), None),
    ]


@pytest.fixture
def observed() -> Observed:
    observed = Observed()
    observed.note_ready()
    return observed


@pytest.fixture(scope="module")
def snapshots(tmp_path_factory: pytest.TempPathFactory) -> Snapshots:
    return Snapshots(tmp_path_factory.mktemp("frames"))


@pytest.fixture
def make_reconciler(database_url, kafka, topic_prefix, observed, snapshots):
    specs = partial(Specs, {"bootstrap.servers": kafka}, topic_prefix, "sightlog/gateway/test")
    burial = Burial(observed, snapshots.remove)
    moves, silences = Moves(observed), Silences(observed)
    return lambda: Reconciler(database_url, specs, burial, moves, silences)


@pytest.fixture
def reconciler(make_reconciler) -> Iterator[Reconciler]:
    made = make_reconciler()
    made.start()
    yield made
    made.stop()


@pytest.fixture(autouse=True)
def no_streams(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(streams.delete())


@pytest.fixture
def topic(kafka, topic_prefix):
    """What the topic says now."""
    return partial(last_values, kafka, topic_prefix)


def store(engine: Engine, *rows) -> None:
    with engine.begin() as connection:
        for row in rows:
            connection.execute(insert(streams).values(**vars(row)))


def agrees(topic, *rows) -> bool:
    wanted: dict[tuple[int, str], StreamSpec] = {(row.slot, row.id): row.spec for row in rows}
    return bool(topic() == wanted)


def test_rows_are_said_in_their_slots(reconciler, engine, topic):
    rows = [a_row(id=A, slot=0), a_row(id=B, slot=3, labels=["person"], sealed_credentials="AAAA")]
    store(engine, *rows)
    wait_until(lambda: agrees(topic, *rows))


def test_lost_foreign_stale_and_broken_messages_are_healed(
    reconciler, engine, topic, kafka, topic_prefix
):
    rows = [a_row(id=A, slot=0), a_row(id=B, slot=3)]
    store(engine, *rows)
    wait_until(lambda: agrees(topic, *rows))
    tell = partial(say, kafka, topic_prefix)
    tell(0, A, None)
    tell(3, B, b"not JSON")
    tell(3, A, STREAMS.encode(rows[0].spec))
    tell(1, C, STREAMS.encode(a_row(id=C, slot=1).spec))
    wait_until(lambda: agrees(topic, *rows))
    tell(0, A, STREAMS.encode(replace(rows[0], generation=1, fps=30).spec))
    wait_until(lambda: agrees(topic, *rows))


@pytest.mark.usefixtures("reconciler")
def test_poison_under_a_streams_key_is_healed(engine, topic, kafka, topic_prefix):
    row, other = a_row(id=A, slot=0), a_row(id=B, slot=0)
    store(engine, row, other)
    wait_until(lambda: agrees(topic, row, other))
    begun = time.monotonic()
    for poison in (b"{", b"null", b"\xff", b"[" * 5000, STREAMS.encode(other.spec), None):
        say(kafka, topic_prefix, 0, A, poison)
        wait_until(lambda: agrees(topic, row, other), 4 * 5)
    print(f"six times healed within {time.monotonic() - begun:.1f} s (bar 5 s each)")


@pytest.mark.usefixtures("reconciler")
def test_a_row_passes_a_generation_that_was_forged_since_readers_ignore_lower_ones(
    engine, topic, kafka, topic_prefix
):
    row = a_row(id=A, slot=0)
    store(engine, row)
    wait_until(lambda: agrees(topic, row))
    forged = replace(row, generation=900, fps=30)
    say(kafka, topic_prefix, 0, A, STREAMS.encode(forged.spec))
    passed = replace(row, generation=901)
    wait_until(lambda: agrees(topic, passed), 4 * 5)
    with engine.connect() as connection:
        found = select(streams.c.generation).where(streams.c.id == A)
        assert connection.execute(found).scalar_one() == 901


@pytest.mark.usefixtures("reconciler")
def test_a_row_stays_what_it_is_when_the_highest_generation_of_all_is_forged(
    engine, topic, kafka, topic_prefix
):
    row = a_row(id=C, slot=2)
    store(engine, row)
    wait_until(lambda: agrees(topic, row))
    forged = replace(row, generation=2**53, fps=30)
    say(kafka, topic_prefix, 2, C, STREAMS.encode(forged.spec))
    wait_until(lambda: agrees(topic, row), 4 * 5)
    said = [value for *at, value in messages(kafka, topic_prefix) if at == [2, C]]
    assert said[-2] is None
    assert said[-1] is not None
    assert decoded(said[-1]) == row.spec


def test_the_lock_of_a_leader_that_froze_is_let_go(make_reconciler, engine, topic, monkeypatch):
    """Its session is ended by the server: nobody else would ever lead."""
    brief = LET_GO.replace("idle_session_timeout=10s", "idle_session_timeout=500ms")
    assert brief != LET_GO
    monkeypatch.setattr("services.gateway.reconciler.reconcile.LET_GO", brief)
    frozen = make_reconciler()
    with frozen._elected() as connection:
        assert connection is not None
        monkeypatch.undo()
        other = make_reconciler()
        other.start()
        row = a_row(id=A)
        store(engine, row)
        wait_until(lambda: agrees(topic, row))
        other.stop()
        with pytest.raises(DBAPIError):
            connection.execute(text("SELECT 1"))


def test_what_agrees_is_not_said_again(reconciler, engine, topic, kafka, topic_prefix):
    row = a_row(id=A)
    store(engine, row)
    wait_until(lambda: agrees(topic, row))
    count = len(messages(kafka, topic_prefix))
    last = replace(row, id=B)
    for _ in range(3):
        reconciler.nudge()
    store(engine, last)
    wait_until(lambda: agrees(topic, row, last))
    assert len(messages(kafka, topic_prefix)) == count + 1


def test_a_row_in_a_slot_that_is_not_there_keeps_no_other_waiting(
    reconciler, engine, topic, observed
):
    with capture_logs() as logs:
        store(engine, a_row(id=A, slot=4711))
        row = a_row(id=B, slot=2)
        store(engine, row)
        wait_until(lambda: agrees(topic, row))
        later = a_row(id=C, slot=1)
        store(engine, later)
        wait_until(lambda: agrees(topic, row, later))
    astray = [entry for entry in logs if entry["event"] == "stream.astray"]
    assert [(entry["stream"], entry["slot"]) for entry in astray] == [(A, 4711)]
    observed.note_status(2, said(A, Status.STOPPED, 3), now())
    delete(engine, A)
    wait_until(lambda: not exists(engine, A))


def test_only_one_reconciles_and_another_takes_over(make_reconciler, engine, topic):
    first, second = make_reconciler(), make_reconciler()
    first.start()
    row = a_row(id=A)
    store(engine, row)
    wait_until(lambda: agrees(topic, row))
    second.start()
    first.stop()
    changed = replace(row, id=B)
    store(engine, changed)
    wait_until(lambda: agrees(topic, row, changed))
    second.stop()


def test_who_loses_the_lock_begins_again(reconciler, engine, topic):
    row = a_row(id=A)
    store(engine, row)
    wait_until(lambda: agrees(topic, row))
    with engine.begin() as connection:
        connection.execute(
            text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = 'sightlog-reconciler'"
            )
        )
    another = replace(row, id=B)
    store(engine, another)
    wait_until(lambda: agrees(topic, row, another))


def exists(engine: Engine, id: str) -> bool:
    with engine.connect() as connection:
        return (
            connection.execute(select(streams.c.id).where(streams.c.id == id)).first() is not None
        )


def delete(engine: Engine, id: str, **more) -> None:
    values = {"deleted_at": now(), "running": False, "generation": streams.c.generation + 1} | more
    with engine.begin() as connection:
        connection.execute(streams.update().where(streams.c.id == id).values(values))


def rows_of(engine: Engine, table: Table, id: str) -> int:
    with engine.connect() as connection:
        count = select(func.count()).select_from(table).where(table.c.stream_id == id)
        return connection.execute(count).scalar_one()


def test_a_deleted_row_stays_until_its_stream_has_stopped(reconciler, engine, topic, observed):
    row = a_row(id=A)
    store(engine, row)
    wait_until(lambda: agrees(topic, row))
    observed.note_status(2, said(A, Status.RUNNING, 3), now())
    delete(engine, A)
    reconciler.nudge()
    wait_until(lambda: agrees(topic))
    assert exists(engine, A)
    observed.note_status(2, said(A, Status.STOPPED, 4), now())
    reconciler.nudge()
    wait_until(lambda: not exists(engine, A))


@pytest.mark.parametrize(
    ("status", "generation", "young", "after_a_minute"),
    [
        (Status.STOPPED, 7, True, True),
        (Status.STOPPED, 1, False, True),  # its camera may be about to start
        (Status.RUNNING, 7, False, False),
        (None, 0, False, True),
    ],
)
def test_a_row_is_over_once_its_last_spec_is_known_to_be_stopped(
    status, generation, young, after_a_minute
):
    deleted_at = now()
    row = a_row(id=A, generation=8, running=False, deleted_at=deleted_at)
    seen = None if status is None else said(A, status, generation)
    ages = [timedelta(seconds=1), timedelta(minutes=1), NO_OWNER_AFTER + timedelta(seconds=1)]
    ended = [is_over(row, seen, set(), deleted_at + age) for age in ages]
    assert ended == [young, after_a_minute, True]
    assert not is_over(row, seen, {A}, deleted_at + ages[-1])


@pytest.mark.parametrize(
    ("status", "waits"), [(Status.STOPPED, True), (Status.ERROR, True), (None, False)]
)
def test_a_row_waits_for_an_owner_that_has_an_event_to_end(status, waits):
    """A status that came after the tombstone would stay for ever."""
    deleted_at, minute = now(), timedelta(minutes=1)
    row = a_row(id=A, generation=8, running=False, deleted_at=deleted_at)
    seen = None if status is None else said(A, status, 7, down=DOWN)
    assert is_over(row, seen, set(), deleted_at + minute) is not waits
    assert is_over(row, seen, set(), deleted_at + NO_OWNER_AFTER + minute)
    if seen is not None and status is Status.STOPPED:
        told = msgspec.structs.replace(seen, down=ENDED)
        assert is_over(row, told, set(), deleted_at + minute)


@pytest.mark.parametrize("old_slot", [None, 1])
def test_who_buries_a_stream_ends_the_event_that_its_dead_owner_told_of(engine, observed, old_slot):
    at = now() - 2 * NO_OWNER_AFTER
    row = a_row(id=A, slot=2, old_slot=old_slot, generation=8, running=False, deleted_at=at)
    place = 2 if old_slot is None else old_slot
    observed.note_status(place, said(A, Status.ERROR, 7, down=DOWN), now())
    specs: Any = Spoken()
    with engine.connect() as connection:
        Burial(observed, lambda *_: 0).bury(connection, specs, [row])
    (event,) = specs.told
    assert event == down_event(A, msgspec.structs.replace(ENDED, ended_at=at))
    assert (place, A) in specs.forgotten


@pytest.fixture
def make_speaker(database_url, observed, monkeypatch):
    """A reconciler of these specs."""
    monkeypatch.setattr("services.gateway.reconciler.reconcile.EVERY_S", 0.01)
    monkeypatch.setattr("services.gateway.reconciler.reconcile.ELECTION_EVERY_S", 0.01)
    burial, made = Burial(observed, lambda *_: 0), []

    def make(specs: Iterator[Any]) -> None:
        moves, silences = Moves(observed), Silences(observed)
        made.append(Reconciler(database_url, lambda: next(specs), burial, moves, silences))
        made[-1].start()

    yield make
    for reconciler in made:
        reconciler.stop()


def test_nothing_is_said_again_while_it_waits_for_the_broker(make_speaker, engine):
    at = now() - 2 * NO_OWNER_AFTER
    buried = [a_row(id=id, generation=8, running=False, deleted_at=at) for id in (A, B, C)]
    store(engine, *buried)
    specs = Spoken(delivers=False)
    make_speaker(iter([specs]))
    wait_until(lambda: specs.passes > 20)
    assert sorted(specs.forgotten) == [(2, A), (2, B), (2, C)]
    assert specs.waits == 1  # for all of them: who waits long without a query loses the lock
    assert all(exists(engine, row.id) for row in buried)
    specs.delivers = True
    wait_until(lambda: not any(exists(engine, row.id) for row in buried))


def test_a_full_queue_of_the_client_ends_no_gateway(make_speaker, engine):
    at = now() - 2 * NO_OWNER_AFTER
    store(engine, a_row(id=A, generation=8, running=False, deleted_at=at))
    make_speaker(iter([Spoken(holds=0), Spoken()]))
    wait_until(lambda: not exists(engine, A))


def test_a_purged_stream_is_swept_ever_more_rarely_and_forgotten_after_what_kafka_keeps():
    deleted_at, minute = now(), timedelta(minutes=1)
    sweeps = [deleted_at]
    while (again := next_sweep(deleted_at, sweeps[-1])) is not None:
        sweeps.append(again)
    assert [at - deleted_at for at in sweeps[1:4]] == [minute, 2 * minute, 4 * minute]
    assert sweeps[-1] == deleted_at + FORGOTTEN_AFTER
    assert len(sweeps) < 20


@pytest.mark.usefixtures("reconciler")
def test_what_comes_of_a_purged_stream_later_is_swept_until_it_is_forgotten(
    engine, topic, monkeypatch
):

    def at_once(deleted_at, at):
        return None if at >= deleted_at + FORGOTTEN_AFTER else at

    monkeypatch.setattr("services.gateway.reconciler.bury.next_sweep", at_once)
    row = a_row(id=A)
    store(engine, row)
    wait_until(lambda: agrees(topic, row))
    delete(engine, A, purge=True, deleted_at=now() - timedelta(minutes=1))
    wait_until(lambda: agrees(topic))
    with engine.begin() as connection:
        connection.execute(insert(detections), [a_detection(1, stream_id=A)])
    wait_until(lambda: not rows_of(engine, detections, A))
    assert exists(engine, A)
    delete(engine, A, purge=True, deleted_at=now() - FORGOTTEN_AFTER)
    wait_until(lambda: not exists(engine, A))


def test_a_purge_takes_rows_and_pictures_of_that_stream_only(
    reconciler, engine, topic, observed, snapshots, monkeypatch
):
    monkeypatch.setattr("services.gateway.reconciler.bury.ROWS_AT_ONCE", 4)
    rows = [a_row(id=A), a_row(id=B)]
    store(engine, *rows)
    found = [
        a_detection(n, stream_id=id, id=UUID(int=1000 * i + n), image_path=image_path(id, NAME))
        for i, id in enumerate((A, B))
        for n in range(10)
    ]
    with engine.begin() as connection:
        connection.execute(insert(detections), found)
        connection.execute(
            insert(statuses).values(
                stream_id=A,
                status="STOPPED",
                since=NOON,
                attempt=0,
                epoch=7,
                observed_generation=3,
                topic_partition=2,
                topic_offset=0,
            )
        )
        connection.execute(
            insert(heartbeats).values(stream_id=A, epoch=7, at=now(), value={"streamId": A})
        )
        counts = {"captured": 1, "published": 1, "undetected": 0, "pending": 0, "dropped": {}}
        connection.execute(
            insert(ledgers).values(stream_id=A, epoch=7, minute=NOON, at=NOON, **counts)
        )
    for id in (A, B):
        place = snapshots._folder / snapshot_key(id, NAME)
        place.parent.mkdir(parents=True)
        place.write_bytes(b"\xff\xd8")
    wait_until(lambda: agrees(topic, *rows))
    delete(engine, A, purge=True)
    observed.note_status(2, said(A, Status.STOPPED, 3), now())
    for table in (detections, statuses, heartbeats, status_history, ledgers):
        wait_until(partial(lambda table: not rows_of(engine, table, A), table))
    assert rows_of(engine, detections, B) == 10
    assert exists(engine, A)  # tells the persisters
    assert not (snapshots._folder / snapshot_key(A, NAME)).exists()
    assert (snapshots._folder / snapshot_key(B, NAME)).exists()
