"""What the cluster last said about each stream, held in memory.

Written by the thread that follows the topics, read by any. The answers to requests come from here
and never wait for the database.
"""

import math
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from datetime import datetime
from typing import NamedTuple, TypeVar

from msgspec import Struct

from schemas.messages import DetectionRecord, Heartbeat, Outcome, StreamSpec, StreamStatus, now
from services.gateway.instances import Instances

T = TypeVar("T")

WINDOW_S = 30.0  # of what is measured
RECORDS_KEPT = 512  # of one stream
PARTITIONS_KEPT = 4  # of one stream's statuses; while it moves, two speak of it
STREAMS_KEPT = 20_000  # of each kind; who was silent longest is forgotten first


class Measured(Struct, frozen=True, kw_only=True, rename="camel"):
    """How a stream fared in about the last 30 s."""

    fps: float  # published
    detected_fps: float  # answered by the model
    lag_ms_p50: float | None = None  # from capture to the record
    lag_ms_p95: float | None = None


class _Sample(NamedTuple):
    arrived: float  # monotonic
    epoch: int
    seq: int
    ok: bool
    lag_ms: float


class _Placed(NamedTuple):
    """A stream may move to another slot, and then its old partition's tombstone says nothing."""

    partition: int
    spec: StreamSpec


class Observed:
    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._ready = threading.Event()
        self.watermark = now()  # what was appended before it has been seen here
        self.instances = Instances(monotonic)
        self.slots = 0  # the partitions of streams.v1; 0: not known yet
        self._statuses: OrderedDict[str, dict[int, StreamStatus]] = OrderedDict()
        self._heartbeats: OrderedDict[str, tuple[float, Heartbeat]] = OrderedDict()
        self._spoken: OrderedDict[str, float] = OrderedDict()  # of whom an owner spoke, and when
        self._samples: OrderedDict[str, deque[_Sample]] = OrderedDict()
        self._last: OrderedDict[str, tuple[int, int]] = OrderedDict()
        self._desired: OrderedDict[str, _Placed] = OrderedDict()

    @property
    def ready(self) -> bool:
        """Whether the topics have been read to where they ended when we began."""
        return self._ready.is_set()

    def status(self, stream_id: str) -> StreamStatus | None:
        """What the slot says in which the stream is wanted; while that says nothing, what was said
        last in another."""
        with self._lock:
            return self._status(stream_id)

    def status_in(self, slot: int, stream_id: str) -> StreamStatus | None:
        """What this slot says of it, whether the stream is wanted there or was."""
        with self._lock:
            return self._statuses.get(stream_id, {}).get(slot)

    def statuses(self) -> list[StreamStatus]:
        with self._lock:
            found = [self._status(stream_id) for stream_id in self._statuses]
        return [status for status in found if status is not None]

    def _status(self, stream_id: str) -> StreamStatus | None:
        said = self._statuses.get(stream_id, {})
        wanted = self._desired.get(stream_id)
        if wanted is not None and wanted.partition in said:
            return said[wanted.partition]
        return next(reversed(said.values()), None)

    def spec(self, stream_id: str) -> StreamSpec | None:
        with self._lock:
            placed = self._desired.get(stream_id)
        return placed.spec if placed else None

    def specs(self) -> list[StreamSpec]:
        """Of the streams that exist, as last published."""
        with self._lock:
            return [placed.spec for placed in self._desired.values()]

    def heartbeat(self, stream_id: str) -> Heartbeat | None:
        with self._lock:
            arrived_and_heartbeat = self._heartbeats.get(stream_id)
        return arrived_and_heartbeat[1] if arrived_and_heartbeat else None

    def silent_s(self, stream_id: str) -> float:
        """Since its owner last spoke of it, by a status or a heartbeat. Infinite where nobody did.

        By the broker's clock and ours: an owner's own may be an hour off.
        """
        with self._lock:
            return self._monotonic() - self._spoken.get(stream_id, -math.inf)

    def measured(self, stream_id: str) -> Measured | None:
        """None when nothing was heard of the stream for 30 s."""
        at = self._monotonic()
        since = at - WINDOW_S
        with self._lock:
            samples = [s for s in self._samples.get(stream_id, ()) if s.arrived >= since]
            arrived, heartbeat = self._heartbeats.get(stream_id, (-math.inf, None))
        fresh = heartbeat if arrived >= since else None
        if not samples and fresh is None:
            return None
        lags = sorted(sample.lag_ms for sample in samples)
        return Measured(
            fps=round(fresh.fps.published if fresh else _published(samples, at), 2),
            detected_fps=round(_rate([s.arrived for s in samples if s.ok], at), 2),
            lag_ms_p50=_quantile(lags, 0.5),
            lag_ms_p95=_quantile(lags, 0.95),
        )

    def note_ready(self) -> None:
        self._ready.set()

    def note_watermark(self, at: datetime) -> None:
        self.watermark = at

    def note_slots(self, count: int) -> None:
        """Topics only grow: fewer are a topic that was not looked at yet."""
        self.slots = max(self.slots, count)

    def note_status(self, partition: int, status: StreamStatus, appended: datetime) -> None:
        """`appended`: when the broker got it."""
        with self._lock:
            self._note_spoken(status.stream_id, self._at(appended))
            said = self._statuses.get(status.stream_id, {})
            said.pop(partition, None)
            if len(said) >= PARTITIONS_KEPT:
                del said[next(iter(said))]
            _put(self._statuses, status.stream_id, {**said, partition: status})

    def forget_status(self, partition: int, stream_id: str) -> bool:
        """True when nothing more is known of the stream."""
        with self._lock:
            said = self._statuses.get(stream_id, {})
            if said.pop(partition, None) is None or said:
                return False
            for kept in (
                self._statuses,
                self._heartbeats,
                self._spoken,
                self._samples,
                self._last,
            ):
                kept.pop(stream_id, None)
            return True

    def note_spec(self, partition: int, spec: StreamSpec) -> None:
        with self._lock:
            known = self._desired.get(spec.stream_id)
            if known is None or spec.generation >= known.spec.generation:
                _put(self._desired, spec.stream_id, _Placed(partition, spec))

    def forget_spec(self, partition: int, stream_id: str) -> bool:
        """True when the stream is gone, and did not only move to another slot."""
        with self._lock:
            known = self._desired.get(stream_id)
            if known is None or known.partition != partition:
                return False
            del self._desired[stream_id]
            return True

    def note_heartbeat(self, heartbeat: Heartbeat, appended: datetime) -> None:
        """`appended`: when the broker got it."""
        at = self._at(appended)
        with self._lock:
            self._note_spoken(heartbeat.stream_id, at)
            _put(self._heartbeats, heartbeat.stream_id, (at, heartbeat))

    def _note_spoken(self, stream_id: str, at: float) -> None:
        """Topics are read beside each other: what is read later may be older."""
        _put(self._spoken, stream_id, max(at, self._spoken.get(stream_id, -math.inf)))

    def _at(self, appended: datetime) -> float:
        """By our monotonic clock."""
        return self._monotonic() - max(0.0, (now() - appended).total_seconds())

    def note_record(self, record: DetectionRecord) -> bool:
        """False for a repeat: records of a stream come in seq order, and epochs only rise."""
        frame = record.frame
        with self._lock:
            if (frame.epoch, frame.seq) <= self._last.get(record.stream_id, (-1, -1)):
                return False
            _put(self._last, record.stream_id, (frame.epoch, frame.seq))
            if record.stream_id not in self._samples:
                _put(self._samples, record.stream_id, deque(maxlen=RECORDS_KEPT))
            self._samples[record.stream_id].append(
                _Sample(
                    self._monotonic(),
                    frame.epoch,
                    frame.seq,
                    record.outcome == Outcome.OK,
                    _lag_ms(record),
                )
            )
            return True


def _put(kept: OrderedDict[str, T], stream_id: str, value: T) -> None:
    kept[stream_id] = value
    kept.move_to_end(stream_id)
    if len(kept) > STREAMS_KEPT:
        kept.popitem(last=False)


def _lag_ms(record: DetectionRecord) -> float:
    measured = record.timing.since_capture_ms
    if measured is not None:
        return measured
    return (record.detected_at - record.frame.captured_at).total_seconds() * 1000


def _rate(arrivals: list[float], at: float) -> float:
    return len(arrivals) / max(at - arrivals[0], 1.0) if arrivals else 0.0


def _published(samples: list[_Sample], at: float) -> float:
    """By seq, which counts the frames that were published and not looked at, too."""
    epoch = samples[-1].epoch
    first = next(sample for sample in samples if sample.epoch == epoch)
    return (samples[-1].seq - first.seq + 1) / max(at - first.arrived, 1.0)


def _quantile(ascending: list[float], share: float) -> float | None:
    """By nearest rank."""
    if not ascending:
        return None
    return round(ascending[math.ceil(share * len(ascending)) - 1], 1)
