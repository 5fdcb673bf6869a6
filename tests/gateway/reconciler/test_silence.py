"""Streams whose owner died, and nobody took over."""

from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any

import msgspec
import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition
from sqlalchemy import Connection, func, insert, select

from schemas.messages import NO_HEARTBEAT, Down, Event, Phase, Reason, Status, down_event_id, now
from schemas.tables import silences, streams
from schemas.topics import EVENTS
from services.gateway.observed import Observed
from services.gateway.reconciler.bury import Burial
from services.gateway.reconciler.move import Moves
from services.gateway.reconciler.reconcile import Reconciler
from services.gateway.reconciler.silence import (
    SILENT_S,
    Quiet,
    Silence,
    Silences,
    is_over,
    last_word,
    should_speak,
    word_of_life,
)
from services.gateway.reconciler.specs import Specs
from services.gateway.snapshots import Snapshots
from services.gateway.streams import StreamRow
from tests.gateway.messages import a_heartbeat, an_instance
from tests.gateway.parts import said
from tests.gateway.reconciler.spoken import Spoken
from tests.gateway.test_answers import a_row
from tests.gateway.topic import wait_until

A, B = (f"01KAPZ000000000000000000{letter}0" for letter in "AB")
DOWN = Down(started_at=now(), reason="TIMEOUT")


def test_a_stream_is_silent_after_half_a_minute_in_which_it_could_be_heard():
    quiet = Quiet()
    assert quiet.note({A: 1, B: 1}, 0) == set()
    assert quiet.note({A: 1, B: 1}, SILENT_S) == set()
    assert quiet.note({A: 1, B: 2}, 1) == {A}
    assert quiet.note({A: 2, B: 2}, SILENT_S) == set()
    assert quiet.note({A: 2}, 1) == set()
    assert quiet.note({A: 2, B: 2}, SILENT_S) == {A}


@pytest.mark.parametrize(
    ("status", "more", "expected"),
    [
        (Status.RUNNING, {}, True),
        (Status.STARTING, {}, True),
        (Status.STOPPED, {}, True),  # handed over
        (Status.STOPPED, {"observed_generation": 2}, True),  # it was started since
        (Status.STOPPED, {"reason": Reason.ENDED}, False),
        (Status.STOPPED, {"reason": Reason.ENDED, "observed_generation": 2}, True),
        (Status.STOPPING, {}, True),
        (Status.ERROR, {"reason": Reason.TIMEOUT}, True),
        (Status.RUNNING, {"down": DOWN}, False),
        (Status.ERROR, {"reason": Reason.TIMEOUT, "down": DOWN}, False),
        (Status.RUNNING, {"down": msgspec.structs.replace(DOWN, ended_at=now())}, True),
    ],
)
def test_of_what_should_run_somebody_should_speak_unless_it_tells_of_an_event_itself(
    status, more, expected
):
    row = a_row(id=A, running=True, generation=3)
    seen = msgspec.structs.replace(said(A, status, 3), **more)
    assert should_speak(row, seen) is expected
    assert not should_speak(replace(row, running=False), seen)
    assert not should_speak(replace(row, deleted_at=now()), seen)
    assert should_speak(row, None)
    assert not should_speak(replace(row, running=False), None)


OWNER = an_instance("ingestor-1", slots=(0, 1))


@pytest.mark.parametrize(
    ("status", "owner", "counts"),
    [
        (said(A, Status.ERROR, 3), OWNER, True),  # attempts may be minutes apart
        (said(A, Status.STARTING, 3), OWNER, True),  # it may wait for its turn
        (said(A, Status.RUNNING, 3), OWNER, False),
        (said(A, Status.STOPPED, 3), OWNER, False),
        (said(A, Status.ERROR, 3), an_instance("ingestor-1", slots=(2,)), False),
        (said(A, Status.ERROR, 3), None, False),
        (None, OWNER, False),
    ],
)
def test_its_owners_word_of_life_counts_for_what_has_nothing_to_say_meanwhile(
    status, owner, counts
):
    word = OWNER.at if counts else None
    assert word_of_life(a_row(id=A, slot=1), status, owner) == word
    assert word_of_life(a_row(id=A, slot=3, old_slot=1), status, owner) == word


def test_it_is_silent_since_the_last_word_or_since_it_was_started():
    row, at = a_row(id=A, generation=3, updated_at=now()), now()
    before = row.updated_at - timedelta(hours=1)
    assert last_word(row, None, []) == (0, row.updated_at)
    assert last_word(row, None, [(7, before)]) == (7, row.updated_at)
    assert last_word(row, said(A, Status.ERROR, 2, since=before), []) == (7, before)
    assert last_word(row, said(A, Status.RUNNING, 2, since=before), [(7, at)]) == (7, at)
    assert last_word(row, said(A, Status.STOPPED, 3, since=before), []) == (7, before)
    assert last_word(row, said(A, Status.STOPPED, 2, since=before), []) == (7, row.updated_at)


def test_a_silence_is_over_once_an_owner_is_heard_or_nobody_should_speak():
    row, since = a_row(id=A, running=True, generation=3), now()
    silence = Silence(A, since, 7)
    running = said(A, Status.RUNNING, 3)
    before = a_heartbeat(A, at=since)
    assert not is_over(silence, row, running, None)
    assert not is_over(silence, row, running, msgspec.structs.replace(before, epoch=7))
    later = msgspec.structs.replace(before, epoch=7, at=since + timedelta(seconds=1))
    assert is_over(silence, row, running, later)
    slow = msgspec.structs.replace(before, epoch=8, at=since - timedelta(hours=1))
    assert is_over(silence, row, running, slow)  # the clock of the next owner's machine
    assert is_over(silence, None, running, None)
    assert not is_over(Silence(A, since, 0), row, None, None)
    played = said(A, Status.STOPPED, 3, reason=Reason.ENDED)
    assert is_over(silence, row, played, None)
    assert not is_over(silence, replace(row, generation=4), played, None)  # and started again
    assert is_over(silence, replace(row, running=False), running, None)
    assert is_over(silence, row, msgspec.structs.replace(running, down=DOWN), None)


@pytest.fixture
def observed():
    observed = Observed()
    observed.note_ready()
    return observed


@pytest.fixture
def make_reconciler(database_url, kafka, topic_prefix, observed, tmp_path, monkeypatch):
    monkeypatch.setattr("services.gateway.reconciler.silence.SILENT_S", 1.0)
    specs = partial(Specs, {"bootstrap.servers": kafka}, topic_prefix, "sightlog/gateway/test")
    burial = Burial(observed, Snapshots(tmp_path).remove)
    made = []

    def make():
        made.append(Reconciler(database_url, specs, burial, Moves(observed), Silences(observed)))
        made[-1].start()
        return made[-1]

    yield make
    for reconciler in made:
        reconciler.stop()


@pytest.fixture
def events(kafka, topic_prefix):
    """All that was told so far, in order."""
    consumer = Consumer({"bootstrap.servers": kafka, "group.id": "unused"})
    name = EVENTS.named(topic_prefix)
    known = consumer.list_topics(name, timeout=10).topics[name].partitions
    consumer.assign([TopicPartition(name, number, OFFSET_BEGINNING) for number in known])
    seen = []

    def read():
        for message in consumer.consume(100, 0.05):
            assert message.error() is None
            seen.append(EVENTS.decode(message.value()))
        return seen

    yield read
    consumer.close()


def rows_left(engine):
    with engine.connect() as connection:
        return connection.execute(select(func.count()).select_from(silences)).scalar_one()


def test_what_a_dead_owner_leaves_is_told_once_by_whichever_gateway_and_ended_by_the_next_owner(
    make_reconciler, engine, observed, events
):
    row = a_row(id=A, slot=0, running=True, generation=3)
    with engine.begin() as connection:
        connection.execute(insert(streams).values(**vars(row)))
    observed.note_status(0, said(A, Status.RUNNING, 3), now())
    last = msgspec.structs.replace(a_heartbeat(A, at=now()), epoch=7)
    observed.note_heartbeat(last, now())

    def said_so_far():
        return [(each.revision, each.phase) for each in events()]

    def told(*expected):
        observed.note_watermark(now())
        return said_so_far() == list(expected)

    first = make_reconciler()
    new, end = (0, Phase.NEW), (1, Phase.END)
    wait_until(lambda: told(new))
    first.stop()
    make_reconciler()
    wait_until(lambda: told(new, new))
    observed.note_status(0, said(A, Status.STARTING, 3, epoch=8), now())
    observed.note_heartbeat(msgspec.structs.replace(last, epoch=8, at=now()), now())
    wait_until(lambda: said_so_far() == [new, new, end])
    wait_until(lambda: rows_left(engine) == 0)
    assert {each.event_id for each in events()} == {down_event_id(A, last.at)}
    assert {each.reason for each in events()} == {"NO_HEARTBEAT"}
    assert events()[-1].ended_at > last.at
    with engine.begin() as connection:
        connection.execute(streams.delete())


class Listening:
    """Passes, a second of the watermark each, until something is told."""

    def __init__(self, connection: Connection, observed: Observed, row: StreamRow) -> None:
        self._connection, self._observed, self._row = connection, observed, row
        self._specs: Any = Spoken()
        self._silences = Silences(observed)
        self.told: list[Event] = self._specs.told

    def listen(self, most_s: float) -> float:
        """How long that took."""
        before, listened_s = len(self.told), 0
        while len(self.told) == before and listened_s < most_s:
            listened_s += 1
            self._observed.note_watermark(self._observed.watermark + timedelta(seconds=1))
            self._silences.note(self._connection, self._specs, [self._row])
        return listened_s


@pytest.fixture
def connection(engine):
    with engine.connect() as connection:
        yield connection
        connection.rollback()


@pytest.mark.parametrize(
    ("status", "generation"),
    [
        (None, 1),  # there never was an ingestor
        (said(A, Status.STOPPED, 3), 4),  # it was started while its owner was dead
        (said(A, Status.ERROR, 3, reason=Reason.TIMEOUT), 3),  # its owner died within the blip
    ],
)
def test_what_nobody_begins_is_told_of_once_and_ended_by_the_first_heartbeat(
    connection, observed, status, generation
):
    if status is not None:
        observed.note_status(0, status, now())
    row = a_row(id=A, slot=0, running=True, generation=generation, updated_at=now())
    listening = Listening(connection, observed, row)
    assert SILENT_S < listening.listen(90) < SILENT_S + 5
    assert listening.listen(90) == 90
    observed.note_heartbeat(msgspec.structs.replace(a_heartbeat(A, at=now()), epoch=8), now())
    assert listening.listen(90) == 1
    assert [event.phase for event in listening.told] == [Phase.NEW, Phase.END]
    assert {event.reason for event in listening.told} == {NO_HEARTBEAT}


def test_nothing_is_told_of_what_waits_while_its_owner_speaks(connection, observed):
    observed.note_status(0, said(A, Status.STARTING, 3), now())
    listening = Listening(connection, observed, a_row(id=A, slot=0, running=True, generation=3))
    for at in (now() + timedelta(seconds=number) for number in range(6)):
        observed.instances.note(msgspec.structs.replace(OWNER, at=at), now())
        assert listening.listen(20) == 20
    assert SILENT_S - 25 < listening.listen(90) < SILENT_S


def test_a_clock_that_is_set_back_keeps_no_silence_from_being_heard(connection, observed):
    observed.note_status(0, said(A, Status.RUNNING, 3), now())
    listening = Listening(connection, observed, a_row(id=A, slot=0, running=True, generation=3))
    assert listening.listen(20) == 20
    observed.note_watermark(observed.watermark - timedelta(hours=1))
    assert listening.listen(90) < SILENT_S - 15
