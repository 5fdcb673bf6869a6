"""Streams whose owner died, and nobody took over."""

from dataclasses import replace
from datetime import timedelta
from functools import partial

import msgspec
import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition
from sqlalchemy import func, insert, select

from schemas.messages import Down, Phase, Reason, Status, down_event_id, now
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
    should_speak,
)
from services.gateway.reconciler.specs import Specs
from services.gateway.snapshots import Snapshots
from tests.gateway.messages import a_heartbeat
from tests.gateway.parts import said
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
        (Status.STOPPED, {"observed_generation": 2}, False),  # it was just started
        (Status.STOPPED, {"reason": Reason.ENDED}, False),
        (Status.STOPPING, {}, False),
        (Status.ERROR, {"reason": Reason.TIMEOUT}, False),  # attempts may be minutes apart
        (Status.RUNNING, {"down": DOWN}, False),
        (Status.RUNNING, {"down": msgspec.structs.replace(DOWN, ended_at=now())}, True),
    ],
)
def test_who_runs_a_stream_should_speak_unless_it_tells_of_an_event_itself(status, more, expected):
    row = a_row(id=A, running=True, generation=3)
    seen = msgspec.structs.replace(said(A, status, 3), **more)
    assert should_speak(row, seen) is expected
    assert not should_speak(replace(row, running=False), seen)
    assert not should_speak(replace(row, deleted_at=now()), seen)
    assert not should_speak(row, None)


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
    observed.note_status(0, said(A, Status.RUNNING, 3))
    last = msgspec.structs.replace(a_heartbeat(A, at=now()), epoch=7)
    observed.note_heartbeat(last)

    def told(*expected):
        observed.note_watermark(now())
        return [(each.revision, each.phase) for each in events()] == list(expected)

    first = make_reconciler()
    new, end = (0, Phase.NEW), (1, Phase.END)
    wait_until(lambda: told(new))
    first.stop()
    make_reconciler()
    wait_until(lambda: told(new, new))
    observed.note_status(0, said(A, Status.STARTING, 3, epoch=8))
    observed.note_heartbeat(msgspec.structs.replace(last, epoch=8, at=now()))
    wait_until(lambda: told(new, new, end))
    wait_until(lambda: rows_left(engine) == 0)
    assert {each.event_id for each in events()} == {down_event_id(A, last.at)}
    assert {each.reason for each in events()} == {"NO_HEARTBEAT"}
    assert events()[-1].ended_at > last.at
    with engine.begin() as connection:
        connection.execute(streams.delete())
