"""streams.v1, as the reconciler has it: what it says of each stream now, and a way to say more."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from schemas.messages import Event, StreamSpec
from schemas.topics import (
    EVENTS,
    MOVED_TO,
    PRODUCER_OF_FACTS,
    STREAM_STATUS,
    STREAMS,
    DecodeError,
    Header,
)
from services.gateway.tail import Hole, Start, Tail
from services.process.trace import new_traceparent

Place = tuple[int, str]
"""A slot and a stream in it."""


class TopicRebuilt(Exception):
    """What we know of the topic is of one that is gone: begin again."""


class Specs:
    """For one thread."""

    def __init__(self, kafka_config: Mapping[str, Any], prefix: str, source: str) -> None:
        """`source`: who speaks, as in the messages' envelope."""
        self._topic, self._statuses = STREAMS.named(prefix), STREAM_STATUS.named(prefix)
        self._events = EVENTS.named(prefix)
        self._source = source
        self._tail = Tail(kafka_config, {self._topic: Start.BEGINNING})
        self._producer = Producer({**kafka_config, **PRODUCER_OF_FACTS})
        self._closed = False
        self._unread: dict[int, int] = {}  # partition -> offset of our own last message there
        self.said: dict[Place, StreamSpec | None] = {}
        """None: no spec of this stream in this slot. What has a tombstone is not in it."""

    def close(self) -> None:
        self._closed = True
        self._producer.purge()
        self._producer.flush(1)
        self._tail.close()

    @property
    def current(self) -> bool:
        """Whether all is read that was there at first, and all that we said since."""
        return self._tail.complete and not self._unread

    @property
    def slots(self) -> int:
        return self._tail.partitions_of(self._topic)

    def read(self) -> None:
        """Waits 0.2 s at most. Raises TopicRebuilt, KafkaException."""
        for found in self._tail.read():
            if isinstance(found, Hole):
                raise TopicRebuilt
            self._note(found)

    def _note(self, message: Message) -> None:
        partition, offset = message.partition() or 0, message.offset() or 0
        if self._unread.get(partition, offset + 1) <= offset:
            del self._unread[partition]
        place = partition, (message.key() or b"").decode(errors="replace")
        if message.value() is None:
            self.said.pop(place, None)
            return
        with suppress(DecodeError):  # counted by who follows the topic
            spec = STREAMS.decode(message.value())
            if (spec.slot, spec.stream_id) == place:
                self.said[place] = spec
                return
        self.said[place] = None

    def say(self, place: Place, spec: StreamSpec | None, home: int | None = None) -> None:
        """None: a tombstone; `home` is the slot in which the stream lives on. `delivered` tells
        when the broker has it."""
        if spec is None:
            self._produce(self._topic, place, None, _end(home))
        else:
            headers = STREAMS.headers(spec, self._source, new_traceparent())
            self._produce(self._topic, place, STREAMS.encode(spec), headers)

    def forget_status(self, place: Place, home: int | None = None) -> None:
        self._produce(self._statuses, place, None, _end(home))

    def tell(self, event: Event) -> None:
        self._producer.produce(
            self._events,
            key=EVENTS.key(event),
            value=EVENTS.encode(event),
            headers=[*EVENTS.headers(event, self._source, new_traceparent())],
            on_delivery=self._delivered,
        )

    def _produce(
        self, topic: str, place: Place, value: bytes | None, headers: Sequence[Header]
    ) -> None:
        slot, stream_id = place
        self._producer.produce(
            topic,
            key=stream_id.encode(),
            value=value,
            partition=slot,
            headers=[*headers],
            on_delivery=self._delivered,
        )

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        if error is not None and not self._closed:
            raise KafkaException(error)
        if error is None and message.topic() == self._topic:
            self._unread[message.partition() or 0] = message.offset() or 0

    def delivered(self, within_s: float) -> bool:
        """Whether all that was said is acknowledged. Raises KafkaException."""
        return not self._producer.flush(within_s)


def _end(home: int | None) -> list[Header]:
    """A tombstone's headers."""
    moved = [] if home is None else [(MOVED_TO, str(home).encode())]
    return [("traceparent", new_traceparent().encode()), *moved]
