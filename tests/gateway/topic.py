"""streams.v1 as anybody can read it."""

import time
from collections.abc import Callable

from confluent_kafka import Consumer, KafkaException, Message, Producer, TopicPartition

from schemas.messages import StreamSpec, StreamStatus
from schemas.topics import STREAM_STATUS, STREAMS, DecodeError

Place = tuple[int, str]


def messages(kafka: str, prefix: str) -> list[tuple[int, str, bytes | None]]:
    """All of them, as (partition, key, value), in order per partition."""
    return [
        (each.partition() or 0, (each.key() or b"").decode(), each.value())
        for each in all_of(kafka, STREAMS.named(prefix))
    ]


def all_of(kafka: str, topic: str) -> list[Message]:
    """In order per partition."""
    consumer = Consumer({"bootstrap.servers": kafka, "group.id": "unused"})
    try:
        left = _ends(consumer, topic)
        consumer.assign([TopicPartition(topic, number, 0) for number in left])
        found = []
        while left:
            message = consumer.poll(5)
            assert message is not None
            assert message.error() is None
            found.append(message)
            partition, offset = message.partition() or 0, message.offset() or 0
            if offset + 1 == left.get(partition):
                del left[partition]
        return found
    finally:
        consumer.close()


def _ends(consumer: Consumer, topic: str) -> dict[int, int]:
    """Of the partitions that hold something. A new topic has no leader for a moment."""
    ends: dict[int, int] = {}
    for number in consumer.list_topics(topic, timeout=10).topics[topic].partitions:
        wait_until(lambda: _leader_knows(consumer, TopicPartition(topic, number), ends))  # noqa: B023 -- called at once
    return ends


def _leader_knows(consumer: Consumer, at: TopicPartition, ends: dict[int, int]) -> bool:
    try:
        low, high = consumer.get_watermark_offsets(at, timeout=10)
    except KafkaException:
        return False
    if high > low:
        ends[at.partition] = high
    return True


def last_values(kafka: str, prefix: str) -> dict[Place, StreamSpec | None]:
    """What a reader of the compacted topic ends with; tombstones take away."""
    values = {(partition, key): value for partition, key, value in messages(kafka, prefix)}
    return {place: decoded(value) for place, value in values.items() if value is not None}


def decoded(value: bytes) -> StreamSpec | None:
    """None: it can't be."""
    try:
        return STREAMS.decode(value)
    except DecodeError:
        return None


def say(kafka: str, prefix: str, partition: int, key: str, value: bytes | None) -> None:
    producer = Producer({"bootstrap.servers": kafka})
    producer.produce(STREAMS.named(prefix), key=key, value=value, partition=partition)
    assert producer.flush(10) == 0


def say_status(kafka: str, prefix: str, partition: int, status: StreamStatus) -> None:
    producer = Producer({"bootstrap.servers": kafka})
    topic = STREAM_STATUS.named(prefix)
    value, key = STREAM_STATUS.encode(status), STREAM_STATUS.key(status)
    producer.produce(topic, value, key, partition)
    assert producer.flush(10) == 0


def wait_until(condition: Callable[[], bool], within_s: float = 15.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.05)
