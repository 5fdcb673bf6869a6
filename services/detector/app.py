"""The pipeline, and who answers for a frame when a step fails.

A frame's way: `take`, `_judge`, the mailbox, `_look_at`, `_settle` (in seq order), `_publish`, and
its offset may be committed. Each frame with detect=1 is settled exactly once per delivery.
"""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Mapping, Set
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import structlog

from schemas.messages import (
    LAST_TIME,
    Frame,
    Outcome,
    Snapshot,
    image_path,
    snapshot_filename,
)
from schemas.topics import (
    DEAD_LETTERS,
    DETECTIONS,
    FRAMES,
    SNAPSHOTS,
    DecodeError,
    Headers,
    Origin,
    facts_of,
)
from services.detector import metrics
from services.detector.admit import Admission
from services.detector.consume import Commit, Delivery
from services.detector.fence import Epochs, is_plausible_now
from services.detector.lane import Job, Lane, Settled, unaccounted
from services.detector.letter import Letter, letter_of, size_of
from services.detector.look import Looker, unusable
from services.detector.prefix import Ticket
from services.detector.publish import SURELY_TAKEN, Publisher, TooLarge
from services.detector.ration import Ration
from services.detector.record import Finding
from services.process.crash import crash_point
from services.process.trace import child_of

log = structlog.get_logger()

IN_FLIGHT_PER_STREAM = 5  # the replaced system's limit
COMMIT_INTERVAL_S = 1.0
COMMIT_TIMEOUT_S = 2.0  # a broker that is away must hold up neither a rebalance nor the end
BEAT_S = 1.0
TICK_S = 0.002  # timers may come up to a millisecond early
ASLEEP = 0.8  # of a session: from then on our partitions may be somebody else's
FINISH_CALLS_S = 2.0  # at the end, of the 10 s that a process has
FINISH_RECORDS_S = 1.5
LARGEST_SIDE = 65_535  # JPEG has two bytes for it
LONGEST_AGE_MS = 10 * 365 * 24 * 3_600_000
LONGEST_NAME = 200  # characters

Work = Callable[[], Awaitable[None]]
"""Not yet begun: a task may be cancelled before it has come to do so."""


@dataclass(frozen=True)
class Limits:
    calls: int  # of the AI service, at once
    waiting_bytes: int  # of frames, and again of what is to become dead letters
    unaccounted_frames: int
    snapshots_per_minute: int
    session_timeout_s: float


@dataclass(frozen=True)
class Outside:
    """What the pipeline stands between, opened by the main."""

    looker: Looker
    records: Publisher
    pictures: Publisher
    epochs: Epochs
    catch_up: Callable[[], "Future[None]"]  # with the epochs known by now
    prefix: str  # of topic names
    source: str  # who speaks, as sightlog/detector/INSTANCE


class Detector:
    """Reads frames (`consume.Reader`); all of it runs in one event loop."""

    def __init__(self, outside: Outside, limits: Limits) -> None:
        self._outside = outside
        self._limits = limits
        self._lanes: dict[int, Lane] = {}
        self._admission: Admission[Job] = Admission(IN_FLIGHT_PER_STREAM, limits.waiting_bytes)
        self._ration = Ration(limits.snapshots_per_minute)
        self._calling: set[Job] = set()
        self._leaving: asyncio.Queue[Settled] = asyncio.Queue()  # bounded by unaccounted_frames
        self._moved = asyncio.Event()
        self._fence: asyncio.Future[None] | None = None
        self._commit: Commit | None = None
        self._chores: list[asyncio.Task[None]] = []
        self._writer = ThreadPoolExecutor(1, "letters")
        self._poison_bytes = 0
        self._buried = 0  # since it was last said
        self._ending = False
        self._beat = time.monotonic()
        self._joined = False

    @property
    def positions(self) -> Mapping[int, int]:
        """By partition held, up to where it is accounted for; also read by other threads."""
        return {p: lane.prefix.committable or 0 for p, lane in list(self._lanes.items())}

    @property
    def is_ready(self) -> bool:
        """In the group, and its epochs are known: frames are taken."""
        return self._joined and self._fence is not None and self._fence.done()

    # What the worker calls

    async def ready(self) -> None:
        if self._fence is not None:
            await self._fence
        while self._is_full():
            self._moved.clear()
            await self._moved.wait()

    def _is_full(self) -> bool:
        frames = unaccounted(self._lanes)
        too_many = frames >= self._limits.unaccounted_frames
        return too_many or self._poison_bytes >= self._limits.waiting_bytes

    async def assigned(self, partitions: Set[int], commit: Commit) -> None:
        if not self._chores:
            self._beat = time.monotonic()
            chores = (self._publish, self._commit_regularly, self._beat_regularly)
            self._chores = [asyncio.create_task(self._guard(chore)) for chore in chores]
        self._drop(self._lanes.keys())
        self._lanes = {partition: Lane(partition) for partition in partitions}
        self._commit = commit
        self._fence = asyncio.wrap_future(self._outside.catch_up())
        self._joined = True
        metrics.PARTITIONS.set(len(partitions))

    async def revoked(self, partitions: Set[int]) -> None:
        self._joined = False
        await self._commit_prefixes()
        self._drop(partitions)

    def take(self, delivery: Delivery) -> None:
        lane = self._lanes.get(delivery.partition)
        if lane is None or self._ending:
            return  # it comes again, to us or to another
        ticket = lane.prefix.begin(delivery.offset)
        try:
            frame = frame_of(delivery)
        except DecodeError as error:
            self._refuse(delivery, error, lane, ticket)
            return
        if frame.detect:
            self._judge(_job(delivery, frame, lane, ticket))
        else:
            self._account(lane, ticket, "undetected")

    async def drain(self) -> None:
        """Finishes what is in flight, within bounds; what only waits will come again."""
        self._ending = True
        self._admission.withdraw(lambda _: True)
        tasks = {task for lane in self._lanes.values() for task in lane.tasks}
        if tasks:
            await asyncio.wait(tasks, timeout=FINISH_CALLS_S)
        try:
            await asyncio.wait_for(self._leaving.join(), FINISH_RECORDS_S)
        except TimeoutError:
            log.warning("records.abandoned")
        await self._commit_prefixes()
        self._drop(self._lanes.keys())
        for chore in self._chores:
            chore.cancel()
        self._writer.shutdown(wait=False, cancel_futures=True)
        await self._outside.looker.close()

    def fail(self, error: BaseException) -> None:
        """Does not return: what is not accounted for comes again, to the next process."""
        log.critical("detector.failed", exc_info=error)
        os._exit(1)

    # A frame's way

    def _judge(self, job: Job) -> None:
        """Settles at once what need not be looked at; the rest waits for its turn."""
        self._outside.epochs.learn(job.stream_id, job.frame.epoch)
        finding = self._too_late(job) or unusable(job.frame)
        if finding is not None:
            self._settle(job, finding)
            return
        for lost in self._admission.offer(job):
            self._settle(lost, Finding(Outcome.SHED, "NEWER_FRAME"))
        self._admit()

    def _too_late(self, job: Job) -> Finding | None:
        if self._outside.epochs.fences(job.stream_id, job.frame.epoch):
            return Finding(Outcome.FENCED, "LOWER_EPOCH")
        if job.age_now_ms > job.frame.max_age_ms:
            return Finding(Outcome.EXPIRED, "TOO_OLD")
        return None

    def _admit(self) -> None:
        """Starts as many calls as may run now, streams in turn."""
        while len(self._calling) < self._limits.calls and not self._outside.looker.wait_s:
            job = self._admission.take()
            if job is None:
                return
            finding = self._too_late(job)
            if finding is None:
                self._calling.add(job)
                task = self._start(job.lane, partial(self._look_at, job))
                task.add_done_callback(partial(self._looked_at, job))
            else:
                self._admission.leave(job.stream_id)
                self._settle(job, finding)

    async def _look_at(self, job: Job) -> None:
        finding = await self._looked(job)
        if finding.detections and self._ration.allows(job.stream_id, time.monotonic()):
            finding = await self._keep(job, finding)
        self._settle(job, finding)

    def _looked_at(self, job: Job, _: "asyncio.Task[None]") -> None:
        """Not at the end of the coroutine: one that is cancelled before its first step has none."""
        self._calling.discard(job)
        self._admission.leave(job.stream_id)
        self._admit_next()

    def _admit_next(self) -> None:
        """Called by the event loop, which would only log what goes wrong."""
        try:
            self._admit()
        except Exception as error:  # noqa: BLE001 -- see _guard
            self.fail(error)

    async def _looked(self, job: Job) -> Finding:
        job.began = time.monotonic()
        metrics.QUEUE.observe(job.began - job.received)
        try:
            return await self._outside.looker.look(job.frame, job.traceparent)
        finally:
            job.answered = time.monotonic()
            self._calling.discard(job)
            self._admit()
            if wait_s := self._outside.looker.wait_s:
                asyncio.get_running_loop().call_later(wait_s + TICK_S, self._admit_next)

    async def _keep(self, job: Job, finding: Finding) -> Finding:
        """The finding with the path of its snapshot, which is safe on the broker by then."""
        snapshot = _snapshot(job.frame)
        try:
            safe = await self._outside.pictures.send(
                SNAPSHOTS.named(self._outside.prefix),
                SNAPSHOTS.key(snapshot),
                SNAPSHOTS.encode(snapshot),
                SNAPSHOTS.headers(snapshot, self._outside.source, job.traceparent),
            )
            await safe
        except TooLarge:
            return finding
        metrics.SNAPSHOTS.inc()
        return finding.with_image(snapshot.path)

    def _settle(self, job: Job, finding: Finding) -> None:
        for settled in job.settle(finding):
            self._leaving.put_nowait(settled)

    async def _publish(self) -> None:
        """Sends the records, for ever; the queue's `join` waits for their acknowledgements too."""
        while True:
            settled = await self._leaving.get()
            self._stay_awake()
            if not settled.job.lane.held:
                self._leaving.task_done()
                continue
            crash_point("detector.before_record")
            try:
                safe = await self._send(settled)
            except TooLarge:
                settled = settled.job.settled_as(Finding(Outcome.FAILED, "RECORD_TOO_LARGE"))
                safe = await self._send(settled)
            safe.add_done_callback(partial(self._published, settled))

    async def _send(self, settled: Settled) -> "asyncio.Future[None]":
        """Raises TooLarge also for the broker: a large record is followed by the next only once it
        is taken, since what is sent in its place must stand in its place."""
        value = DETECTIONS.encode(settled.record)
        safe = await self._outside.records.send(
            DETECTIONS.named(self._outside.prefix),
            DETECTIONS.key(settled.record),
            value,
            DETECTIONS.headers(settled.record, self._outside.source, settled.job.traceparent),
        )
        if len(value) > SURELY_TAKEN:
            await safe
        return safe

    def _published(self, settled: Settled, safe: "asyncio.Future[None]") -> None:
        error = safe.exception()
        if error is not None:
            self.fail(error)
        crash_point("detector.before_ack")
        record = settled.record
        self._account(settled.job.lane, settled.job.ticket, record.outcome)
        metrics.DETECTIONS.inc(len(record.detections))
        if record.outcome is Outcome.OK:
            metrics.AGE.observe((record.timing.since_capture_ms or 0) / 1000)
        self._leaving.task_done()

    def _refuse(self, delivery: Delivery, error: DecodeError, lane: Lane, ticket: Ticket) -> None:
        """No task knows the message itself, nor the error, which knows it too: the broker may be
        long in taking the letter."""
        origin = _origin(delivery, FRAMES.named(self._outside.prefix))
        made = (origin, error.reason, str(error), _child(delivery.headers))
        making = asyncio.get_running_loop().run_in_executor(self._writer, letter_of, *made)
        size = size_of(origin)
        self._poison_bytes += size
        making.add_done_callback(lambda _: self._let_go(size))
        self._start(lane, partial(self._bury, making, lane, ticket))

    def _let_go(self, size: int) -> None:
        self._poison_bytes -= size
        self._moved.set()

    async def _bury(self, making: "asyncio.Future[Letter]", lane: Lane, ticket: Ticket) -> None:
        """Anything that keeps the letter from being written ends the process, and the message comes
        again; but for a letter that is too large with nothing in it, which would be so for ever."""
        letter = await making
        size = letter.size
        self._poison_bytes += size
        try:
            await self._write(letter)
        except TooLarge:
            lost = letter.content
            at = {"partition": lost.partition, "offset": lost.offset}
            log.error("dead_letter.lost", reason=lost.reason, **at)
        finally:
            self._let_go(size)
        self._buried += 1
        self._account(lane, ticket, "poison")

    async def _write(self, letter: Letter) -> None:
        try:
            await self._post(letter)
        except TooLarge:
            await self._post(letter.bare())

    async def _post(self, letter: Letter) -> None:
        safe = await self._outside.records.send(
            DEAD_LETTERS.named(self._outside.prefix),
            letter.key,
            DEAD_LETTERS.encode(letter.content),
            letter.headers(self._outside.source),
        )
        await safe

    def _account(self, lane: Lane, ticket: Ticket, outcome: str) -> None:
        lane.prefix.account(ticket)
        metrics.FRAMES.labels(outcome).inc()
        self._moved.set()

    # Beside it

    async def _guard(self, work: Work) -> None:
        try:
            await work()
        except Exception as error:  # noqa: BLE001 -- a bug must not leave a frame unaccounted for
            self.fail(error)

    def _start(self, lane: Lane, work: Work) -> "asyncio.Task[None]":
        task = asyncio.create_task(self._guard(work))
        lane.tasks.add(task)
        task.add_done_callback(lane.tasks.discard)
        return task

    def _drop(self, partitions: Set[int]) -> None:
        """Forgets all that is under way of these: whoever holds them next is sent it again."""
        for lane in [self._lanes.pop(p) for p in list(partitions) if p in self._lanes]:
            lane.drop()
        self._admission.withdraw(lambda job: not job.lane.held)
        self._moved.set()
        metrics.PARTITIONS.set(len(self._lanes))

    async def _commit_regularly(self) -> None:
        while True:
            await asyncio.sleep(COMMIT_INTERVAL_S)
            await self._commit_prefixes()

    async def _commit_prefixes(self) -> None:
        """What is accounted for, of what is held; nothing where nothing has changed."""
        ahead = [
            (lane, lane.prefix.committable)
            for lane in self._lanes.values()
            if lane.prefix.committable is not None and lane.prefix.committable != lane.committed
        ]
        if not ahead or self._commit is None:
            return
        commit = self._commit({lane.partition: offset for lane, offset in ahead})
        try:
            done = await asyncio.wait_for(commit, COMMIT_TIMEOUT_S)
        except TimeoutError:
            return
        for lane, offset in ahead if done else ():
            lane.committed = offset

    async def _beat_regularly(self) -> None:
        while True:
            self._stay_awake()
            self._beat = time.monotonic()
            self._say_buried()
            metrics.WAITING.set(self._admission.waiting)
            metrics.IN_FLIGHT.set(self._admission.in_flight)
            metrics.UNACCOUNTED.set(unaccounted(self._lanes))
            await asyncio.sleep(BEAT_S)

    def _say_buried(self) -> None:
        count, self._buried = self._buried, 0
        if count:
            log.warning("frames.buried", count=count)

    def _stay_awake(self) -> None:
        """A process that was stopped for about a session must not finish what it had begun: its
        partitions are held by another, which may have answered frames of a higher epoch."""
        if time.monotonic() - self._beat > ASLEEP * self._limits.session_timeout_s:
            self.fail(RuntimeError("slept through the session"))


def frame_of(delivery: Delivery) -> Frame:
    """Raises DecodeError for what is no frame, or not under its stream's key."""
    frame = FRAMES.decode(delivery.value, delivery.headers)
    if delivery.key != FRAMES.key(frame):
        raise DecodeError("WRONG_KEY", f"{FRAMES.name}: key and ce_subject differ")
    if why := _out_of_bounds(frame, delivery.timestamp_ms):
        raise DecodeError("WRONG_SHAPE", f"{FRAMES.name}: {why}")
    if not is_plausible_now(frame.epoch):
        raise DecodeError("EPOCH_IMPLAUSIBLE", f"{FRAMES.name}: epoch {frame.epoch} lies ahead")
    return frame


def _out_of_bounds(frame: Frame, appended_ms: int) -> str | None:
    """What would fit neither arithmetic, nor a URL, nor a record."""
    if not 0 <= appended_ms < LAST_TIME.timestamp() * 1000:
        return "no time of its append"
    if not (0 < frame.width <= LARGEST_SIDE and 0 < frame.height <= LARGEST_SIDE):
        return "no size that a JPEG has"
    if max(frame.age_ms, frame.max_age_ms) > LONGEST_AGE_MS:
        return "an age of years"
    texts = (frame.stream_id, frame.model or "", frame.clock.source)
    return "a name too long" if max(map(len, texts)) > LONGEST_NAME else None


def _job(delivery: Delivery, frame: Frame, lane: Lane, ticket: Ticket) -> Job:
    since_append_ms = max(0.0, time.time() * 1000 - delivery.timestamp_ms)
    return Job(
        frame=frame,
        published_ms=delivery.timestamp_ms,
        lane=lane,
        ticket=ticket,
        place=lane.order.enter(frame.stream_id),
        traceparent=_child(delivery.headers),
        age_ms=frame.age_ms + since_append_ms,
    )


def _child(headers: Headers) -> str:
    return child_of(facts_of(headers).get("traceparent"))


def _snapshot(frame: Frame) -> Snapshot:
    filename = snapshot_filename(frame.captured_at, frame.epoch, frame.seq)
    return Snapshot(
        stream_id=frame.stream_id,
        frame_id=frame.id,
        captured_at=frame.captured_at,
        path=image_path(frame.stream_id, filename),
        jpeg=frame.jpeg,
    )


def _origin(delivery: Delivery, topic: str) -> Origin:
    return Origin(
        topic=topic,
        partition=delivery.partition,
        offset=delivery.offset,
        timestamp_ms=delivery.timestamp_ms,
        key=delivery.key,
        value=delivery.value,
        headers=delivery.headers,
    )
