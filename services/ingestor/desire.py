"""The desired state: one consumer group over streams.v1, in which owning a partition is owning its
streams.

An assigned partition is always read from its beginning. What is committed is how far its messages
that are no spec have their dead letters: whoever reads them again need not bury them again. The
same commit is asked for as proof of membership.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
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
from schemas.topics import MOVED_TO, STREAMS, DecodeError, Origin
from services.process.kafka import headers_of

log = structlog.get_logger()

MOST_AT_ONCE = 500  # messages, before other work gets its turn
LARGEST_SPEC = 64 * 1024  # bytes; beside it in a frame's headers there must be room for the JPEG
LONGEST_ID = 100  # characters
FASTEST = 240  # frames a second
WIDEST = 16_384  # pixels
MARKS_WITHIN_S = 2.0

Partitions = frozenset[int]
Release = Callable[[Partitions, bool], None]
"""Called with partitions that must be given up; True: they are another's already."""


@dataclass(frozen=True)
class Desired:
    """The newest word on a stream; `spec` is None where it is deleted, or has moved from here."""

    partition: int
    stream_id: str
    spec: StreamSpec | None
    has_moved: bool = False


@dataclass(frozen=True)
class Unreadable:
    """A message that is no StreamSpec."""

    origin: Origin
    error: DecodeError


@dataclass(frozen=True)
class ReadToEnd:
    """All that was in the partition when it was assigned has been seen."""

    partition: int


Written = tuple[int, int]
"""The offset of a message, and when it was written, in milliseconds."""


class Burials:
    """Of one partition: which of its unreadable messages have their dead letters."""

    def __init__(self) -> None:
        self._begun_to = 0  # below it, each was told of by us or buried by others
        self._open: set[int] = set()
        self._others = 0
        self._first: Written | None = None  # since it was assigned
        self._last = -1

    def resume(self, mark: int) -> None:
        """It is read from its beginning. `mark`: where others came to; below 0 where nobody was
        before, or none can tell."""
        self._others, self._last = max(0, mark), -1
        self._begun_to = max(self._begun_to, mark)
        self._open = {offset for offset in self._open if offset >= mark}

    def note(self, message: Written) -> None:
        """Each that is read. It is of a topic made anew where it stands before the one read last,
        or in the place of what was the first one: what was buried was of the topic that is gone."""
        if self._last < 0:
            if self._first is not None and _is_another(message, self._first):
                self._begun_to, self._open = self._others, set()
            self._first = message
        elif message[0] <= self._last:
            self._begun_to, self._open = 0, set()
            self._first = message
        self._last = message[0]

    def bound(self, end: int) -> None:
        """The partition ends here. What was buried beyond it was of a topic that is gone."""
        if end < self._begun_to:
            self._begun_to, self._open = end, set()

    def begin(self, offset: int) -> bool:
        """Whether it still needs one."""
        if offset < self._begun_to:
            return False
        self._begun_to = offset + 1
        self._open.add(offset)
        return True

    def settle(self, offset: int) -> bool:
        """Whether that moves the mark."""
        before = self.mark
        self._open.discard(offset)
        return self.mark > before

    @property
    def mark(self) -> int:
        """Below it, all are buried."""
        return min(self._open, default=self._begun_to)


def _is_another(first: Written, before: Written) -> bool:
    """Compaction takes messages away, so that a later one is the first; it puts none in."""
    return first[0] < before[0] or (first[0] == before[0] and first[1] != before[1])


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
        self._burials: dict[int, Burials] = {}  # by partition
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
        self._commit(self._assigned, str(question))

    def buried(self, origin: Origin) -> None:
        """The broker has its dead letter."""
        moved = self._burials[origin.partition].settle(origin.offset)
        if moved and origin.partition in self._assigned:
            self._commit([origin.partition])

    def _commit(self, partitions: Iterable[int], metadata: str = "") -> None:
        offsets = [
            TopicPartition(self._topic, number, self._burials[number].mark, metadata=metadata)
            for number in partitions
        ]
        with suppress(KafkaException):
            self._consumer.commit(offsets=offsets, asynchronous=True)

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
            self._burials[partition].bound(message.offset() or 0)
            yield ReadToEnd(partition)
            return
        self._burials[partition].note((message.offset() or 0, message.timestamp()[1]))
        key = message.key() or b""
        if message.value() is None:
            has_moved = any(name == MOVED_TO for name, _ in headers_of(message))
            yield Desired(partition, key.decode(errors="replace"), None, has_moved)
            return
        try:
            spec = spec_of(key, partition, message.value())
        except DecodeError as problem:
            if self._burials[partition].begin(message.offset() or 0):
                yield Unreadable(_origin(message), problem)
            return
        yield Desired(partition, spec.stream_id, spec)

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
        self._read_marks(partitions)
        self._on_assigned(partitions)
        consumer.incremental_assign(
            [TopicPartition(self._topic, number, OFFSET_BEGINNING) for number in partitions]
        )

    def _read_marks(self, partitions: Partitions) -> None:
        """How far others have come. Where that can't be had, a letter may be written twice, under
        the same id."""
        asked = [TopicPartition(self._topic, number) for number in partitions]
        marks: list[TopicPartition] = []
        with suppress(KafkaException):
            marks = self._consumer.committed(asked, timeout=MARKS_WITHIN_S)
        known = {mark.partition: mark.offset for mark in marks if mark.error is None}
        for number in partitions:
            self._burials.setdefault(number, Burials()).resume(known.get(number, -1))

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


def spec_of(key: bytes, partition: int, value: bytes | None) -> StreamSpec:
    """Raises DecodeError for what is no spec, not where it belongs, or beyond all bounds: one that
    nobody could act on must not cost others their streams."""
    if len(value or b"") > LARGEST_SPEC:
        raise DecodeError("TOO_LARGE", f"{STREAMS.name}: more than {LARGEST_SPEC} bytes")
    spec = STREAMS.decode(value)
    if key != STREAMS.key(spec):
        raise DecodeError("WRONG_KEY", f"{STREAMS.name}: key and streamId differ")
    if spec.slot != partition:
        raise DecodeError("WRONG_SLOT", f"{STREAMS.name}: slot {spec.slot}")
    wrong = [name for name, holds in _bounds(spec).items() if not holds]
    if wrong:
        raise DecodeError("WRONG_SHAPE", f"{STREAMS.name}: out of bounds: {', '.join(wrong)}")
    return spec


def _bounds(spec: StreamSpec) -> dict[str, bool]:
    return {
        "streamId": 0 < len(spec.stream_id) <= LONGEST_ID and spec.stream_id.isprintable(),
        "fps": math.isfinite(spec.fps) and 0 < spec.fps <= FASTEST,
        "frameWidth": spec.frame_width is None or 0 < spec.frame_width <= WIDEST,
    }


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
        headers=headers_of(message),
    )
