"""The status topic, followed where we own its partitions: who else speaks for our streams."""

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

from schemas.messages import StreamStatus
from schemas.topics import STREAM_STATUS, DecodeError

log = structlog.get_logger()

MOST_AT_ONCE = 500
TELL_EVERY_S = 1.0  # of what can't be read
DAY_MS = 86_400_000


def believed(status: StreamStatus, now_ms: int) -> StreamStatus:
    """The same status; in epoch 0 where it claims one that nobody can have minted yet.

    Epochs are Unix milliseconds: one far ahead of every clock is forged, and going above it would
    leave less room each time.
    """
    return replace(status, epoch=0) if status.epoch > now_ms + DAY_MS else status


class Statuses:
    """The last status of each stream of the assigned partitions, and its highest epoch."""

    def __init__(self, config: Mapping[str, Any], prefix: str) -> None:
        self._topic = STREAM_STATUS.named(prefix)
        self._consumer = Consumer(dict(config))
        self._ended: set[int] = set()
        self._last: dict[int, dict[str, StreamStatus]] = {}
        self._highest: dict[str, int] = {}
        self._has_disbelieved = False
        self._skipped = 0
        self._told_at_s = -TELL_EVERY_S

    def follow(self, partitions: Iterable[int]) -> None:
        """From the beginning of each."""
        new = [partition for partition in partitions if partition not in self._last]
        with suppress(KafkaException):  # else it comes later, by itself
            # Knowing the leaders saves half a second of a stream's move.
            self._consumer.list_topics(self._topic, timeout=1)
        for partition in new:
            self._last[partition] = {}
        self._consumer.incremental_assign(
            [TopicPartition(self._topic, partition, OFFSET_BEGINNING) for partition in new]
        )

    def leave(self, partitions: Iterable[int]) -> None:
        left = [partition for partition in partitions if partition in self._last]
        for partition in left:
            self._ended.discard(partition)
            for stream_id in self._last.pop(partition):
                self._highest.pop(stream_id, None)
        self._consumer.incremental_unassign(
            [TopicPartition(self._topic, partition) for partition in left]
        )

    def has_read(self, partition: int) -> bool:
        """Whether it was read to the end that it had at some moment since it is followed."""
        return partition in self._ended

    def last(self, partition: int, stream_id: str) -> StreamStatus | None:
        return self._last.get(partition, {}).get(stream_id)

    def of(self, partition: int) -> list[StreamStatus]:
        """The last status of each stream there."""
        return list(self._last.get(partition, {}).values())

    def highest_epoch(self, stream_id: str) -> int:
        return self._highest.get(stream_id, 0)

    def poll(self) -> Iterator[StreamStatus]:
        """What is new, of partitions that have been read to their end before."""
        for message in self._consumer.consume(MOST_AT_ONCE, 0):
            partition = message.partition()
            if partition is None or partition not in self._last:
                continue
            error = message.error()
            if error is not None:
                if error.code() == KafkaError._PARTITION_EOF:
                    self._ended.add(partition)
                continue
            status = self._learn(partition, message)
            if status is not None and partition in self._ended:
                yield status

    def _learn(self, partition: int, message: Message) -> StreamStatus | None:
        key = (message.key() or b"").decode(errors="replace")
        if message.value() is None:
            self._last[partition].pop(key, None)
            self._highest.pop(key, None)
            return None
        try:
            status = self._believed(STREAM_STATUS.decode(message.value()))
        except DecodeError as error:
            self._skip(message, error)
            return None
        self._last[partition][status.stream_id] = status
        known = self._highest.get(status.stream_id, 0)
        self._highest[status.stream_id] = max(known, status.epoch)
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
