"""The highest epoch known of each stream, from all of stream-status.v1.

Whoever owns a stream writes its epoch there, acknowledged, before its first frame. So a detector
that has read to the end at some moment knows every epoch whose frames were published before it.

A stream that moves to another slot is said of in two partitions, and then no more in the first: its
epochs are forgotten only once none says anything of it.
"""

import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import structlog
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message
from confluent_kafka import TopicPartition as At
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._listoffsets import OffsetSpec

from schemas.messages import is_plausible
from schemas.topics import STREAM_STATUS, DecodeError

log = structlog.get_logger()

BROKER_TIMEOUT_S = 3.0  # a process that is to end waits for it
RETRY_S = 1.0
SAY_EVERY_S = 1.0
LATEST = OffsetSpec.latest()  # type: ignore[no-untyped-call]  # so it is in the library
MOST_STREAMS = 100_000


def is_plausible_now(epoch: int) -> bool:
    return is_plausible(epoch, time.time() * 1000)


class Epochs:
    """Highest epoch by stream; safe to use from two threads (each call is one dict operation)."""

    def __init__(self, most_streams: int = MOST_STREAMS) -> None:
        self._most = most_streams
        self._highest: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._highest)

    def learn(self, stream_id: str, epoch: int) -> None:
        """From a status, or from a frame: its owner's status stands before it. One that is not
        plausible is not learned."""
        if epoch <= self._highest.get(stream_id, -1) or not is_plausible_now(epoch):
            return
        if len(self._highest) >= self._most and stream_id not in self._highest:
            self._highest.pop(next(iter(self._highest)), None)
        self._highest[stream_id] = epoch

    def forget(self, stream_id: str) -> None:
        self._highest.pop(stream_id, None)

    def fences(self, stream_id: str, epoch: int) -> bool:
        return epoch < self._highest.get(stream_id, -1)


class Standing:
    """The partitions that say something of a stream. For one thread."""

    def __init__(self, most_streams: int = MOST_STREAMS) -> None:
        self._most = most_streams
        self._partitions: dict[str, set[int]] = {}

    def note(self, stream_id: str, partition: int) -> None:
        if len(self._partitions) >= self._most and stream_id not in self._partitions:
            self._partitions.pop(next(iter(self._partitions)))
        self._partitions.setdefault(stream_id, set()).add(partition)

    def remove(self, stream_id: str, partition: int) -> bool:
        """Whether no other says anything."""
        others = self._partitions.get(stream_id, set()) - {partition}
        if others:
            self._partitions[stream_id] = others
        else:
            self._partitions.pop(stream_id, None)
        return not others


@dataclass(frozen=True)
class _Asked:
    ends: dict[int, int]
    answer: "Future[None]"


class Fence:
    """Follows the topic in a thread of its own, from its start until `close`."""

    def __init__(self, kafka: Mapping[str, Any], prefix: str, epochs: Epochs) -> None:
        self._kafka = dict(kafka)
        self._topic = STREAM_STATUS.named(prefix)
        self._epochs = epochs
        self._standing = Standing()
        self._consumer = Consumer(
            self._kafka
            | {
                "group.id": f"{prefix}detector-fence",  # asked for; nothing is committed
                "enable.auto.commit": False,
                "enable.partition.eof": True,
            }
        )
        self._next: dict[int, int] = {}  # by partition, the offset to be read next
        self._lock = threading.Lock()
        self._new: list[Future[None]] = []  # under the lock: who asked since ends were last asked
        self._asked: list[_Asked] = []
        self._skipped = 0  # since it was last said
        self._said_skipped = -SAY_EVERY_S
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="fence", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def catch_up(self) -> "Future[None]":
        """Done once all that is in the topic now has been read; not while the broker is away."""
        answer: Future[None] = Future()
        with self._lock:
            self._new.append(answer)
        return answer

    def close(self) -> None:
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(BROKER_TIMEOUT_S)

    def _follow(self) -> None:
        try:
            while not self._ended.is_set():
                self._note_ends()
                for message in self._consumer.consume(500, timeout=0.05 if self._asked else 0.2):
                    self._read(message)
                self._answer()
        finally:
            self._consumer.close()

    def _note_ends(self) -> None:
        """For those who asked before the ends were asked: for one who comes meanwhile, they are
        too old. Also assigns partitions that were not there before."""
        with self._lock:
            new, self._new = self._new, []
        if not new:
            return
        try:
            ends = self._ends()
        except KafkaException as error:
            with self._lock:
                self._new = new + self._new
            log.warning("fence.waiting", error=str(error))
            self._ended.wait(RETRY_S)
            return
        added = sorted(ends.keys() - self._next.keys())
        if added:
            self._next.update(dict.fromkeys(added, 0))
            self._consumer.incremental_assign(
                [At(self._topic, partition, OFFSET_BEGINNING) for partition in added]
            )
        self._asked += [_Asked(ends, answer) for answer in new]

    def _ends(self) -> dict[int, int]:
        admin = AdminClient(self._kafka)
        metadata = admin.list_topics(self._topic, timeout=BROKER_TIMEOUT_S).topics[self._topic]
        if metadata.error is not None:
            raise KafkaException(metadata.error)
        asked = {At(self._topic, partition): LATEST for partition in metadata.partitions}
        told = admin.list_offsets(asked, request_timeout=BROKER_TIMEOUT_S)
        return {at.partition: future.result().offset for at, future in told.items()}

    def _read(self, message: Message) -> None:
        error, partition, offset = message.error(), message.partition(), message.offset()
        if error is not None:
            if error.code() == KafkaError._PARTITION_EOF and partition is not None:
                self._next[partition] = max(self._next.get(partition, 0), offset or 0)
            else:
                log.warning("fence.disturbed", error=error.str())
            return
        self._learn(message)
        if partition is not None and offset is not None:  # as in every message that is no error
            self._next[partition] = offset + 1

    def _learn(self, message: Message) -> None:
        value, key, partition = message.value(), message.key(), message.partition() or 0
        if value is None:
            stream_id = (key or b"").decode(errors="replace")
            if self._standing.remove(stream_id, partition):
                self._epochs.forget(stream_id)
            return
        try:
            status = STREAM_STATUS.decode(value)
        except DecodeError as error:  # the persister makes the dead letter, we only go on
            self._skip(message, error.reason)
            return
        if key != STREAM_STATUS.key(status):
            self._skip(message, "WRONG_KEY")
        elif not is_plausible_now(status.epoch):
            self._skip(message, "EPOCH_IMPLAUSIBLE")
        else:
            self._standing.note(status.stream_id, partition)
            self._epochs.learn(status.stream_id, status.epoch)

    def _skip(self, message: Message, reason: str) -> None:
        """Says so once a second: they are all read again at every start."""
        self._skipped += 1
        if time.monotonic() - self._said_skipped >= SAY_EVERY_S:
            at = {"partition": message.partition(), "offset": message.offset()}
            log.warning("statuses.skipped", count=self._skipped, reason=reason, **at)
            self._skipped, self._said_skipped = 0, time.monotonic()

    def _answer(self) -> None:
        for asked in list(self._asked):
            if all(self._next.get(partition, 0) >= end for partition, end in asked.ends.items()):
                self._asked.remove(asked)
                if asked.answer.set_running_or_notify_cancel():
                    with suppress(RuntimeError):  # the event loop that waits for it has closed
                        asked.answer.set_result(None)
