"""Kafka -> batches of messages, and their offsets back. The only module that consumes."""

import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import structlog
from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

from schemas.topics import Origin
from services.process.kafka import headers_of

log = structlog.get_logger()

Partition = tuple[str, int]

MEMBER = {
    "group.protocol": "consumer",  # KIP-848: a member that was cut off comes back in a second
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "auto.offset.reset": "earliest",
    "queued.max.messages.kbytes": 16_384,
    "fetch.message.max.bytes": 2_100_000,
}
"""What a consumer of a Subscription is configured with, besides its brokers and its group."""


@dataclass(frozen=True)
class Bounds:
    """A batch ends at whichever it reaches first."""

    messages: int
    bytes: int
    seconds: float


class Subscription:
    """One member of the group: batches of its partitions, whose offsets it commits when told.

    Used by one thread, but for `is_assigned`.
    """

    def __init__(self, consumer: Consumer, topics: Sequence[str], bounds: Bounds) -> None:
        self._consumer = consumer
        self._bounds = bounds
        self._held: set[Partition] = set()
        self._stored: dict[Partition, int] = {}  # next offsets that are not committed yet
        self._taken: list[Origin] = []  # of the next batch
        self._given_up: set[Partition] = set()  # since the last batch; perhaps held again
        self._paused = False
        self._joined = threading.Event()
        consumer.subscribe(
            list(topics), on_assign=self._gained, on_revoke=self._revoked, on_lost=self._lost
        )

    def is_assigned(self) -> bool:
        """Whether the group gave it its share, even if that is no partition."""
        return self._joined.is_set()

    def batch(self) -> list[Origin]:
        """What arrives within the bounds, in order per partition; perhaps nothing."""
        self._commit()
        size = 0
        deadline = time.monotonic() + self._bounds.seconds
        while len(self._taken) < self._bounds.messages and size < self._bounds.bytes:
            message = self._consumer.poll(max(0.0, deadline - time.monotonic()))
            if message is None:
                break
            size += self._take(message)
        self._given_up.clear()
        taken, self._taken = self._taken, []
        return taken

    def _take(self, message: Message) -> int:
        """Returns its size."""
        origin = origin_of(message)
        if origin is None:
            return 0
        self._taken.append(origin)
        return len(origin.value or b"")

    def pause(self) -> None:
        """Fetch no more; the partitions are kept as long as `wait` is called."""
        self._paused = True
        self._consumer.pause(self._partitions())

    def resume(self) -> None:
        self._paused = False
        self._consumer.resume(self._partitions())

    def wait(self, seconds: float, stop: threading.Event) -> None:
        """Stay a member of the group while paused; returns early at a stop."""
        deadline = time.monotonic() + seconds
        while not stop.is_set() and (left := deadline - time.monotonic()) > 0:
            message = self._consumer.poll(min(left, 0.1))
            if message is not None:
                self._take(message)

    def commit(self, batch: Iterable[Origin]) -> None:
        """Everything up to these was stored. If the broker is away it is said again later.

        Not of a partition that was given up meanwhile: another member may have come further.
        """
        for origin in batch:
            partition = origin.topic, origin.partition
            if partition not in self._given_up:
                self._stored[partition] = origin.offset + 1
        self._commit()

    def close(self) -> None:
        self._consumer.close()

    def _commit(self) -> None:
        offsets = [
            TopicPartition(topic, partition, offset)
            for (topic, partition), offset in self._stored.items()
        ]
        if not offsets:
            return
        try:
            answers = self._consumer.commit(offsets=offsets, asynchronous=False) or []
        except KafkaException as error:
            self._not_committed(error)
            return
        for answer in answers:
            if answer.error is None:
                self._stored.pop((answer.topic, answer.partition), None)

    def _not_committed(self, failure: KafkaException) -> None:
        error = failure.args[0]
        if error.fatal():
            raise failure
        log.warning("offsets.refused", error=error.name())

    def _partitions(self) -> list[TopicPartition]:
        return [TopicPartition(topic, partition) for topic, partition in self._held]

    def _gained(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        consumer.incremental_assign(partitions)
        self._held |= {(gained.topic, gained.partition) for gained in partitions}
        if self._paused:
            consumer.pause(partitions)
        self._joined.set()
        log.info("partitions.gained", count=len(partitions), held=len(self._held))

    def _revoked(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        self._commit()
        self._forget(partitions)

    def _lost(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        self._joined.clear()
        self._forget(partitions)

    def _forget(self, partitions: list[TopicPartition]) -> None:
        gone = {(lost.topic, lost.partition) for lost in partitions}
        self._held -= gone
        self._given_up |= gone
        self._stored = {at: offset for at, offset in self._stored.items() if at not in gone}
        self._taken = [one for one in self._taken if (one.topic, one.partition) not in gone]
        log.info("partitions.given_up", count=len(partitions), held=len(self._held))


def origin_of(message: Message) -> Origin | None:
    """None for what is a report of the consumer's, not a message."""
    error = message.error()
    if error is None:
        kind, timestamp_ms = message.timestamp()
        return Origin(
            topic=message.topic() or "",
            partition=_known(message.partition()),
            offset=_known(message.offset()),
            timestamp_ms=timestamp_ms if kind else None,
            key=_bytes(message.key()),
            value=_bytes(message.value()),
            headers=headers_of(message),
        )
    if error.fatal():
        raise KafkaException(error)
    log.warning("consumer.reported", error=error.name(), topic=message.topic())
    return None


def _known(number: int | None) -> int:
    if number is None:
        raise ValueError("a consumed message without its place")
    return number


def _bytes(value: str | bytes | None) -> bytes | None:
    return value.encode() if isinstance(value, str) else value
