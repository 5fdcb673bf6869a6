"""The control loop: what is desired, who owns it, and each stream's next step.

One thread decides everything; cameras' readers, the producer of frames and the HTTP server have
threads of their own and decide nothing.
"""

import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import structlog
from msgspec.structs import replace

from schemas.messages import (
    Down,
    Instance,
    Reason,
    Status,
    StreamSpec,
    StreamStatus,
    down_event,
    now,
)
from schemas.topics import DEAD_LETTERS
from services.ingestor import children, metrics
from services.ingestor.announce import Announcer
from services.ingestor.claim import Membership, next_epoch
from services.ingestor.desire import Desired, Desires, Partitions, ReadToEnd, Unreadable
from services.ingestor.down import ended
from services.ingestor.follow import Statuses
from services.ingestor.newest import Newest, Still
from services.ingestor.publish import FrameProducer
from services.ingestor.stamp import ClockWatch
from services.ingestor.supervise import Stream, Surroundings

log = structlog.get_logger()

TICK_S = 0.1
HURRY_FOR_S, HURRIED_TICK_S = 3.0, 0.03  # taking a stream over waits for several answers in turn
INSTANCE_EVERY_S = 10.0
SPARE_AFTER_S = 5.0
SETTLE_S = 2.0  # for the last frames' deliveries
FLUSH_S = 2.0  # for the last facts
MOST_UNBURIED = 100  # of up to two megabytes each
FRESH_S = 10.0  # a frame of a stream that isn't running is shown no longer than this

Place = tuple[int, str]
"""A slot and a stream in it."""


class CannotGoOn(Exception):
    """The process must end, and be started anew."""


@dataclass(frozen=True)
class Outside:
    """Clients of Kafka, opened by the main."""

    frames: FrameProducer
    announcer: Announcer
    statuses: Statuses
    open_desires: Callable[..., Desires]


class Ingestor:
    """The streams of the partitions that are ours."""

    def __init__(
        self, outside: Outside, world: Surroundings, instance: Instance, clock: ClockWatch
    ) -> None:
        self._announcer = outside.announcer
        self._frames = outside.frames
        self._statuses = outside.statuses
        self._world = world
        self._instance = instance
        self._clock = clock
        self._membership = Membership()
        self._desires = outside.open_desires(
            self._take_partitions, self._release, self._membership.answer
        )
        self._specs: dict[Place, StreamSpec] = {}
        self._moved: set[Place] = set()  # from there to another slot, events and all
        self._streams: dict[Place, Stream] = {}
        self._read: set[int] = set()  # partitions whose specs have been read to their end
        self._ready: set[int] = set()  # and their statuses, too
        self._unhealed: deque[tuple[int, StreamStatus]] = deque()
        self._unburied: deque[Unreadable] = deque()
        self._hurries_until_s = 0.0
        self._said_instance_at_s = 0.0
        self._said_slots: tuple[int, ...] = ()
        self._broker_since_s: float | None = None

    def run(self, stop: threading.Event) -> None:
        """Until the stop; then everything is handed over."""
        self._frames.start()
        self._desires.subscribe()
        while not stop.is_set():
            self.step()
        self._leave()

    def step(self) -> None:
        if self._frames.has_failed:
            raise CannotGoOn("the producer of frames failed for good")
        for found in self._desires.poll(self._tick_s):
            self._note(found)
        self._hear_all()
        self._announcer.poll()
        self._begin_partitions()
        self._heal()
        self._bury()
        self._watch_clock()
        self._claim()
        for place, stream in sorted(self._streams.items(), key=_turn):
            stream.tick()
            if stream.is_gone:
                self._streams.pop(place)
                log.info("stream.forgotten", stream=place[1])
        self._count()

    @property
    def _tick_s(self) -> float:
        return HURRIED_TICK_S if time.monotonic() < self._hurries_until_s else TICK_S

    # What is ours

    def _take_partitions(self, partitions: Partitions) -> None:
        """Called from within the poll of the group."""
        log.info("partitions.assigned", partitions=sorted(partitions))
        self._hurries_until_s = time.monotonic() + HURRY_FOR_S
        self._statuses.follow(partitions)

    def _release(self, partitions: Partitions, lost: bool) -> None:
        """Called from within the poll of the group: cameras are stopped before this returns."""
        log.info("partitions.released", partitions=sorted(partitions), lost=lost)
        leaving = [stream for place, stream in self._streams.items() if place[0] in partitions]
        _end_cameras(leaving)
        if not lost:
            _await(lambda: all(stream.outbox.is_settled for stream in leaving), SETTLE_S)
        for stream in leaving:
            stream.release(lost=lost)
        if not lost:
            self._introduce()
            self._flush()
        self._streams = {at: kept for at, kept in self._streams.items() if at[0] not in partitions}
        self._specs = {at: kept for at, kept in self._specs.items() if at[0] not in partitions}
        self._moved = {place for place in self._moved if place[0] not in partitions}
        self._unhealed = deque(each for each in self._unhealed if each[0] not in partitions)
        self._read -= partitions
        self._ready -= partitions
        self._statuses.leave(partitions)

    def _begin_partitions(self) -> None:
        """Act on what was read, once both topics were read to their ends."""
        for partition in sorted(self._read - self._ready):
            if self._statuses.has_read(partition):
                self._ready.add(partition)
                for place in [place for place in self._specs if place[0] == partition]:
                    self._want(place, self._specs[place])
                self._unhealed += [(partition, last) for last in self._statuses.of(partition)]

    def _heal(self) -> None:
        """Streams were deleted, and their owners died before they could say that they stopped, or
        that their event is over."""
        while self._unhealed:
            partition, last = self._unhealed[0]
            if self._is_unwell(partition, last) and not self._say_over(partition, last):
                return
            self._unhealed.popleft()

    def _is_unwell(self, partition: int, last: StreamStatus) -> bool:
        """It is still the last word, on a stream that nobody wants."""
        place = partition, last.stream_id
        is_last = self._statuses.last(*place) is last
        is_wanted = place in self._specs or place in self._moved
        is_at_rest = last.status is Status.STOPPED and last.down is None
        return is_last and not is_wanted and not is_at_rest

    def _say_over(self, partition: int, last: StreamStatus) -> bool:
        down = ended(last.down, now()) if last.down else None
        told = partial(self._tell_end, last.stream_id, down)
        if last.status is Status.STOPPED:
            return told()
        stopped = replace(
            last,
            **{"status": Status.STOPPED, "since": now(), "owner": self._instance.instance},
            **{"endpoint": None, "reason": None, "message": None, "hint": None, "down": down},
        )
        return self._announcer.status(stopped, partition, told)

    def _tell_end(self, stream_id: str, down: Down | None) -> bool:
        return down is None or self._announcer.event(down_event(stream_id, down))

    # What is desired

    def _note(self, found: Desired | Unreadable | ReadToEnd) -> None:
        if isinstance(found, ReadToEnd):
            self._read.add(found.partition)
        elif isinstance(found, Unreadable):
            log.warning("spec.unreadable", offset=found.origin.offset, reason=found.error.reason)
            self._unburied.append(found)
            self._bury()
        else:
            self._note_desired(found)

    def _bury(self) -> None:
        """Dead letters that the announcer has room for; of the others, the newest wait."""
        while self._unburied:
            dead = self._unburied[0]
            buried = partial(self._desires.buried, dead.origin)
            if not self._announcer.bury(dead.origin, dead.error.reason, str(dead.error), buried):
                break
            self._unburied.popleft()
        if len(self._unburied) > MOST_UNBURIED:
            self._unburied.popleft()
            _lose_letters(1, "queue full")

    def _note_desired(self, found: Desired) -> None:
        place = (found.partition, found.stream_id)
        before = self._specs.get(place)
        self._moved.discard(place)
        if found.spec is None:
            self._specs.pop(place, None)
            if found.has_moved:
                self._moved.add(place)
        elif before is None or found.spec.generation >= before.generation:
            self._specs[place] = found.spec
        if found.partition in self._ready:
            self._want(place, self._specs.get(place), found.has_moved)

    def _want(self, place: Place, spec: StreamSpec | None, has_moved: bool = False) -> None:
        stream = self._streams.get(place)
        if spec is None:
            if stream is not None:
                stream.delete(has_moved=has_moved)
        elif stream is not None:
            stream.want(spec)
        else:
            known = self._statuses.last(*place)
            self._streams[place] = Stream(spec, place[0], known, self._world)

    # Who owns it

    def _hear_all(self) -> None:
        """Statuses of very many streams that are not ours may be among them."""
        ours: dict[str, list[Stream]] = defaultdict(list)
        for (_, stream_id), stream in self._streams.items():
            ours[stream_id].append(stream)
        for partition, status in self._statuses.poll():
            if status.stream_id in ours:
                self._hear(partition, status, ours[status.stream_id])

    def _hear(self, partition: int, status: StreamStatus, ours: list[Stream]) -> None:
        """Of what is in our name, only an epoch that we never minted is another's word."""
        minted = max(stream.epoch for stream in ours)
        if status.owner == self._instance.instance and status.epoch <= minted:
            return
        for stream in ours:
            if stream.slot == partition or stream.is_fenced_by(status):
                stream.contest(status)

    def _claim(self) -> None:
        """Epochs for the streams that need one, in partitions that are proven to be ours.

        The answer came during an earlier poll of the group, or at its end: the poll of this step
        has served what was due since, a loss of the partition included.
        """
        proof = self._membership.take_proof()
        proven = proof.partitions & self._desires.assigned if proof else frozenset()
        needing = [(place, stream) for place, stream in self._streams.items() if stream.needs_claim]
        for (partition, stream_id), stream in needing:
            if proof is not None and partition in proven:
                highest = max(stream.epoch, self._statuses.highest_epoch(stream_id))
                stream.claim(next_epoch(highest, proof.asked_at_ms))
        if self._membership.may_ask() and any(stream.needs_claim for _, stream in needing):
            self._desires.ask_for_proof(self._membership.ask(self._desires.assigned))

    def _watch_clock(self) -> None:
        """Times go on inside an epoch; what comes by the new time is in another."""
        step_s = self._clock.step_s()
        if step_s:
            log.warning("clock.stepped", by_s=round(step_s, 3))
            for stream in self._streams.values():
                stream.restart()

    # What is told

    def _count(self) -> None:
        running = sum(stream.camera is not None for stream in list(self._streams.values()))
        metrics.CAMERAS.set(running)
        metrics.STREAMS.set(len(self._streams))
        metrics.WAITING.set(self._world.room.waiting)
        age_s = time.monotonic() - self._said_instance_at_s
        if age_s >= INSTANCE_EVERY_S or self._slots != self._said_slots:
            self._introduce()

    @property
    def _slots(self) -> tuple[int, ...]:
        return tuple(sorted(self._desires.assigned))

    def _introduce(self) -> None:
        self._said_instance_at_s, self._said_slots = time.monotonic(), self._slots
        load = self._world.room.taken
        instance = replace(self._instance, load=load, slots=self._slots, at=now())
        self._announcer.instance(instance, self._note_broker)

    def _note_broker(self) -> None:
        if self._broker_since_s is None:
            self._broker_since_s = time.monotonic()

    def _is_joined(self) -> bool:
        """The group tells a member nothing for which it has no partition; that is so after a
        while of silence from a broker that is there."""
        since_s = self._broker_since_s
        is_spare = since_s is not None and time.monotonic() - since_s > SPARE_AFTER_S
        return self._desires.is_joined or is_spare

    def readiness(self) -> tuple[bool, dict[str, Any]]:
        """Called from the server's threads."""
        streams = list(self._streams.items())
        cameras = [
            {"streamId": place[1], "pid": camera.child.pid}
            for place, stream in streams
            if (camera := stream.camera) is not None
        ]
        assigned = self._desires.assigned
        ready = self._is_joined() and assigned <= self._ready
        is_down = any(stream.is_held_up for _, stream in streams)
        return ready, {
            "instance": self._instance.instance,
            "reason": Reason.BROKER_DOWN if is_down else None,
            "partitions": sorted(assigned),
            "streams": len(streams),
            "cameras": cameras,
        }

    def stream(self, stream_id: str) -> Stream | None:
        """Called from the server's threads."""
        found = [stream for place, stream in list(self._streams.items()) if place[1] == stream_id]
        running = [stream for stream in found if stream.is_running]
        return next(iter(running or found), None)

    # The end

    def _leave(self) -> None:
        self._desires.close()
        if self._unburied:
            _lose_letters(len(self._unburied), "stopped")
        self._statuses.close()
        self._frames.close()
        self._announcer.close()
        log.info("ingestor.stopped")

    def _flush(self) -> None:
        undelivered = self._announcer.flush(FLUSH_S)
        if undelivered:
            log.warning("facts.undelivered", count=undelivered)


def _turn(placed: tuple[Place, Stream]) -> tuple[bool, float]:
    return placed[1].turn


def _lose_letters(count: int, cause: str) -> None:
    metrics.LOST.labels(DEAD_LETTERS.name).inc(count)
    log.error("dead_letters.lost", count=count, cause=cause)


def _end_cameras(streams: Iterable[Stream]) -> None:
    cameras = [stream.camera for stream in streams if stream.camera is not None]
    for camera in cameras:
        camera.stop()
    children.end(camera.child for camera in cameras)


def _await(holds: Callable[[], bool], seconds: float) -> None:
    until_s = time.monotonic() + seconds
    while not holds() and time.monotonic() < until_s:
        time.sleep(0.01)


class Views:
    """Pictures for the server: of running streams, or very fresh ones."""

    def __init__(self, newest: Newest, stream: Callable[[str], Stream | None]) -> None:
        self._newest = newest
        self._stream = stream

    def newest(self, stream_id: str) -> Still | str:
        stream = self._stream(stream_id)
        if stream is None:
            return "NOT_OWNED"
        still = self._newest.of(stream_id)
        if still is None:
            return stream.reason
        age_s = time.time() - still.captured_at_us / 1_000_000
        return still if stream.is_running or age_s < FRESH_S else stream.reason

    async def after(self, stream_id: str, seen: object, timeout_s: float) -> Still | None:
        return await self._newest.after(stream_id, seen, timeout_s)
