"""What a message of a topic says, and what is none."""

import re
import time
from collections.abc import Iterator
from itertools import combinations, permutations
from typing import Any

import pytest
from confluent_kafka import TIMESTAMP_LOG_APPEND_TIME, Message
from msgspec.structs import replace

from schemas.messages import Status
from schemas.topics import DETECTIONS, HEARTBEATS, MOVED_TO, STREAM_STATUS, STREAMS, Topic
from services.gateway.observed import Observed
from services.gateway.realtime.subscribe import Subscription
from services.gateway.realtime.told import Told
from tests.gateway.messages import DOOR, a_heartbeat, a_record, a_spec, a_status

PREFIX = "test."
STATUS = re.compile(rb'"status":"(\w+)"')
A_TIME = re.compile(rb'"2026-[^"]*"')
SAID: list[tuple[Topic[Any], Any]] = [
    (DETECTIONS, a_record(0, "dog")),
    (HEARTBEATS, a_heartbeat()),
    (STREAM_STATUS, a_status()),
]
TOPICS = [topic.name for topic, _ in SAID]


def told_at(time: str, topic: Topic[Any], message: Any) -> bytes | None:
    """What comes of a message all of whose times are this one."""
    observed = Observed()
    observed.note_ready()
    value = A_TIME.sub(f'"{time}"'.encode(), topic.encode(message))
    assert time.encode() in value
    arrived = Message(
        topic=topic.named(PREFIX), partition=0, offset=0, key=DOOR.encode(), value=value
    )
    news = Told(PREFIX, observed).news_of(arrived, "w0")
    observed.measured(DOOR)
    return None if news is None else news.message_for(Subscription())


@pytest.mark.parametrize(("topic", "message"), SAID, ids=TOPICS)
@pytest.mark.parametrize(
    "time", ["0001-01-01T00:00:00.5+14:00", "9999-12-31T23:59:59.5-12:00", "2026-11-22T12:00:00.5"]
)
def test_a_time_that_no_clock_means_is_passed_over(topic, message, time):
    assert told_at(time, topic, message) is None


@pytest.mark.parametrize(("topic", "message"), SAID, ids=TOPICS)
@pytest.mark.parametrize("time", ["1970-01-01T00:00:00.5Z", "2199-12-31T23:59:59.5+00:00"])
def test_a_time_far_from_now_is_told_as_it_is(topic, message, time):
    told = told_at(time, topic, message)
    assert told is not None
    assert time[:19].encode() in told


@pytest.mark.parametrize(("topic", "message"), SAID[1:], ids=TOPICS[1:])
def test_an_owner_was_heard_when_the_broker_got_its_word(topic, message):
    """Whatever it says of the time itself."""
    observed = Observed()
    arrived = Message(
        topic=topic.named(PREFIX),
        partition=0,
        key=DOOR.encode(),
        value=topic.encode(message),
        timestamp=(TIMESTAMP_LOG_APPEND_TIME, round(1000 * (time.time() - 100))),
    )
    Told(PREFIX, observed).news_of(arrived, "w0")
    assert observed.silent_s(DOOR) == pytest.approx(100, abs=50)


class Follower:
    """Reads messages in the order in which a test gives them, whatever their partitions."""

    def __init__(self) -> None:
        self.observed = Observed()
        self.observed.note_ready()
        self._told = Told(PREFIX, self.observed)

    def says(self, topic: Topic[Any], partition: int, message: Any, **headers: bytes) -> Any:
        """The status that clients are told of it, if any."""
        found = Message(
            topic=topic.named(PREFIX),
            partition=partition,
            key=DOOR.encode(),
            value=None if message is None else topic.encode(message),
            headers=[*headers.items()],
        )
        news = self._told.news_of(found, "w0")
        told = None if news is None else news.message_for(Subscription())
        return told and STATUS.findall(told)[0].decode()


MOVED: list[tuple[str, Topic[Any], int, Any]] = [
    ("stop", STREAMS, 0, a_spec(generation=2, running=False)),
    ("stopped", STREAM_STATUS, 0, a_status(status=Status.STOPPED)),
    ("spec", STREAMS, 3, replace(a_spec(generation=3), slot=3)),
    ("claim", STREAM_STATUS, 3, a_status(status=Status.STARTING, epoch=2)),
    ("gone", STREAMS, 0, None),
    ("silent", STREAM_STATUS, 0, None),
]


def orders() -> Iterator[list[str]]:
    """Partitions are read in any order, each in its own."""
    names = [name for name, *_ in MOVED]
    places = [MOVED[names.index(name)][1:3] for name in names]
    for order in permutations(range(len(names))):
        if all(a < b or places[a] != places[b] for a, b in combinations(order, 2)):
            yield [names[each] for each in order]


def test_a_stream_that_moves_is_never_said_to_be_deleted_however_its_partitions_are_read() -> None:
    messages = {name: rest for name, *rest in MOVED}
    for order in orders():
        follower = Follower()
        follower.says(STREAMS, 0, a_spec(generation=1))
        follower.says(STREAM_STATUS, 0, a_status(status=Status.ERROR))
        told = []
        for name in order:
            topic, partition, message = messages[name]
            moved = {MOVED_TO: b"3"} if message is None else {}
            told.append(follower.says(topic, partition, message, **moved))
        assert "DELETED" not in told, order
        running = a_status(epoch=2)
        assert follower.says(STREAM_STATUS, 3, running) == "RUNNING", order
        assert follower.observed.status(DOOR) == running
        assert follower.observed.specs() == [replace(a_spec(generation=3), slot=3)]
        assert follower.says(STREAMS, 3, None) == "DELETED", order
