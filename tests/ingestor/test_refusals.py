"""What is said later, where the producer of facts has no room at first."""

from typing import Any

import pytest
from msgspec.structs import replace

from schemas.messages import (
    Clock,
    Down,
    Dropped,
    Instance,
    Phase,
    Status,
    StreamSpec,
    StreamStatus,
    now,
)
from schemas.topics import DecodeError, Origin
from services.ingestor.app import MOST_UNBURIED, Ingestor, Outside
from services.ingestor.cameras import Beginnings
from services.ingestor.desire import ReadToEnd, Unreadable
from services.ingestor.newest import Newest
from services.ingestor.publish import Waiting
from services.ingestor.room import Room
from services.ingestor.stamp import ClockWatch
from services.ingestor.supervise import Stream, Surroundings

LAST = StreamStatus(stream_id="S1", status=Status.RUNNING, since=now(), epoch=7, owner="dead")


class Facts:
    """Takes facts while it has room."""

    def __init__(self):
        self.has_room = True
        self.buried = []
        self.statuses = []
        self.heartbeats = []
        self.events = []

    def _take(self, facts, fact):
        if self.has_room:
            facts.append(fact)
        return self.has_room

    def bury(self, origin, reason, error, acknowledged):
        taken = self._take(self.buried, origin.offset)
        if taken:
            acknowledged()
        return taken

    def status(self, status, slot, acknowledged=lambda: None, lost=lambda: None):
        taken = self._take(self.statuses, status)
        if taken:
            acknowledged()
        return taken

    def beat(self, heartbeat):
        return self._take(self.heartbeats, heartbeat)

    def event(self, event, acknowledged=lambda: None, lost=lambda: None):
        taken = self._take(self.events, event)
        if taken:
            acknowledged()
        return taken

    def instance(self, instance, acknowledged):
        return self.has_room

    def poll(self):
        """Nothing is acknowledged late."""


class Reading:
    """What the group and the followed topic hold, for the step that reads it."""

    def __init__(self):
        self.assigned = frozenset({0})
        self.found = []
        self.said = [LAST]
        self.marked = []

    def poll(self, timeout_s=0.0):
        found, self.found = self.found, []
        return found

    def buried(self, origin):
        self.marked.append(origin.offset)

    def has_read(self, partition):
        return True

    def of(self, partition):
        return self.said

    def last(self, partition, stream_id):
        return self.said[-1]


class Frames:
    """Takes every frame; its delivery is told of when a test says so."""

    has_failed = False

    def __init__(self):
        self.receipts = []

    def send(self, frame, delivered):
        self.receipts.append(delivered)
        return True


@pytest.fixture
def facts():
    return Facts()


@pytest.fixture
def reading():
    return Reading()


@pytest.fixture
def frames():
    return Frames()


@pytest.fixture
def world(facts, frames):
    return Surroundings(
        instance="me",
        endpoint="http://x",
        newest=Newest(),
        room=Room(100),
        start=lambda: pytest.fail("no camera here"),
        order=lambda spec: pytest.fail("no camera here"),
        send=frames.send,
        say=facts.status,
        beat=facts.beat,
        tell=facts.event,
        buffer_bytes=1_000_000,
        heartbeat_s=10,
        retry_base_s=1,
        retry_cap_s=1,
        beginnings=Beginnings(at_once=1),
    )


class Silent:
    """The followed topic, on which nothing new is said."""

    def __init__(self, reading):
        self.has_read, self.of, self.last = reading.has_read, reading.of, reading.last

    def poll(self):
        return []


@pytest.fixture
def ingestor(facts, frames, reading, world):
    introduction = Instance(
        instance="me", service="ingestor", version="1", started_at=now(), at=now()
    )
    silent: Any = Silent(reading)
    outside = Outside(frames, facts, silent, lambda *_: reading)
    return Ingestor(outside, world, introduction, ClockWatch())


def unreadable(offset):
    origin = Origin("streams.v1", 0, offset, None, None, b"{", [])
    return Unreadable(origin, DecodeError("NOT_JSON", "x"))


def test_a_refused_dead_letter_is_buried_once_there_is_room(ingestor, facts, reading):
    facts.has_room = False
    reading.found = [unreadable(1), unreadable(2)]
    ingestor.step()
    facts.has_room = True
    reading.found = [unreadable(3)]
    ingestor.step()
    ingestor.step()
    assert facts.buried == reading.marked == [1, 2, 3]


def test_of_very_many_refused_dead_letters_the_newest_wait(ingestor, facts, reading):
    facts.has_room = False
    reading.found = [unreadable(offset) for offset in range(MOST_UNBURIED + 5)]
    ingestor.step()
    facts.has_room = True
    ingestor.step()
    assert facts.buried == list(range(5, MOST_UNBURIED + 5))


def test_a_deleted_stream_is_said_to_have_stopped_once_there_is_room(ingestor, facts, reading):
    facts.has_room = False
    reading.found = [ReadToEnd(0)]
    ingestor.step()
    facts.has_room = True
    ingestor.step()
    ingestor.step()
    (said,) = facts.statuses
    assert (said.stream_id, said.status, said.owner) == ("S1", Status.STOPPED, "me")


@pytest.mark.parametrize("status", [Status.ERROR, Status.STOPPED])
def test_the_event_of_a_deleted_stream_whose_owner_died_is_ended(ingestor, facts, reading, status):
    down = Down(started_at=now(), reason="TIMEOUT", revision=1)
    reading.said = [replace(LAST, status=status, down=down)]
    reading.found = [ReadToEnd(0)]
    ingestor.step()
    (event,) = facts.events
    assert (event.phase, event.revision, event.started_at) == (Phase.END, 2, down.started_at)


def test_it_is_not_said_of_a_stream_that_somebody_spoke_for_meanwhile(ingestor, facts, reading):
    facts.has_room = False
    reading.found = [ReadToEnd(0)]
    ingestor.step()
    reading.said = [replace(LAST, epoch=8)]
    facts.has_room = True
    ingestor.step()
    assert facts.statuses == []


def test_the_last_heartbeat_of_an_epoch_is_said_once_there_is_room(facts, frames, world):
    spec = StreamSpec(stream_id="S1", slot=0, generation=1, running=True, name="x", url="file:x")
    stream = Stream(spec, 0, None, world)
    stream.claim(5)
    stream.outbox.put(Waiting(b"x", 0, 0.0, 2, 2, Clock(), 1, Dropped()))
    frames.receipts[0](True)
    stream.contest(replace(LAST, owner="another"))  # which ends the epoch
    facts.has_room = False
    stream.tick()
    facts.has_room = True
    stream.tick()
    stream.tick()
    (heartbeat,) = facts.heartbeats
    assert (heartbeat.epoch, heartbeat.totals.published) == (5, 1)


@pytest.mark.parametrize("running", [True, False])
def test_only_who_is_to_run_a_stream_contests_what_is_said_in_another_slot(world, running):
    """One that is stopped here may have moved there."""
    spec = StreamSpec(stream_id="S1", slot=0, generation=1, running=running, name="x", url="file:x")
    stream = Stream(spec, 0, LAST, world)
    assert stream.is_fenced_by(replace(LAST, owner="another", epoch=8)) is running
    assert not stream.is_fenced_by(replace(LAST, owner="another", epoch=6))
