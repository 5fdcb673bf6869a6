"""The desired state: one consumer group over streams.v1, in which owning a partition is owning its
streams.

Offsets are committed as proof of membership only: an assigned partition is always read from its
beginning. A message in it that is no spec is told of once by each process, though read again at
every assignment. So one ingestor after another buries it until compaction takes it away, which
takes a newer message of its key: the dead letters' ids (topic, partition, offset) are the same.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)

from schemas.messages import StreamSpec
from schemas.topics import STREAMS, DecodeError, Origin

log = structlog.get_logger()

MOST_AT_ONCE = 500  # messages, before other work gets its turn

Partitions = frozenset[int]
Release = Callable[[Partitions, bool], None]
"""Called with partitions that must be given up; True: they are another's already."""


@dataclass(frozen=True)
class Desired:
    """The newest word on a stream; `spec` is None where it is deleted."""

    partition: int
    stream_id: str
    spec: StreamSpec | None


@dataclass(frozen=True)
class Unreadable:
    """A message that is no StreamSpec."""

    origin: Origin
    error: DecodeError


@dataclass(frozen=True)
class ReadToEnd:
    """All that was in the partition when it was assigned has been seen."""

    partition: int


class Desires:
    """A member of the group. `on_assigned` and `on_released` are called from within `poll`."""

    def __init__(
        self,
        config: Mapping[str, Any],
        prefix: str,
        on_assigned: Callable[[Partitions], None],
        on_released: Release,
        on_commit: Callable[[int, bool], None],
    ) -> None:
        """`on_commit` is called from within `poll` too, with a question's number and the answer."""
        self._topic = STREAMS.named(prefix)
        self._on_assigned, self._on_released = on_assigned, on_released
        self._is_joined = False
        self._complaint: int | None = None
        self._assigned: Partitions = frozenset()
        self._unreadable_to: dict[int, int] = {}  # by partition, the last offset told of
        self._consumer = Consumer(
            dict(config)
            | {
                "group.id": f"{prefix}ingestor",
                "group.protocol": "consumer",
                "on_commit": lambda error, offsets: on_commit(*_answer(error, offsets)),
            }
        )

    def subscribe(self) -> None:
        self._consumer.subscribe(
            [self._topic],
            on_assign=self._assign,
            on_revoke=lambda _, given_up: self._release(given_up, lost=False),
            on_lost=lambda _, given_up: self._release(given_up, lost=True),
        )

    @property
    def is_joined(self) -> bool:
        """Whether the coordinator has told us what is ours."""
        return self._is_joined

    @property
    def assigned(self) -> Partitions:
        return self._assigned

    def ask_for_proof(self, question: int) -> None:
        """Commit: whether the coordinator accepts it comes to `on_commit`. Raises nothing for a
        broker that is away: then no answer comes."""
        offsets = [
            TopicPartition(self._topic, number, 0, metadata=str(question))
            for number in self._assigned
        ]
        try:
            self._consumer.commit(offsets=offsets, asynchronous=True)
        except KafkaException:
            return

    def poll(self, timeout_s: float) -> Iterator[Desired | Unreadable | ReadToEnd]:
        """What is new, after waiting for the first of it."""
        until_s = time.monotonic() + timeout_s
        for _ in range(MOST_AT_ONCE):
            message = self._consumer.poll(max(0.0, until_s - time.monotonic()))
            if message is None:
                return
            until_s = 0.0
            yield from self._read(message)

    def _read(self, message: Message) -> Iterator[Desired | Unreadable | ReadToEnd]:
        partition, error = message.partition(), message.error()
        if error is not None and error.code() != KafkaError._PARTITION_EOF:
            self._complain(error)
            return
        if partition not in self._assigned:
            return
        if error is not None:
            yield ReadToEnd(partition)
            return
        key = (message.key() or b"").decode(errors="replace")
        if message.value() is None:
            yield Desired(partition, key, None)
            return
        try:
            spec = STREAMS.decode(message.value())
        except DecodeError as problem:
            yield from self._unreadable(_origin(message), problem)
            return
        yield Desired(partition, spec.stream_id, spec)

    def _unreadable(self, origin: Origin, problem: DecodeError) -> Iterator[Unreadable]:
        if origin.offset > self._unreadable_to.get(origin.partition, -1):
            self._unreadable_to[origin.partition] = origin.offset
            yield Unreadable(origin, problem)

    def _complain(self, error: KafkaError) -> None:
        """Raises KafkaException for what librdkafka can't recover from; the rest is news once."""
        if error.fatal():
            raise KafkaException(error)
        if error.code() != self._complaint:
            self._complaint = error.code()
            log.warning("group.failed", error=error.name())

    def _assign(self, consumer: Consumer, assigned: Iterable[TopicPartition]) -> None:
        partitions = frozenset(each.partition for each in assigned)
        self._is_joined = True
        self._assigned |= partitions
        self._on_assigned(partitions)
        consumer.incremental_assign(
            [TopicPartition(self._topic, number, OFFSET_BEGINNING) for number in partitions]
        )

    def _release(self, given_up: Iterable[TopicPartition], *, lost: bool) -> None:
        partitions = frozenset(each.partition for each in given_up)
        if partitions & self._assigned:
            self._assigned -= partitions
            self._on_released(partitions, lost)
        self._consumer.incremental_unassign(
            [TopicPartition(self._topic, number) for number in partitions]
        )

    def close(self) -> None:
        """Leave the group, once all that is assigned was released."""
        assigned, self._assigned = self._assigned, frozenset()
        self._on_released(assigned, False)
        self._consumer.close()


def _answer(error: KafkaError | None, offsets: Sequence[TopicPartition]) -> tuple[int, bool]:
    """A commit hands back what it was called with: the question's number is in the metadata."""
    number = next((int(each.metadata) for each in offsets if each.metadata), 0)
    return number, error is None and all(each.error is None for each in offsets)


def _origin(message: Message) -> Origin:
    return Origin(
        topic=message.topic() or "",
        partition=message.partition() or 0,
        offset=message.offset() or 0,
        timestamp_ms=message.timestamp()[1],
        key=message.key(),
        value=message.value(),
        headers=_headers(message),
    )


def _headers(message: Message) -> list[tuple[str, bytes]]:
    pairs = message.headers() or []
    return [
        (name, value.encode() if isinstance(value, str) else value or b"")
        for name, value in (pairs.items() if isinstance(pairs, dict) else pairs)
    ]
