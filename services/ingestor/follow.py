"""The status topic: who else speaks for our streams.

All of its partitions are followed, for detectors fence by whatever one says. Of those that are not
ours only the epochs are kept.
"""

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
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
from msgspec.structs import replace

from schemas.messages import StreamStatus, is_plausible
from schemas.topics import STREAM_STATUS, DecodeError

log = structlog.get_logger()

MOST_AT_ONCE = 500
READ_FOR_S = 0.05  # then other work gets its turn
ALL_EVERY_S = 30.0  # look for partitions that are not followed yet
KNOW_WITHIN_S = 1.0
TELL_EVERY_S = 1.0  # of what can't be read


def believed(status: StreamStatus, now_ms: int) -> StreamStatus:
    """The same status; in epoch 0 where it claims one that nobody can have minted yet: going above
    it would leave less room each time."""
    return status if is_plausible(status.epoch, now_ms) else replace(status, epoch=0)


class Statuses:
    """The last status of each stream of our partitions, and the highest epoch of every stream."""

    def __init__(self, config: Mapping[str, Any], prefix: str) -> None:
        self._topic = STREAM_STATUS.named(prefix)
        self._consumer = Consumer(dict(config))
        self._followed: set[int] = set()
        self._ended: set[int] = set()  # of ours
        self._last: dict[int, dict[str, StreamStatus]] = {}  # by partition that is ours
        self._highest: dict[int, dict[str, int]] = {}  # by partition
        self._all_at_s = 0.0
        self._has_disbelieved = False
        self._skipped = 0
        self._told_at_s = -TELL_EVERY_S

    def follow(self, partitions: Iterable[int]) -> None:
        """They are ours from now on: read from the beginning of each, again where need be, so that
        what their last owners said is known."""
        new = [partition for partition in partitions if partition not in self._last]
        with suppress(KafkaException):  # else it comes later, by itself
            # Knowing the leaders saves half a second of a stream's move.
            self._consumer.list_topics(self._topic, timeout=KNOW_WITHIN_S)
        self._consumer.incremental_unassign(
            [TopicPartition(self._topic, partition) for partition in self._followed & {*new}]
        )
        for partition in new:
            self._last[partition] = {}
        self._begin(new)

    def _begin(self, partitions: Iterable[int]) -> None:
        self._followed.update(partitions)
        self._consumer.incremental_assign(
            [TopicPartition(self._topic, partition, OFFSET_BEGINNING) for partition in partitions]
        )

    def leave(self, partitions: Iterable[int]) -> None:
        """They are another's; they are followed on."""
        for partition in partitions:
            self._ended.discard(partition)
            self._last.pop(partition, None)

    def _follow_all(self) -> None:
        """The others' too, once ours were read: our streams need not wait for them."""
        is_due = time.monotonic() >= self._all_at_s
        if not is_due or not self._last or not self._last.keys() <= self._ended:
            return
        self._all_at_s = time.monotonic() + ALL_EVERY_S
        with suppress(KafkaException):  # the broker is away: next time
            known = self._consumer.list_topics(self._topic, timeout=KNOW_WITHIN_S)
            self._begin(known.topics[self._topic].partitions.keys() - self._followed)

    def has_read(self, partition: int) -> bool:
        """Whether it was read to the end that it had at some moment since it is followed."""
        return partition in self._ended

    def last(self, partition: int, stream_id: str) -> StreamStatus | None:
        return self._last.get(partition, {}).get(stream_id)

    def of(self, partition: int) -> list[StreamStatus]:
        """The last status of each stream there."""
        return list(self._last.get(partition, {}).values())

    def highest_epoch(self, stream_id: str) -> int:
        """In whatever partition."""
        return max((epochs.get(stream_id, 0) for epochs in self._highest.values()), default=0)

    def poll(self) -> Iterator[tuple[int, StreamStatus]]:
        """What is new, with its partition: of ours once they were read to their end, of others
        from their beginning."""
        self._follow_all()
        until_s = time.monotonic() + READ_FOR_S
        while messages := self._consumer.consume(MOST_AT_ONCE, 0):
            for message in messages:
                yield from self._read(message)
            if time.monotonic() > until_s:
                return

    def _read(self, message: Message) -> Iterator[tuple[int, StreamStatus]]:
        partition, error = message.partition(), message.error()
        if partition is None or partition not in self._followed:
            return
        if error is not None:
            if error.code() == KafkaError._PARTITION_EOF and partition in self._last:
                self._ended.add(partition)
            return
        status = self._learn(partition, message)
        if status is not None and (partition in self._ended or partition not in self._last):
            yield partition, status

    def _learn(self, partition: int, message: Message) -> StreamStatus | None:
        key = (message.key() or b"").decode(errors="replace")
        last, highest = self._last.get(partition, {}), self._highest.setdefault(partition, {})
        if message.value() is None:
            last.pop(key, None)
            highest.pop(key, None)
            return None
        try:
            status = self._believed(STREAM_STATUS.decode(message.value()))
        except DecodeError as error:
            self._skip(message, error)
            return None
        last[status.stream_id] = status
        highest[status.stream_id] = max(highest.get(status.stream_id, 0), status.epoch)
        return status

    def _skip(self, message: Message, error: DecodeError) -> None:
        """The persister buries it."""
        self._skipped += 1
        if time.monotonic() - self._told_at_s >= TELL_EVERY_S:
            what = {"partition": message.partition(), "offset": message.offset()}
            log.warning("status.unreadable", **what, reason=error.reason, count=self._skipped)
            self._skipped, self._told_at_s = 0, time.monotonic()

    def _believed(self, said: StreamStatus) -> StreamStatus:
        """What is forged can come in any number: the log hears of the first."""
        status = believed(said, time.time_ns() // 1_000_000)
        if status is not said and not self._has_disbelieved:
            self._has_disbelieved = True
            log.warning("epoch.disbelieved", stream=said.stream_id, epoch=said.epoch)
        return status

    def close(self) -> None:
        self._consumer.close()
