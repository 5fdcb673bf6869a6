"""Topics -> what is observed, and news for those who listen. Commits nothing: live is live."""

import concurrent.futures
import threading
import time
from collections import Counter as Tally
from collections import OrderedDict
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import structlog
from confluent_kafka import KafkaException, Message
from prometheus_client import Counter

from schemas.messages import from_unix_us, now
from schemas.topics import (
    DETECTIONS,
    EVENTS,
    HEARTBEATS,
    STREAM_STATUS,
    STREAMS,
    DecodeError,
    Topic,
)
from services.gateway.cursor import cursor
from services.gateway.hub import Hub
from services.gateway.news import (
    DELETED,
    GapNews,
    News,
    RecordNews,
    StatusData,
    deleted,
    status_data,
)
from services.gateway.observed import Observed
from services.gateway.tail import Hole, Start, Tail

log = structlog.get_logger()

STARTS: dict[Topic[Any], Start] = {
    STREAMS: Start.BEGINNING,
    STREAM_STATUS: Start.BEGINNING,
    HEARTBEATS: Start.RECENT,
    DETECTIONS: Start.END,
    EVENTS: Start.END,
}
TRY_AGAIN_S = 1.0
STOP_WITHIN_S = 5.0
STREAMS_REMEMBERED = 20_000  # of which it is known what was said last

UNDECODABLE = Counter(
    "sightlog_gateway_undecodable_messages_total", "Messages skipped by the live view", ["topic"]
)


class Follower:
    """Its one thread tells `observed` and `hub` what the topics say."""

    def __init__(
        self, kafka_config: Mapping[str, Any], prefix: str, observed: Observed, hub: Hub[News]
    ) -> None:
        self._kafka_config = kafka_config
        self._starts = {topic.named(prefix): start for topic, start in STARTS.items()}
        self._told = Told(prefix, observed)
        self._observed = observed
        self._hub = hub
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="follow", daemon=True)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(STOP_WITHIN_S)

    def _run(self) -> None:
        tail = Tail(self._kafka_config, self._starts)
        try:
            while not self._stop.is_set():
                self._follow(tail)
        finally:
            tail.close()

    def _follow(self, tail: Tail) -> None:
        try:
            messages = tail.read()
        except KafkaException as error:
            log.warning("topics.unreadable", error=str(error))
            self._stop.wait(TRY_AGAIN_S)
            return
        self._observed.note_watermark(tail.watermark)
        here = cursor(tail.watermark)
        self._publish([news for found in messages if (news := self._told.news_of(found, here))])
        self._told.report()
        if tail.complete and not self._observed.ready:
            self._observed.note_ready()
            log.info("topics.caught_up", streams=len(self._observed.specs()))

    def _publish(self, news: list[News]) -> None:
        """Waits until every queue has its share, so that a busy event loop fills no memory."""
        sent = self._hub.publish(news)
        while sent is not None and not self._stop.is_set():
            done, _ = concurrent.futures.wait([sent], timeout=TRY_AGAIN_S)
            if done:
                sent.result()
                return


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
            return self._deleted(stream_id, message, cursor) if gone else None
        spec = STREAMS.decode(value)
        self._observed.note_spec(partition, spec)
        if self._said.get(spec.stream_id) == deleted(spec.stream_id):
            del self._said[spec.stream_id]  # it had only moved to another slot
        return self._changed(spec.stream_id, message, cursor)

    def _status(self, message: Message, cursor: str) -> News | None:
        partition, value = message.partition() or 0, message.value()
        if value is not None:
            status = STREAM_STATUS.decode(value)
            self._observed.note_status(partition, status)
            return self._changed(status.stream_id, message, cursor)
        stream_id = _key(message)
        gone = self._observed.forget_status(partition, stream_id)
        exists = self._observed.spec(stream_id) is not None
        return self._deleted(stream_id, message, cursor) if gone and not exists else None

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
        self._observed.note_heartbeat(heartbeat)
        return self._live("stream:heartbeat", heartbeat.stream_id, message, cursor, heartbeat)

    def _record(self, message: Message, cursor: str) -> News | None:
        record = DETECTIONS.decode(message.value())
        if record.result_set is not None or not self._observed.note_record(record):
            return None  # of another model beside the live one, or a repeat
        return RecordNews(record, cursor)

    def _event(self, message: Message, cursor: str) -> News | None:
        event = EVENTS.decode(message.value())
        return News("event", event.stream_id, _appended(message), cursor, event)

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


def _appended(message: Message) -> datetime:
    _, milliseconds = message.timestamp()
    return from_unix_us(max(milliseconds, 0) * 1000)
