"""Facts about streams onto Kafka: statuses, heartbeats, instances, dead letters."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import structlog
from confluent_kafka import KafkaError, Message, Producer

from schemas.messages import Heartbeat, Instance, StreamStatus
from schemas.messages import Message as Fact
from schemas.topics import (
    DEAD_LETTERS,
    HEARTBEATS,
    INSTANCES,
    STREAM_STATUS,
    Header,
    Origin,
    Topic,
    dead_letter,
    origin_headers,
)
from services.process.trace import new_traceparent

log = structlog.get_logger()

M = TypeVar("M", bound=Fact)
Acknowledged = Callable[[], None]


class Announcer:
    """For one thread, which must `poll` it: acknowledgements are called from there.

    Every method says False where there was no room: facts wait for the broker for ever, but not
    without bound.
    """

    def __init__(self, config: Mapping[str, Any], prefix: str, source: str) -> None:
        self._producer = Producer(dict(config))
        self._prefix = prefix
        self._source = source

    def status(
        self, status: StreamStatus, slot: int, acknowledged: Acknowledged = lambda: None
    ) -> bool:
        """Into the partition that the stream has in streams.v1."""
        return self._say(STREAM_STATUS, status, partition=slot, acknowledged=acknowledged)

    def heartbeat(self, heartbeat: Heartbeat) -> bool:
        return self._say(HEARTBEATS, heartbeat)

    def instance(self, instance: Instance, acknowledged: Acknowledged = lambda: None) -> bool:
        return self._say(INSTANCES, instance, acknowledged=acknowledged)

    def bury(self, origin: Origin, reason: str, error: str) -> bool:
        letter = dead_letter(origin, reason, error, "ingestor")
        return self._say(DEAD_LETTERS, letter, more=origin_headers(origin))

    def _say(
        self,
        topic: Topic[M],
        fact: M,
        partition: int = -1,
        acknowledged: Acknowledged = lambda: None,
        more: list[Header] | None = None,
    ) -> bool:
        def report(error: KafkaError | None, _: Message) -> None:
            if error is None:
                acknowledged()
            else:
                log.error("fact.lost", topic=topic.name, error=error.name())

        try:
            self._producer.produce(
                topic.named(self._prefix),
                key=topic.key(fact),
                value=topic.encode(fact),
                headers=[*topic.headers(fact, self._source, new_traceparent()), *(more or [])],
                partition=partition,
                on_delivery=report,
            )
        except BufferError:
            log.warning("fact.refused", topic=topic.name, cause="queue full")
            return False
        return True

    def poll(self) -> None:
        self._producer.poll(0)

    def flush(self, seconds: float) -> int:
        """How many facts were not delivered in that time."""
        return self._producer.flush(seconds)

    def close(self) -> None:
        self._producer.purge()
        self._producer.poll(0)
