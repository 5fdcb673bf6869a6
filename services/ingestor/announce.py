"""Facts about streams onto Kafka: statuses, heartbeats, events, instances, dead letters."""

import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import structlog
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from schemas.messages import Event, Heartbeat, Instance, StreamStatus
from schemas.messages import Message as Fact
from schemas.topics import (
    DEAD_LETTERS,
    EVENTS,
    HEARTBEATS,
    INSTANCES,
    STREAM_STATUS,
    Header,
    Origin,
    Topic,
    dead_letter,
    origin_headers,
)
from services.ingestor import metrics
from services.process.redact import redact
from services.process.trace import new_traceparent

log = structlog.get_logger()

M = TypeVar("M", bound=Fact)
Acknowledged = Callable[[], object]
Lost = Callable[[], object]

TELL_EVERY_S = 1.0  # of refusals


class Announcer:
    """For one thread, which must `poll` it: acknowledgements are called from there.

    Every method says False where there was no room: facts wait for the broker for ever, but not
    without bound. The caller then says it again, later; what can never be said is told of as lost.
    """

    def __init__(self, config: Mapping[str, Any], prefix: str, source: str) -> None:
        self._producer = Producer(dict(config))
        self._prefix = prefix
        self._source = source
        self._refused = 0
        self._told_at_s = 0.0

    def status(
        self,
        status: StreamStatus,
        slot: int,
        acknowledged: Acknowledged = lambda: None,
        lost: Lost = lambda: None,
    ) -> bool:
        """Into the partition that the stream has in streams.v1; `lost` as of an event."""
        return self._say(STREAM_STATUS, status, slot, acknowledged, lost)

    def heartbeat(self, heartbeat: Heartbeat) -> bool:
        return self._say(HEARTBEATS, heartbeat)

    def event(
        self,
        event: Event,
        acknowledged: Acknowledged = lambda: None,
        lost: Lost = lambda: None,
    ) -> bool:
        """`lost` is called, perhaps from within, where the broker took no such event."""
        return self._say(EVENTS, event, acknowledged=acknowledged, lost=lost)

    def instance(self, instance: Instance, acknowledged: Acknowledged = lambda: None) -> bool:
        return self._say(INSTANCES, instance, acknowledged=acknowledged)

    def bury(
        self, origin: Origin, reason: str, error: str, acknowledged: Acknowledged = lambda: None
    ) -> bool:
        letter = dead_letter(origin, reason, error, "ingestor", redact)
        more = origin_headers(origin, redact)
        return self._say(DEAD_LETTERS, letter, acknowledged=acknowledged, more=more)

    def _say(
        self,
        topic: Topic[M],
        fact: M,
        partition: int = -1,
        acknowledged: Acknowledged = lambda: None,
        lost: Lost = lambda: None,
        more: list[Header] | None = None,
    ) -> bool:
        def report(error: KafkaError | None, _: Message) -> None:
            if error is None:
                acknowledged()
            else:
                _lose(topic, error)
                lost()

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
            self._refuse(topic)
            return False
        except KafkaException as failure:
            error: KafkaError = failure.args[0]
            if error.code() != KafkaError.MSG_SIZE_TOO_LARGE:
                raise  # the producer has failed for good
            _lose(topic, error)
            lost()
        return True

    def _refuse(self, topic: Topic[M]) -> None:
        metrics.REFUSED.labels(topic.name).inc()
        self._refused += 1
        if time.monotonic() - self._told_at_s >= TELL_EVERY_S:
            log.warning("facts.refused", cause="queue full", count=self._refused)
            self._refused, self._told_at_s = 0, time.monotonic()

    def poll(self) -> None:
        self._producer.poll(0)

    def flush(self, seconds: float) -> int:
        """How many facts were not delivered in that time."""
        return self._producer.flush(seconds)

    def close(self) -> None:
        self._producer.purge()
        self._producer.poll(0)


def _lose(topic: Topic[M], error: KafkaError) -> None:
    metrics.LOST.labels(topic.name).inc()
    log.error("fact.lost", topic=topic.name, error=error.name())
