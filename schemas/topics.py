"""Every topic, the one type it carries, and the one way to turn that type into bytes.

The envelope is CloudEvents 1.0 in Kafka's binary mode: facts about the message are headers, the
value is the message. Frames and snapshots have the JPEG as value and all their facts as headers.
"""

import base64
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice
from typing import Any, Generic, Literal, TypeVar

import msgspec

from schemas.messages import (
    EPOCH_BEGIN,
    FIRST_TIME,
    LAST_TIME,
    Clock,
    DeadLetter,
    DetectionRecord,
    Event,
    Frame,
    Heartbeat,
    Instance,
    Message,
    Snapshot,
    StreamSpec,
    StreamStatus,
    now,
    unix_us,
    wire_time,
)

M = TypeVar("M", bound=Message)
Header = tuple[str, bytes]
Headers = Sequence[Header]
Facts = dict[str, str]

LARGEST_DEAD_PAYLOAD = 64 * 1024  # bytes; a dead letter itself must never be refused
LARGEST_DEAD_KEY = 1024  # characters
LARGEST_DEAD_HEADERS = 16 * 1024  # bytes
MOST_DEAD_HEADERS = 100
LONGEST_READ = 16 * 1024  # of a key or an error, for its secrets
LATEST_MS = 10**13  # beyond any time that is one
LARGEST_MESSAGE = 2_000_000  # bytes, the brokers' message.max.bytes

PRODUCER: dict[str, Any] = {
    "partitioner": "murmur2_random",  # Java's and Faust's; librdkafka's own differs
    "enable.idempotence": True,
    "acks": "all",
    "message.max.bytes": LARGEST_MESSAGE,
    "compression.type": "none",
}
"""What every confluent producer is configured with, whatever it sends."""

PRODUCER_OF_FRAMES: dict[str, Any] = PRODUCER | {
    "linger.ms": 0,
    "message.timeout.ms": 0,  # the ingestor gives them up itself, all at once: no holes in `seq`
    "queue.buffering.max.kbytes": 16_384,
}
PRODUCER_OF_FACTS: dict[str, Any] = PRODUCER | {
    "linger.ms": 5,
    "message.timeout.ms": 0,  # for ever: facts are not lost
    "compression.type": "lz4",
    "queue.buffering.max.kbytes": 65_536,
}


MOVED_TO = "movedto"
"""Header of a tombstone in a slots topic: the stream is not gone, it lives on in that slot."""


class DecodeError(ValueError):
    """These bytes are not the message this topic carries; `reason` is a stable code."""

    def __init__(self, reason: str, error: str) -> None:
        super().__init__(f"{reason}: {error}")
        self.reason = reason


@dataclass(frozen=True, eq=False)  # two topics are never equal
class Topic(Generic[M]):
    name: str  # without the installation's prefix
    type: type[M]
    ce_type: str
    key_of: Callable[[M], str | None]
    id_of: Callable[[M], str]
    time_of: Callable[[M], datetime]
    partitions: Literal["data", "slots"] | int = "data"
    config: Mapping[str, str] = field(default_factory=dict)
    facts: Callable[[M], Facts] = lambda _: {}
    jpeg: bool = False

    def named(self, prefix: str) -> str:
        """The topic's name on the broker."""
        return prefix + self.name

    def key(self, message: M) -> bytes | None:
        key = self.key_of(message)
        return None if key is None else key.encode()

    def encode(self, message: M) -> bytes:
        return message.jpeg if self.jpeg else msgspec.json.encode(message)  # type: ignore[attr-defined]  # jpeg topics carry types with one

    def headers(self, message: M, source: str, traceparent: str) -> list[Header]:
        """`source` is the process that speaks, as `sightlog/SERVICE/INSTANCE`."""
        facts = {
            "ce_specversion": "1.0",
            "ce_id": self.id_of(message),
            "ce_source": source,
            "ce_type": self.ce_type,
            "ce_subject": self.key_of(message) or "",
            "ce_time": wire_time(self.time_of(message)),
            "content-type": "image/jpeg" if self.jpeg else "application/json",
            "traceparent": traceparent,
            **self.facts(message),
        }
        return [(name, value.encode()) for name, value in facts.items()]

    def decode(
        self, value: bytes | None, headers: Headers | Mapping[str, bytes] | None = None
    ) -> M:
        """`headers` are needed where they carry the facts (frames, snapshots)."""
        if not value:
            raise DecodeError("EMPTY", f"{self.name}: no value")
        if self.jpeg:
            return _from_headers(self, value, facts_of(headers))
        try:
            return msgspec.json.decode(value, type=self.type)
        except msgspec.ValidationError as error:
            raise DecodeError("WRONG_SHAPE", f"{self.name}: {error}") from error
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise DecodeError("NOT_JSON", f"{self.name}: {error}") from error


def facts_of(headers: Headers | Mapping[str, bytes] | None) -> Facts:
    """Headers as text; of a repeated one the last counts; what is not UTF-8 is left out."""
    pairs: Iterable[tuple[str, bytes | None]] = (
        headers.items() if isinstance(headers, Mapping) else headers or ()
    )
    facts: Facts = {}
    for name, value in pairs:
        try:
            facts[name] = (value or b"").decode()
        except UnicodeDecodeError:
            continue
    return facts


def _from_headers(topic: Topic[M], jpeg: bytes, facts: Facts) -> M:
    try:
        fields = _SNAPSHOT_FIELDS(facts) if topic.type is Snapshot else _FRAME_FIELDS(facts)
        return msgspec.convert(fields | {"jpeg": jpeg}, topic.type, strict=False)
    except KeyError as error:
        raise DecodeError("MISSING_HEADER", f"{topic.name}: {error.args[0]}") from error
    except (msgspec.ValidationError, ValueError) as error:
        raise DecodeError("WRONG_SHAPE", f"{topic.name}: {error}") from error


def _frame_facts(frame: Frame) -> Facts:
    facts = {
        "epoch": str(frame.epoch),
        "seq": str(frame.seq),
        "width": str(frame.width),
        "height": str(frame.height),
        "agems": str(frame.age_ms),
        "clock": ";".join(
            (frame.clock.source, _number(frame.clock.offset_ms), _number(frame.clock.error_ms))
        ),
        "captured": str(frame.captured),
        "dropped": str(frame.dropped),
        "detect": "1" if frame.detect else "0",
        "maxagems": str(frame.max_age_ms),
    }
    if frame.model is not None:
        facts["model"] = frame.model
    if frame.min_confidence is not None:
        facts["minconf"] = repr(frame.min_confidence)
    if frame.labels:
        facts["labels"] = ",".join(frame.labels)
    return facts


def _number(value: float | None) -> str:
    """To a microsecond also where a camera's clock is decades off."""
    return "" if value is None else f"{round(value, 3):.16g}"


def _FRAME_FIELDS(facts: Facts) -> dict[str, Any]:  # noqa: N802 -- reads as a table
    source, _, numbers = facts.get("clock", "arrival").partition(";")
    offset, _, error = numbers.partition(";")
    return {
        "streamId": facts["ce_subject"],
        "epoch": facts["epoch"],
        "seq": facts["seq"],
        "capturedAt": facts["ce_time"],
        "width": facts["width"],
        "height": facts["height"],
        "ageMs": facts.get("agems", "0"),
        "clock": Clock(
            source=source,
            offset_ms=float(offset) if offset else None,
            error_ms=float(error) if error else None,
        ),
        "captured": facts.get("captured", "0"),
        "dropped": facts.get("dropped", "0"),
        "detect": facts.get("detect", "1"),
        "model": facts.get("model"),
        "maxAgeMs": facts.get("maxagems", "2000"),
        "minConfidence": float(facts["minconf"]) if "minconf" in facts else None,
        "labels": tuple(facts["labels"].split(",")) if facts.get("labels") else (),
    }


def _SNAPSHOT_FIELDS(facts: Facts) -> dict[str, Any]:  # noqa: N802 -- reads as a table
    return {
        "streamId": facts["ce_subject"],
        "frameId": facts["frameid"],
        "capturedAt": facts["ce_time"],
        "path": facts["path"],
    }


_MINUTE_MS, _HOUR_MS, _DAY_MS = 60_000, 3_600_000, 86_400_000


_APPENDED = {"message.timestamp.type": "LogAppendTime"}
"""Age, silence and the cursors of subscribers count from when a reader could see a message, and no
producer's clock can move it past retention."""


def _kept(milliseconds: int, **more: str) -> dict[str, str]:
    names = {name.replace("_", "."): value for name, value in more.items()}
    kept = {"cleanup.policy": "delete", "retention.ms": str(milliseconds)}
    return _APPENDED | kept | names


_COMPACTED = _APPENDED | {
    "cleanup.policy": "compact",
    "segment.ms": str(10 * _MINUTE_MS),
    "min.cleanable.dirty.ratio": "0.1",
    "max.compaction.lag.ms": str(30 * _MINUTE_MS),
    "delete.retention.ms": str(_DAY_MS),
}

FRAMES = Topic(
    "frames.v1",
    Frame,
    "sightlog.frame.v1",
    key_of=lambda frame: frame.stream_id,
    id_of=lambda frame: frame.id,
    time_of=lambda frame: frame.captured_at,
    config=_kept(
        10 * _MINUTE_MS,
        retention_bytes=str(1 << 30),
        segment_ms=str(2 * _MINUTE_MS),
    ),
    facts=_frame_facts,
    jpeg=True,
)
DETECTIONS = Topic(
    "detections.v1",
    DetectionRecord,
    "sightlog.detection.v1",
    key_of=lambda record: record.stream_id,
    id_of=lambda record: record.record_id,
    time_of=lambda record: record.detected_at,
    config=_kept(7 * _DAY_MS, compression_type="lz4"),
    facts=lambda record: {"outcome": record.outcome, "count": str(len(record.detections))},
)
SNAPSHOTS = Topic(
    "snapshots.v1",
    Snapshot,
    "sightlog.snapshot.v1",
    key_of=lambda snapshot: snapshot.stream_id,
    id_of=lambda snapshot: snapshot.frame_id,
    time_of=lambda snapshot: snapshot.captured_at,
    config=_kept(_DAY_MS),
    facts=lambda snapshot: {"frameid": snapshot.frame_id, "path": snapshot.path},
    jpeg=True,
)
EVENTS = Topic(
    "events.v1",
    Event,
    "sightlog.event.v1",
    key_of=lambda event: event.stream_id,
    id_of=lambda event: f"{event.event_id}/{event.revision}",
    time_of=lambda event: event.ended_at or event.started_at,
    config=_kept(30 * _DAY_MS, compression_type="lz4"),
)
HEARTBEATS = Topic(
    "heartbeats.v1",
    Heartbeat,
    "sightlog.heartbeat.v1",
    key_of=lambda heartbeat: heartbeat.stream_id,
    id_of=lambda heartbeat: f"{heartbeat.stream_id}/{heartbeat.epoch}/{unix_us(heartbeat.at)}",
    time_of=lambda heartbeat: heartbeat.at,
    config=_kept(_DAY_MS, compression_type="lz4"),
)
STREAMS = Topic(
    "streams.v1",
    StreamSpec,
    "sightlog.stream-spec.v1",
    key_of=lambda spec: spec.stream_id,
    id_of=lambda spec: f"{spec.stream_id}/{spec.generation}",
    time_of=lambda _: now(),
    partitions="slots",
    config=_COMPACTED,
)
STREAM_STATUS = Topic(
    "stream-status.v1",
    StreamStatus,
    "sightlog.stream-status.v1",
    key_of=lambda status: status.stream_id,
    id_of=lambda status: (
        f"{status.stream_id}/{status.epoch}/{status.observed_generation}"
        f"/{status.status}/{status.attempt}/{unix_us(status.since)}"
        + (f"/{status.down.revision}" if status.down else "")
    ),
    time_of=lambda status: status.since,
    partitions="slots",
    config=_COMPACTED,
)
INSTANCES = Topic(
    "instances.v1",
    Instance,
    "sightlog.instance.v1",
    key_of=lambda instance: instance.instance,
    id_of=lambda instance: f"{instance.instance}/{unix_us(instance.at)}",
    time_of=lambda instance: instance.at,
    partitions=1,
    config=_kept(_DAY_MS),
)
DEAD_LETTERS = Topic(
    "dead-letters.v1",
    DeadLetter,
    "sightlog.dead-letter.v1",
    key_of=lambda letter: letter.key,
    id_of=lambda letter: f"{letter.topic}/{letter.partition}/{letter.offset}",
    time_of=lambda letter: letter.timestamp or now(),
    partitions=6,
    config=_kept(14 * _DAY_MS, compression_type="lz4"),
)

TOPICS: tuple[Topic[Any], ...] = (
    FRAMES,
    DETECTIONS,
    SNAPSHOTS,
    EVENTS,
    HEARTBEATS,
    STREAMS,
    STREAM_STATUS,
    INSTANCES,
    DEAD_LETTERS,
)


@dataclass(frozen=True)
class Origin:
    """Where a message stood that could not be handled."""

    topic: str  # the full name on the broker
    partition: int
    offset: int
    timestamp_ms: int | None
    key: bytes | None
    value: bytes | None
    headers: Headers


Redact = Callable[[str], str]
"""Takes the secrets out of a text: services.process.redact."""


def dead_letter(
    origin: Origin, reason: str, error: str, service: str, redact: Redact
) -> DeadLetter:
    """What could not be read may hold what should not be stored: key, error and payload are kept
    without their secrets. `sha256` and `size` are of the value as it was, by which it is found in
    its own topic while that still has it; a payload with another sum had a secret in it."""
    value = origin.value or b""
    return DeadLetter(
        topic=origin.topic,
        partition=origin.partition,
        offset=origin.offset,
        timestamp=_time_of(origin.timestamp_ms),
        key=None if origin.key is None else _cut_key(origin.key, redact),
        reason=reason,
        error=redact(error[:LONGEST_READ])[:1000],
        sha256=hashlib.sha256(value).hexdigest(),
        size=len(value),
        service=service,
        payload=_payload(value, redact) if len(value) < LARGEST_DEAD_PAYLOAD else None,
    )


def _payload(value: bytes, redact: Redact) -> str:
    """Whatever the bytes are, those that are text are read as such."""
    text = value.decode("utf-8", "surrogateescape")
    return base64.b64encode(redact(text).encode("utf-8", "surrogateescape")).decode()


def _time_of(milliseconds: int | None) -> datetime | None:
    """None where a producer's clock said what is no time."""
    at = EPOCH_BEGIN + timedelta(milliseconds=min(max(milliseconds or -1, -1), LATEST_MS))
    return at if FIRST_TIME <= at < LAST_TIME else None


def _cut_key(key: bytes, redact: Redact) -> str:
    """Cut once its secrets are gone: half of one would not be known for what it is."""
    return redact(key[:LONGEST_READ].decode(errors="replace"))[:LARGEST_DEAD_KEY]


def origin_headers(origin: Origin, redact: Redact) -> list[Header]:
    """The original headers without secrets, to stand after the dead letter's own: as many as there
    is room for."""
    kept: list[Header] = []
    room = LARGEST_DEAD_HEADERS
    for name, value in islice(origin.headers, MOST_DEAD_HEADERS):
        room -= len(name.encode()) + len(value or b"")
        if room < 0:
            break
        kept.append(_redacted(name, value or b"", redact))
    return kept


def _redacted(name: str, value: bytes, redact: Redact) -> Header:
    """Read together: `password: x` is one, x is none."""
    before = f"{name}="
    text = redact(before + value.decode("utf-8", "surrogateescape"))
    if not text.startswith(before):
        return f"origin_{redact(name)}", b""
    return f"origin_{name}", text.removeprefix(before).encode("utf-8", "surrogateescape")
