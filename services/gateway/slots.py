"""How many slots there are: the partitions of streams.v1, as the broker says."""

import threading
from collections.abc import Mapping
from typing import Any

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from schemas.topics import STREAMS

PATIENCE_S = 0.8


class SlotsUnknown(Exception):
    """The broker does not answer, or the topics are not there yet."""


class Slots:
    def __init__(self, kafka_config: Mapping[str, Any], prefix: str) -> None:
        self._kafka_config = dict(kafka_config)
        self._topic = STREAMS.named(prefix)
        self._lock = threading.Lock()
        self._count: int | None = None

    def count(self) -> int:
        """Asks once, and blocks meanwhile. Raises SlotsUnknown."""
        with self._lock:
            if self._count is None:
                self._count = self._ask()
            return self._count

    def _ask(self) -> int:
        try:
            topics = AdminClient(self._kafka_config).list_topics(timeout=PATIENCE_S).topics
        except KafkaException as error:
            raise SlotsUnknown("the broker does not answer") from error
        if self._topic not in topics or not topics[self._topic].partitions:
            raise SlotsUnknown("streams.v1 is not there")
        return len(topics[self._topic].partitions)
