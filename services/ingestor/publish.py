"""Frames onto Kafka: numbered when they are handed to the producer, every other one accounted for.

Between capture and the producer stands a queue bounded in bytes, which loses its oldest. A frame
gets its `seq` only when the producer takes it, so a number, once given, is published: or the epoch
ends.
"""

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import structlog
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from schemas.messages import Clock, Dropped, Frame, Ledger, StreamSpec, from_unix_us
from schemas.topics import FRAMES
from services.process.trace import new_traceparent

log = structlog.get_logger()

MOST_IN_FLIGHT = 16  # frames of one stream that the producer holds
GIVE_UP_S = 10.0  # live pictures are worth nothing late
CAREFUL_S = 60.0  # after a loss of all; by then it is over in every thread of the library
POLL_S = 0.1

Epoch = tuple[str, int]
"""A stream and its epoch."""
Delivered = Callable[[bool], None]
Send = Callable[[Frame, Delivered], bool]
"""Takes a frame, or says False where there is no room now."""


@dataclass(frozen=True)
class Waiting:
    """A JPEG that has no number yet, and what was captured and dropped up to it."""

    jpeg: bytes
    captured_at_us: int
    at_s: float  # monotonic
    width: int
    height: int
    clock: Clock
    captured: int
    dropped: Dropped


@dataclass
class Books:
    """The ledger of one epoch, as of the last frame that was decided on."""

    epoch: int | None = None
    next_seq: int = 0
    captured: int = 0
    published: int = 0
    undetected: int = 0
    in_flight: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    last_at_us: int = 0

    def add(self, captured: int, dropped: Dropped) -> None:
        self.captured += captured
        for cause in Dropped.__struct_fields__:
            self.drop(cause, getattr(dropped, cause))

    def drop(self, cause: str, count: int = 1) -> None:
        if count:
            self.dropped[cause] = self.dropped.get(cause, 0) + count

    @property
    def dropped_total(self) -> int:
        return sum(self.dropped.values())


@dataclass(frozen=True)
class Account:
    """The books of an epoch at one instant."""

    epoch: int
    last_seq: int | None
    totals: Ledger
    last_frame_at_us: int


class Outbox:
    """A stream's frames on their way, and its books.

    Frames come from the camera's reader, deliveries from the producer's thread, epochs from the
    control loop; one lock holds them together. `on_loss` is called when a numbered frame was lost.
    """

    def __init__(
        self, spec: StreamSpec, send: Send, most_bytes: int, on_loss: Callable[[], None]
    ) -> None:
        self.spec = spec
        self._send = send
        self._most_bytes = most_bytes
        self._on_loss = on_loss
        self._lock = threading.RLock()
        self._waiting: deque[Waiting] = deque()
        self._bytes = 0
        self._books = Books()
        self._ended: list[Books] = []
        self._undecided = (0, Dropped())  # counted after the last frame
        self._unacknowledged_since_s: float | None = None
        self.bytes_published = 0

    def put(self, frame: Waiting) -> str | None:
        """Queue it and send what can be sent; the frame's id if it got a number at once."""
        with self._lock:
            frame = self._with_undecided(frame)
            self._waiting.append(frame)
            self._bytes += len(frame.jpeg)
            while self._bytes > self._most_bytes and len(self._waiting) > 1:
                self._lose_oldest()
            return self._pump(frame)

    def count(self, captured: int, dropped: Dropped) -> None:
        """Without a frame: it will be in the books of the next one."""
        with self._lock:
            before_captured, before = self._undecided
            self._undecided = (before_captured + captured, _sum(before, dropped))

    def open(self, epoch: int) -> None:
        """From now on frames are numbered, from 0."""
        with self._lock:
            self._books.epoch = epoch
            self._pump()

    @property
    def epoch(self) -> int | None:
        return self._books.epoch

    @property
    def numbered(self) -> int:
        """How many frames of this epoch have a number."""
        return self._books.next_seq

    @property
    def stuck_s(self) -> float:
        """For how long no delivery has come while one was awaited."""
        since_s = self._unacknowledged_since_s
        return 0.0 if since_s is None else time.monotonic() - since_s

    def end(self) -> None:
        """End the epoch: what has no number yet is counted overload, in its books."""
        with self._lock:
            books = self._books
            while self._waiting:
                self._lose_oldest()
            books.add(*self._undecided)
            self._undecided = (0, Dropped())
            self._unacknowledged_since_s = None
            self._books = Books()
            if books.epoch is not None:
                self._ended.append(books)

    def account(self) -> Account | None:
        """Of the current epoch, frames that still wait included; None before there is one."""
        with self._lock:
            books = self._books
            if books.epoch is None:
                return None
            captured, dropped = self._undecided
            for frame in self._waiting:
                captured, dropped = captured + frame.captured, _sum(dropped, frame.dropped)
            return _account(books, len(self._waiting), captured, dropped)

    def final_accounts(self, *, anyway: bool = False) -> list[Account]:
        """Of ended epochs, once: when the fate of their last frame is known, or `anyway`."""
        with self._lock:
            closed = [books for books in self._ended if anyway or not books.in_flight]
            self._ended = [books for books in self._ended if books not in closed]
        return [_account(books, 0, 0, Dropped()) for books in closed]

    @property
    def is_settled(self) -> bool:
        """Whether nothing waits and nothing is in flight."""
        with self._lock:
            return not self._waiting and not any(
                books.in_flight for books in (self._books, *self._ended)
            )

    def _with_undecided(self, frame: Waiting) -> Waiting:
        captured, dropped = self._undecided
        self._undecided = (0, Dropped())
        # Time never goes back inside an epoch, not even when a camera was connected anew.
        at_us = max(frame.captured_at_us, self._books.last_at_us + 1)
        self._books.last_at_us = at_us
        return Waiting(
            jpeg=frame.jpeg,
            captured_at_us=at_us,
            at_s=frame.at_s,
            width=frame.width,
            height=frame.height,
            clock=frame.clock,
            captured=frame.captured + captured,
            dropped=_sum(dropped, frame.dropped),
        )

    def _lose_oldest(self) -> None:
        lost = self._take_oldest()
        self._books.add(lost.captured, lost.dropped)
        self._books.drop("overload")

    def _take_oldest(self) -> Waiting:
        oldest = self._waiting.popleft()
        self._bytes -= len(oldest.jpeg)
        return oldest

    def _pump(self, newest: Waiting | None = None) -> str | None:
        """Hand over what the producer takes; the id of the newest frame, if it was among it."""
        frame_id = None
        while self._waiting and self._books.in_flight < MOST_IN_FLIGHT:
            frame = self._numbered(self._waiting[0])
            if frame is None or not self._send(frame, self._receipt(self._books, frame)):
                break
            taken = self._take_oldest()
            self._books.add(taken.captured, taken.dropped)
            self._books.next_seq += 1
            self._books.in_flight += 1
            if self._unacknowledged_since_s is None:
                self._unacknowledged_since_s = time.monotonic()
            frame_id = frame.id if taken is newest else None
        return frame_id

    def _numbered(self, waiting: Waiting) -> Frame | None:
        books, spec = self._books, self.spec
        if books.epoch is None:
            return None
        return Frame(
            stream_id=spec.stream_id,
            epoch=books.epoch,
            seq=books.next_seq,
            captured_at=from_unix_us(waiting.captured_at_us),
            width=waiting.width,
            height=waiting.height,
            age_ms=max(0, round((time.monotonic() - waiting.at_s) * 1000)),
            clock=waiting.clock,
            captured=books.captured + waiting.captured,
            dropped=books.dropped_total + waiting.dropped.total,
            detect=spec.detection_enabled,
            model=spec.model,
            max_age_ms=spec.max_frame_age_ms,
            min_confidence=spec.min_confidence,
            labels=spec.labels,
            jpeg=waiting.jpeg,
        )

    def _receipt(self, books: Books, frame: Frame) -> Delivered:
        size, detect = len(frame.jpeg), frame.detect

        def delivered(well: bool) -> None:
            with self._lock:
                books.in_flight -= 1
                if not well:
                    books.drop("overload")
                    self._lose(books)
                    return
                books.published += 1
                books.undetected += not detect
                self.bytes_published += size
                if books is self._books:
                    self._unacknowledged_since_s = time.monotonic() if books.in_flight else None
                    self._pump()

        return delivered

    def _lose(self, books: Books) -> None:
        """Numbers are gapless inside an epoch, so this epoch has no further frame."""
        if books is self._books:
            self.end()
            self._on_loss()


def _account(books: Books, waiting: int, captured: int, dropped: Dropped) -> Account:
    return Account(
        epoch=books.epoch or 0,
        last_seq=books.next_seq - 1 if books.next_seq else None,
        totals=Ledger(
            captured=books.captured + captured,
            published=books.published,
            undetected=books.undetected,
            dropped=_sum(Dropped(**books.dropped), dropped),
            pending=books.in_flight + waiting,
        ),
        last_frame_at_us=books.last_at_us,
    )


def _sum(one: Dropped, other: Dropped) -> Dropped:
    if not other.total:
        return one
    return Dropped(
        **{name: getattr(one, name) + getattr(other, name) for name in Dropped.__struct_fields__}
    )


class FrameProducer:
    """The one producer of all streams' frames, and the thread that serves its deliveries.

    It gives up frames itself: librdkafka's own time-out takes the oldest first, while what is
    queued behind them may still leave, and that is a hole in the numbers. A purge takes all that
    was not acknowledged, the newest included, so what arrives is gapless up to the loss, and there
    once. It takes it from every broker's queue, those of brokers that are well included.

    A purge is only asked for here and done later, by each broker's thread, and its losses are told
    later still. A number that is sent meanwhile must not be behind one that gets lost, so each
    epoch has a door: shut from a purge, or from its first loss, until all of its frames were
    reported. Its outbox has heard of the loss before the door opens, and numbers no more in it.

    One hole remains: where the broker refuses a batch (too large, not allowed), the frames of the
    same epoch that were handed over before we hear of it can't be called back and may still arrive,
    fewer than MOST_IN_FLIGHT of them.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        prefix: str,
        source: str,
        give_up_s: float = GIVE_UP_S,
    ) -> None:
        self._producer = Producer(dict(config))
        self._topic = FRAMES.named(prefix)
        self._source = source
        self._give_up_s = give_up_s
        self._closed = threading.Event()
        self._entry = threading.Lock()  # of all that follows; never held while a stream is told
        self._unreported: Counter[Epoch] = Counter()
        self._shut: set[Epoch] = set()
        self._careful_until_s = 0.0
        self._taken_at_s: dict[str, float] = {}  # of frames that wait, the oldest first
        self._has_failed = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="deliveries", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def send(self, frame: Frame, delivered: Delivered) -> bool:
        """False where the producer's queue is full, or the door of the frame's epoch is shut."""
        epoch = frame.stream_id, frame.epoch

        def report(error: KafkaError | None, _: Message) -> None:
            if error is None:
                self._note_report(frame.id, epoch)
                delivered(True)
                return
            with self._entry:
                self._shut.add(epoch)
            delivered(False)
            self._note_report(frame.id, epoch)

        headers = FRAMES.headers(frame, self._source, new_traceparent())
        try:
            with self._entry:
                if not self._is_open(epoch):
                    return False
                self._producer.produce(
                    self._topic,
                    key=FRAMES.key(frame),
                    value=FRAMES.encode(frame),
                    headers=[*headers],
                    on_delivery=report,
                )
                self._unreported[epoch] += 1
                self._taken_at_s[frame.id] = time.monotonic()
        except BufferError:
            return False
        except KafkaException:
            self._has_failed.set()
            return False
        return True

    def _is_open(self, epoch: Epoch) -> bool:
        """After a purge one frame of each epoch at a time: also one that was handed over behind the
        purge may still be taken by it, and then it must be the last."""
        if epoch in self._shut:
            return False
        return not self._unreported[epoch] or time.monotonic() > self._careful_until_s

    def _note_report(self, frame_id: str, epoch: Epoch) -> None:
        with self._entry:
            self._taken_at_s.pop(frame_id, None)
            self._unreported[epoch] -= 1
            if not self._unreported[epoch]:
                del self._unreported[epoch]
                self._shut.discard(epoch)

    @property
    def has_failed(self) -> bool:
        """Whether it will never take a frame again: then the process must end."""
        return self._has_failed.is_set()

    def _serve(self) -> None:
        while not self._closed.is_set():
            self._producer.poll(POLL_S)
            if self._waited_s() > self._give_up_s:
                self._empty()
                log.warning("frames.lost", cause="broker away")

    def _waited_s(self) -> float:
        with self._entry:
            oldest_s = next(iter(self._taken_at_s.values()), None)
        return 0.0 if oldest_s is None else time.monotonic() - oldest_s

    def _empty(self) -> None:
        """The broker was away for too long. What was sent and not answered counts as lost, too: it
        may have arrived, and must not be sent again. The broker would not know it for the same, for
        after a loss the producer has another number there."""
        with self._entry:
            self._shut.update(self._unreported)
            self._careful_until_s = time.monotonic() + CAREFUL_S
            self._taken_at_s.clear()
            self._producer.purge(in_queue=True, in_flight=True)

    def close(self) -> None:
        """Deliveries that are still due are not waited for."""
        self._closed.set()
        self._thread.join()
        self._producer.purge()
        self._producer.poll(0)
