"""Topics -> what is observed, on a real broker."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from confluent_kafka import Producer
from prometheus_client import REGISTRY

from schemas.messages import Message, Status, now
from schemas.topics import (
    DETECTIONS,
    EVENTS,
    HEARTBEATS,
    INSTANCES,
    PRODUCER_OF_FACTS,
    STREAM_STATUS,
    STREAMS,
    Topic,
)
from services.gateway.observed import Observed
from services.gateway.realtime.follow import Follower
from services.gateway.realtime.hub import Hub
from services.gateway.realtime.news import News
from tests.gateway.messages import (
    DOOR,
    SLOT,
    YARD,
    a_heartbeat,
    a_record,
    a_spec,
    a_status,
    an_instance,
)

Send = Callable[..., None]


@pytest.fixture(scope="module")
def send(kafka: str, topic_prefix: str) -> Iterator[Send]:
    """Puts a message on its topic and waits until it is there; None: a tombstone for `key`."""
    producer = Producer(PRODUCER_OF_FACTS | {"bootstrap.servers": kafka})

    def send(topic: Topic[Any], message: Message | bytes | None, key: str | None = None) -> None:
        value = topic.encode(message) if isinstance(message, Message) else message
        name = key or getattr(message, "stream_id", None)
        slot = SLOT if topic in {STREAMS, STREAM_STATUS} else -1  # by key
        producer.produce(topic.named(topic_prefix), value, name, slot)
        assert producer.flush(10) == 0

    yield send
    producer.flush(5)


@pytest.fixture
def observed(kafka: str, topic_prefix: str) -> Iterator[Observed]:
    """Filled by a follower of its own."""
    observed = Observed()
    hub: Hub[News] = Hub()
    follower = Follower({"bootstrap.servers": kafka}, topic_prefix, observed, hub)
    follower.start()
    yield observed
    follower.stop()
    assert not follower.alive


def until(true: Callable[[], object], within_s: float = 15) -> None:
    deadline = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline, "it did not become true in time"
        time.sleep(0.02)


@pytest.fixture(scope="module", autouse=True)
def before(send: Send) -> None:
    """What stood on the topics before anybody followed."""
    send(STREAMS, a_spec())
    send(STREAM_STATUS, a_status(status=Status.STARTING))
    send(STREAM_STATUS, a_status(status=Status.RUNNING))
    send(HEARTBEATS, a_heartbeat(at=now(), fps=3))
    send(DETECTIONS, a_record(1, "person"))
    send(INSTANCES, an_instance(), "ingestor-1")


def test_who_begins_late_knows_the_state_and_no_old_records(observed: Observed) -> None:
    until(lambda: observed.ready)
    assert observed.status(DOOR) == a_status(status=Status.RUNNING)
    assert observed.spec(DOOR) == a_spec()
    measured = observed.measured(DOOR)
    assert measured is not None
    assert (measured.fps, measured.detected_fps) == (3, 0)
    assert observed.instances.alive() == [an_instance()]


def test_what_comes_later_is_seen(observed: Observed, send: Send) -> None:
    until(lambda: observed.ready)
    send(STREAM_STATUS, a_status(YARD))
    until(lambda: observed.status(YARD))
    send(DETECTIONS, a_record(1, "person", stream_id=YARD))
    until(lambda: observed.measured(YARD))
    send(STREAM_STATUS, None, YARD)
    until(lambda: observed.status(YARD) is None)


POISON = (b"", b"{", b"\xff\xfe", b"[]", b'{"streamId": 1}', b"[" * 5000, b"x" * 1_000_000)


def skipped(topic: str) -> float:
    labels = {"topic": topic}
    return REGISTRY.get_sample_value("sightlog_gateway_undecodable_messages_total", labels) or 0


def test_poison_is_skipped_and_counted_and_what_follows_is_seen_at_once(
    observed: Observed, send: Send, topic_prefix: str
) -> None:
    until(lambda: observed.ready)
    topics = (DETECTIONS, EVENTS, STREAM_STATUS, HEARTBEATS, STREAMS)
    before = {topic: skipped(topic.named(topic_prefix)) for topic in topics}
    for poison in POISON:
        for topic in topics:
            send(topic, poison, YARD)
    begun = time.monotonic()
    send(STREAM_STATUS, a_status(YARD, Status.ERROR))
    until(lambda: observed.status(YARD) == a_status(YARD, Status.ERROR))
    for topic in topics:
        until(lambda: skipped(topic.named(topic_prefix)) >= before[topic] + len(POISON))  # noqa: B023 -- called at once
    took = time.monotonic() - begun
    print(f"seen {took:.2f} s after the poison (bar 1 s)")
    assert took < 8  # machines pause for seconds
    for topic in topics:
        assert skipped(topic.named(topic_prefix)) == before[topic] + len(POISON), topic.name


def test_what_is_said_of_a_stream_in_another_place_is_poison(
    observed: Observed, send: Send
) -> None:
    """Under another's key, or in a slot that is not its own: later it would not be taken back."""
    until(lambda: observed.ready)
    send(STREAMS, a_spec(generation=7), YARD)
    send(STREAMS, msgspec.structs.replace(a_spec(generation=8), slot=SLOT + 1))
    send(STREAM_STATUS, a_status(status=Status.ERROR), YARD)
    send(STREAM_STATUS, a_status(YARD))
    last = a_spec(generation=9)
    send(STREAMS, last)
    until(lambda: observed.status(YARD) == a_status(YARD))
    until(lambda: observed.spec(DOOR) == last)
    assert observed.spec(YARD) is None
    assert observed.status(DOOR) == a_status(status=Status.RUNNING)


def test_the_watermark_goes_on_while_nothing_happens(observed: Observed) -> None:
    until(lambda: observed.ready)
    before = now()
    until(lambda: observed.watermark > before)
    assert observed.watermark <= now()
