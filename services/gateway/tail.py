"""Every partition of some topics, read from where it is told and never committed.

Outlives the broker's absence, finds new partitions, and knows how far it has come: its watermark.
A topic that was deleted and made anew is read from its beginning: by its length alone, one that has
grown meanwhile is not told from the old one.
"""

import enum
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog
from confluent_kafka import (
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._listoffsets import OffsetSpec
from confluent_kafka.admin._topic import TopicDescription

from services.gateway.offsets import (
    ANSWER_WITHIN_S,
    FIRST,
    NEXT,
    Asked,
    Partition,
    answered,
    ask,
    resolved,
    since,
)

log = structlog.get_logger()

MESSAGES_AT_ONCE = 100
WAIT_S = 0.2
LOOK_EVERY_S = 2.0  # for new partitions, and new topics of an old name
LOOK_AGAIN_S = 1.0  # where not all topics were there yet
MARK_EVERY_S = 1.0
MARK_AGAIN_S = 10.0  # so that an old answer is no proof that the broker is there
STUCK_AFTER_S = 60.0
RECENT = timedelta(seconds=60)


class Start(enum.Enum):
    BEGINNING = "beginning"
    RECENT = "recent"
    END = "end"


@dataclass(frozen=True)
class Hole:
    """Messages of a partition that are gone, read or not: by retention, or with their topic."""

    topic: str
    partition: int


@dataclass
class _Mark:
    """The ends of the partitions as they were at `at`; asked for, then waited for."""

    begun: float  # monotonic
    at: datetime
    asked: Asked


class TailStuck(Exception):
    """The broker answers and has more, but nothing comes: only a new client helps."""


class Tail:
    """For one thread."""

    def __init__(
        self,
        kafka_config: Mapping[str, Any],
        starts: Mapping[str, Start],
        stuck_after_s: float = STUCK_AFTER_S,
    ) -> None:
        self._starts = starts
        self._stuck_after_s = stuck_after_s
        self._moved_at = time.monotonic()
        self._admin_config = dict(kafka_config)
        self._admin = AdminClient(self._admin_config)
        self._consumer = Consumer(
            self._admin_config
            | {
                "group.id": "unused",  # the client insists on one; nothing is committed
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "auto.offset.reset": "error",
                "fetch.wait.max.ms": 200,
                "fetch.error.backoff.ms": 100,
                "queued.max.messages.kbytes": 16_384,
            }
        )
        self._positions: dict[Partition, int] = {}
        self._known: set[str] = set()  # topics that have been looked at
        self._emptied: set[Partition] = set()  # to be read from their new beginning
        self._ids: dict[str, str] = {}  # of topics that have been looked at
        self._rebuilt: list[Hole] = []
        self._look_at = 0.0
        self._mark: _Mark | None = None
        self._mark_at = 0.0
        self.watermark = datetime.now(UTC)
        self.complete = False  # whether what was there at the beginning has been read

    def close(self) -> None:
        self._consumer.close()

    def partitions_of(self, topic: str) -> int:
        """How many are known."""
        return sum(name == topic for name, _ in self._positions)

    def read(self) -> list[Message | Hole]:
        """What came, waiting 0.2 s at most; what the last call returned counts as read.

        Raises TailStuck.
        """
        try:
            if time.monotonic() >= self._look_at:
                self._look_for_partitions()
            self._advance_mark()
            self._begin(list(self._emptied), Start.BEGINNING)
            self._emptied.clear()
        except KafkaException as error:
            self._admin = AdminClient(self._admin_config)  # an old one may keep a dead broker
            self._moved_at = time.monotonic()  # who can't ask can't read either
            self._refused(error)
        holes, self._rebuilt = self._rebuilt, []
        first = self._consumer.poll(0 if holes else WAIT_S)
        if first is None:
            return [*holes]
        rest = self._consumer.consume(MESSAGES_AT_ONCE - 1, 0)
        accepted = (self._accepted(message) for message in (first, *rest))
        return [*holes, *(found for found in accepted if found is not None)]  # a tombstone is falsy

    def _accepted(self, message: Message) -> Message | Hole | None:
        error = message.error()
        topic, partition, offset = message.topic(), message.partition(), message.offset()
        if topic is None or partition is None or offset is None:
            self._refused(error)
            return None
        here = (topic, partition)
        if error is None:
            self._positions[here] = offset + 1
            self._moved_at = time.monotonic()
            return message
        if error.code() == KafkaError._PARTITION_EOF:
            self._positions[here] = max(offset, self._positions.get(here, 0))
            return None
        if error.code() == KafkaError._AUTO_OFFSET_RESET:
            self._emptied.add(here)
            return Hole(topic, partition)
        self._refused(error)
        return None

    def _refused(self, error: KafkaError | KafkaException | None) -> None:
        """The client goes on by itself, and says at a higher level what is wrong."""
        log.debug("tail.interrupted", error=str(error))

    def _look_for_partitions(self) -> None:
        self._look_at = time.monotonic() + LOOK_AGAIN_S
        topics = self._described()
        for name, start in self._starts.items():
            if name not in topics:
                self._known.add(name)  # when it is made, its first message is news
                continue
            there = {(name, partition.id) for partition in topics[name].partitions}
            self._note_id(name, str(topics[name].topic_id), there)
            new = [at for at in there if at not in self._positions]
            self._begin(new, Start.BEGINNING if name in self._known else start)
            self._known.add(name)
        if self._starts.keys() <= {topic for topic, _ in self._positions}:
            self._look_at = time.monotonic() + LOOK_EVERY_S

    def _described(self) -> dict[str, TopicDescription]:
        """Those that there are. Raises KafkaException."""
        names = TopicCollection([*self._starts])
        asked = self._admin.describe_topics(names, request_timeout=ANSWER_WITHIN_S)
        found = {}
        for name, future in asked.items():
            try:
                found[name] = future.result()
            except KafkaException as error:
                if error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                    raise
        return found

    def _note_id(self, name: str, id: str, there: set[Partition]) -> None:
        if self._ids.setdefault(name, id) == id:
            return
        self._ids[name] = id
        before = {at for at in self._positions if at[0] == name}
        self._consumer.incremental_unassign([TopicPartition(*at) for at in before - there])
        for at in before - there:
            del self._positions[at]
        self._mark = None  # of ends that mean nothing any more
        self._emptied = (self._emptied - before) | (before & there)
        self._rebuilt += [Hole(*at) for at in before & there]
        log.warning("topic.rebuilt", topic=name)

    def _begin(self, partitions: list[Partition], start: Start) -> None:
        if not partitions:
            return
        offsets = resolved(self._admin, partitions, _spec(start))
        self._consumer.incremental_unassign(
            [TopicPartition(*p) for p in partitions if p in self._positions]
        )
        self._consumer.incremental_assign([TopicPartition(*p, offsets[p]) for p in partitions])
        self._positions |= offsets

    def _advance_mark(self) -> None:
        """Notes the ends now and then; once all are passed, the watermark is the time of asking."""
        if self._mark is None:
            if time.monotonic() >= self._mark_at and self._positions:
                begun, at = time.monotonic(), datetime.now(UTC)  # before the broker looks
                self._mark = _Mark(begun, at, ask(self._admin, self._positions, NEXT))
                self._mark_at = begun + MARK_EVERY_S
            return
        if not all(future.done() for future in self._mark.asked.values()):
            return
        mark, self._mark = self._mark, None
        ends = answered(mark.asked)
        if all(self._positions[partition] >= end for partition, end in ends.items()):
            self.watermark = mark.at
            self.complete = self.complete or self._starts.keys() <= {topic for topic, _ in ends}
            self._moved_at = time.monotonic()
        elif time.monotonic() - self._moved_at > self._stuck_after_s:
            raise TailStuck
        elif time.monotonic() - mark.begun < MARK_AGAIN_S:
            self._mark = mark


def _spec(start: Start) -> OffsetSpec:
    if start is Start.RECENT:
        return since(datetime.now(UTC) - RECENT)
    return FIRST if start is Start.BEGINNING else NEXT
