"""What a client missed: everything since its cursor, read again from the topics.

At least once: a little of it was perhaps sent before. Status is not replayed; a snapshot says more.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient

from schemas.messages import now
from schemas.topics import DETECTIONS, EVENTS, HEARTBEATS, Topic
from services.gateway.observed import Observed
from services.gateway.offsets import (
    ANSWER_WITHIN_S,
    FIRST,
    NEXT,
    Partition,
    answered,
    ask,
    resolved,
    since,
)
from services.gateway.realtime.cursor import cursor
from services.gateway.realtime.news import News
from services.gateway.realtime.told import Told

TOPICS: dict[str, Topic[Any]] = {
    "detection": DETECTIONS,
    "event": EVENTS,
    "stream:heartbeat": HEARTBEATS,
}
OLDEST = timedelta(hours=1)  # what is older is for REST
CLOCKS_DIFFER = timedelta(seconds=5)  # at most, between the machines that wrote and that read
MESSAGES_AT_ONCE = 200
WAIT_S = 1.0
STALLED_AFTER = 10  # waits for nothing
AT_ONCE = 4


class ReplayStalled(Exception):
    """Kafka does not answer; the client should come again with the same cursor."""


class Replay:
    """For threads that may wait."""

    def __init__(
        self, kafka_config: Mapping[str, Any], prefix: str, at: datetime, events: frozenset[str]
    ) -> None:
        """Of these events, or of all where none is named."""
        topics = [topic for event, topic in TOPICS.items() if not events or event in events]
        self._names = [topic.named(prefix) for topic in topics]
        self._since = max(at, now() - OLDEST)
        self.cursor = cursor(at)
        self.gap_until: datetime | None = self._since if self._since > at else None
        observed = Observed()
        observed.note_ready()
        self._told = Told(prefix, observed)
        self._admin = AdminClient(dict(kafka_config))
        self._consumer = Consumer(
            dict(kafka_config)
            | {
                "group.id": "unused",  # the client insists on one; nothing is committed
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "auto.offset.reset": "earliest",
                "queued.max.messages.kbytes": 4096,
            }
        )
        self._positions: dict[Partition, int] = {}
        self._ends: dict[Partition, int] = {}
        self._waits = 0
        self._one_at_a_time = threading.Lock()

    def begin(self) -> None:
        """Raises KafkaException."""
        with self._one_at_a_time:
            found = self._consumer.list_topics(timeout=ANSWER_WITHIN_S).topics
            partitions = [
                (name, number)
                for name in self._names
                if name in found
                for number in found[name].partitions
            ]
            self._positions = resolved(self._admin, partitions, since(self._since - CLOCKS_DIFFER))
            firsts = resolved(self._admin, partitions, FIRST)
            if any(self._positions[at] == first > 0 for at, first in firsts.items()):
                self.gap_until = now()  # something older may have been there, and is no more
            starts = [TopicPartition(*at, offset) for at, offset in self._positions.items()]
            self._consumer.assign(starts)

    def look_ahead(self) -> None:
        """What is there now will have been read when `read` answers None. KafkaException."""
        with self._one_at_a_time:
            self._ends = answered(ask(self._admin, self._positions, NEXT))

    def read(self) -> list[News] | None:
        """The next news, which may be none; None: all has been read. Raises ReplayStalled."""
        with self._one_at_a_time:
            if all(self._positions[at] >= end for at, end in self._ends.items()):
                return None
            first = self._consumer.poll(WAIT_S)
            if first is None:
                return self._idle()
            self._waits = 0
            messages = (first, *self._consumer.consume(MESSAGES_AT_ONCE - 1, 0))
            return [news for message in messages if (news := self._news_of(message))]

    def _idle(self) -> list[News]:
        self._waits += 1
        if self._waits == STALLED_AFTER:
            raise ReplayStalled
        return []

    def _news_of(self, message: Message) -> News | None:
        error, topic, partition = message.error(), message.topic(), message.partition()
        offset = message.offset()
        if topic is None or partition is None or offset is None:
            return None
        if error is None:
            self._positions[topic, partition] = offset + 1
            return self._told.news_of(message, self.cursor)
        if error.code() == KafkaError._PARTITION_EOF:
            self._positions[topic, partition] = max(offset, self._positions[topic, partition])
        return None

    def close(self) -> None:
        """Waits for a `read` that nobody waits for any more."""
        with self._one_at_a_time:
            self._consumer.close()


class Replays:
    """A few at once, so that a thousand clients that come back do not stop those who stayed."""

    def __init__(self, kafka_config: Mapping[str, Any], prefix: str) -> None:
        self._kafka_config = kafka_config
        self._prefix = prefix
        self._turns = asyncio.Semaphore(AT_ONCE)

    @asynccontextmanager
    async def since(self, at: datetime, events: frozenset[str]) -> AsyncIterator[Replay]:
        """Raises ReplayStalled."""
        async with self._turns:
            replay = await asyncio.to_thread(Replay, self._kafka_config, self._prefix, at, events)
            try:
                await asyncio.to_thread(replay.begin)
                yield replay
            except KafkaException as error:
                raise ReplayStalled(str(error)) from error
            finally:
                await asyncio.to_thread(replay.close)
