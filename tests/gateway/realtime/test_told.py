"""What a message of a topic says, and what is none."""

import re
from typing import Any

import pytest
from confluent_kafka import Message

from schemas.topics import DETECTIONS, HEARTBEATS, STREAM_STATUS, Topic
from services.gateway.observed import Observed
from services.gateway.realtime.subscribe import Subscription
from services.gateway.realtime.told import Told
from tests.gateway.messages import DOOR, a_heartbeat, a_record, a_status

PREFIX = "test."
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
