"""What one message of a topic says: noted in what is observed, and as news for those who listen."""

import time
from collections import Counter as Tally
from collections import OrderedDict
from collections.abc import Callable
from datetime import datetime

import structlog
from confluent_kafka import Message
from prometheus_client import Counter

from schemas.messages import from_unix_us, now
from schemas.topics import (
    DETECTIONS,
    EVENTS,
    HEARTBEATS,
    INSTANCES,
    MOVED_TO,
    STREAM_STATUS,
    STREAMS,
    DecodeError,
)
from services.gateway.observed import Observed
from services.gateway.realtime.news import (
    DELETED,
    GapNews,
    News,
    RecordNews,
    StatusData,
    deleted,
    status_data,
)
from services.gateway.tail import Hole
from services.process.kafka import headers_of

log = structlog.get_logger()

STREAMS_REMEMBERED = 20_000  # of which it is known what was said last

UNDECODABLE = Counter(
    "sightlog_gateway_undecodable_messages_total", "Messages skipped by the live view", ["topic"]
)


class Told:
    """One message at a time: notes what it says, and answers with the news that is in it."""

    def __init__(self, prefix: str, observed: Observed) -> None:
        self._observed = observed
        self._said: OrderedDict[str, StatusData] = OrderedDict()
        self._undecodable: Tally[str] = Tally()
        self._report_at = 0.0
        self._take: dict[str, Callable[[Message, str], News | None]] = {
            STREAMS.named(prefix): self._spec,
            STREAM_STATUS.named(prefix): self._status,
            HEARTBEATS.named(prefix): self._heartbeat,
            DETECTIONS.named(prefix): self._record,
            EVENTS.named(prefix): self._event,
            INSTANCES.named(prefix): self._instance,
        }

    def news_of(self, found: Message | Hole, cursor: str) -> News | None:
        if isinstance(found, Hole):
            return GapNews(cursor, now(), "retention")
        topic = found.topic() or ""
        try:
            return self._take[topic](found, cursor)
        except DecodeError:
            UNDECODABLE.labels(topic).inc()
            self._undecodable[topic] += 1
            return None

    def report(self) -> None:
        """Losses, once a second with their count."""
        if self._undecodable and time.monotonic() >= self._report_at:
            log.warning("messages.undecodable", **self._undecodable)
            self._undecodable.clear()
            self._report_at = time.monotonic() + 1

    def _spec(self, message: Message, cursor: str) -> News | None:
        partition, value = message.partition() or 0, message.value()
        if value is None:
            stream_id = _key(message)
            gone = self._observed.forget_spec(partition, stream_id)
            return (
                self._deleted(stream_id, message, cursor)
                if gone and not _has_moved(message)
                else None
            )
        spec = STREAMS.decode(value)
        if (spec.slot, STREAMS.key(spec)) != (partition, message.key()):
            raise DecodeError("MISPLACED", "a spec of another stream or slot")
        self._observed.note_spec(partition, spec)
        if self._said.get(spec.stream_id) == deleted(spec.stream_id):
            del self._said[spec.stream_id]  # it had only moved to another slot
        return self._changed(spec.stream_id, message, cursor)

    def _status(self, message: Message, cursor: str) -> News | None:
        partition, value = message.partition() or 0, message.value()
        if value is not None:
            status = STREAM_STATUS.decode(value)
            if STREAM_STATUS.key(status) != message.key():
                raise DecodeError("MISPLACED", "a status of another stream")
            self._observed.note_status(partition, status, _appended(message))
            return self._changed(status.stream_id, message, cursor)
        stream_id = _key(message)
        gone = self._observed.forget_status(partition, stream_id)
        lives_on = self._observed.spec(stream_id) is not None or _has_moved(message)
        return self._deleted(stream_id, message, cursor) if gone and not lives_on else None

    def _changed(self, stream_id: str, message: Message, cursor: str) -> News | None:
        status = self._observed.status(stream_id)
        if status is None:
            return None
        return self._say(status_data(status, self._observed.spec(stream_id)), message, cursor)

    def _deleted(self, stream_id: str, message: Message, cursor: str) -> News | None:
        return self._say(deleted(stream_id), message, cursor)

    def _say(self, data: StatusData, message: Message, cursor: str) -> News | None:
        """Only what differs from what was said last; nothing more of a deleted stream."""
        before = self._said.get(data.stream_id)
        if before is not None and (before == data or before.status == DELETED):
            return None
        self._said[data.stream_id] = data
        self._said.move_to_end(data.stream_id)
        if len(self._said) > STREAMS_REMEMBERED:
            self._said.popitem(last=False)
        return self._live("stream:status", data.stream_id, message, cursor, data)

    def _heartbeat(self, message: Message, cursor: str) -> News | None:
        heartbeat = HEARTBEATS.decode(message.value())
        self._observed.note_heartbeat(heartbeat, _appended(message))
        return self._live("stream:heartbeat", heartbeat.stream_id, message, cursor, heartbeat)

    def _record(self, message: Message, cursor: str) -> News | None:
        record = DETECTIONS.decode(message.value())
        if record.result_set is not None or not self._observed.note_record(record):
            return None  # of another model beside the live one, or a repeat
        return RecordNews(record, cursor)

    def _event(self, message: Message, cursor: str) -> News | None:
        event = EVENTS.decode(message.value())
        return News("event", event.stream_id, _appended(message), cursor, event)

    def _instance(self, message: Message, _: str) -> None:
        """No news: clients are told of streams."""
        self._observed.instances.note(INSTANCES.decode(message.value()), _appended(message))

    def _live(
        self, event: str, stream_id: str, message: Message, cursor: str, data: object
    ) -> News | None:
        """What was there when we began is not news."""
        if not self._observed.ready:
            return None
        return News(event, stream_id, _appended(message), cursor, data)


def _key(message: Message) -> str:
    """Raises DecodeError where a tombstone names no stream."""
    key = message.key()
    if not key:
        raise DecodeError("EMPTY", "a tombstone without a key")
    return key.decode(errors="replace") if isinstance(key, bytes) else key


def _has_moved(tombstone: Message) -> bool:
    """The stream lives on in another slot, which may not have been read yet."""
    return any(name == MOVED_TO for name, _ in headers_of(tombstone))


def _appended(message: Message) -> datetime:
    _, milliseconds = message.timestamp()
    return from_unix_us(max(milliseconds, 0) * 1000)
