"""Creates the topics; safe to run by many at once, and again."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._listoffsets import OffsetSpec
from confluent_kafka.cimpl import NewTopic

from schemas.topics import FRAMES, TOPICS, Topic


@dataclass(frozen=True)
class Size:
    """Partition counts of an installation; growing them is a described procedure."""

    data: int
    slots: int


EARLIEST = OffsetSpec.earliest()  # type: ignore[no-untyped-call]  # so it is in the library
LEADERS_WITHIN_S = 30.0
LEADERLESS = {
    KafkaError._NOENT,  # librdkafka knows no leader yet
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.UNKNOWN_LEADER_EPOCH,  # the answering broker has not heard of the new leader yet
    KafkaError.UNKNOWN_TOPIC_OR_PART,
}

SIZES = {"local": Size(12, 16), "small": Size(24, 64), "large": Size(96, 1024)}


def provision(kafka: Mapping[str, Any], prefix: str, size: Size) -> None:
    """Topics that exist are left as they are. At the end every partition answers.

    Raises KafkaException where the broker can't be reached or refuses.
    """
    admin = AdminClient(dict(kafka))
    replicas = min(3, len(admin.list_topics(timeout=30).brokers))
    new = {each.topic: each for each in (_new(t, prefix, size, replicas) for t in TOPICS)}
    for name, future in admin.create_topics(list(new.values())).items():
        try:
            future.result(timeout=60)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise
            del new[name]
    _await_leaders(
        kafka, [TopicPartition(name, n) for name, t in new.items() for n in range(t.num_partitions)]
    )


def _await_leaders(kafka: Mapping[str, Any], partitions: list[TopicPartition]) -> None:
    """A topic is there a moment before its partitions have leaders that answer. Each time a new
    client asks: one that found none may go on saying so."""
    deadline = time.monotonic() + LEADERS_WITHIN_S
    while True:
        admin = AdminClient(dict(kafka))
        try:
            answers = admin.list_offsets({partition: EARLIEST for partition in partitions})
            for answer in answers.values():
                answer.result(timeout=10)
            return
        except KafkaException as error:
            if error.args[0].code() not in LEADERLESS or time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def _new(topic: Topic[Any], prefix: str, size: Size, replicas: int) -> NewTopic:
    in_sync = 1 if replicas < 3 or topic is FRAMES else 2
    return NewTopic(
        topic.named(prefix),
        num_partitions=partitions(topic, size),
        replication_factor=min(2, replicas) if topic is FRAMES else replicas,
        config={**topic.config, "min.insync.replicas": str(in_sync)},
    )


def partitions(topic: Topic[Any], size: Size) -> int:
    if isinstance(topic.partitions, int):
        return topic.partitions
    return size.data if topic.partitions == "data" else size.slots
