"""Creates the topics; safe to run by many at once, and again."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from schemas.topics import FRAMES, TOPICS, Topic


@dataclass(frozen=True)
class Size:
    """Partition counts of an installation; growing them is a described procedure."""

    data: int
    slots: int


SIZES = {"local": Size(12, 16), "small": Size(24, 64), "large": Size(96, 1024)}


def provision(kafka: Mapping[str, Any], prefix: str, size: Size) -> None:
    """Topics that exist are left as they are.

    Raises KafkaException where the broker can't be reached or refuses.
    """
    admin = AdminClient(dict(kafka))
    replicas = min(3, len(admin.list_topics(timeout=30).brokers))
    made = admin.create_topics([_new(topic, prefix, size, replicas) for topic in TOPICS])
    for future in made.values():
        try:
            future.result(timeout=60)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise


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
