"""One stream in the hands of its owner: what is wanted of it, its camera's process, its status.

Level-triggered: each `tick` compares what should be with what is and takes the next step, so that
no order of events can leave a stream between two states. Everything here runs in the control loop,
but what a camera's reader hands over.
"""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from schemas.messages import (
    Event,
    Reason,
    SourceFacts,
    Status,
    StreamSpec,
    StreamStatus,
    down_event,
    now,
)
from services.ingestor import link, metrics, statuses
from services.ingestor.cameras import Beginnings, Camera
from services.ingestor.children import Child
from services.ingestor.down import RETELL_S, Condition, Instant, Outage
from services.ingestor.heartbeat import Beat, Heartbeats, Seen
from services.ingestor.newest import Newest, Still
from services.ingestor.publish import Outbox, Send, Waiting
from services.ingestor.room import Room
from services.ingestor.unseal import SealBroken
from services.process.crash import crash_point
from services.process.redact import redact

log = structlog.get_logger()

BROKER_PATIENCE_S = 3.0
STABLE_S = 10.0  # of running, after which earlier failures are forgotten

Acknowledged = Callable[[], None]
Lost = Callable[[], None]


@dataclass(frozen=True)
class Surroundings:
    """What a stream needs of its ingestor."""

    instance: str
    endpoint: str
    newest: Newest
    room: Room[tuple[int, str]]
    start: Callable[[], Child]
    order: Callable[[StreamSpec], link.Order]  # raises SealBroken
    send: Send
    say: Callable[[StreamStatus, int, Acknowledged, Lost], bool]
    beat: Beat
    tell: Callable[[Event, Acknowledged, Lost], bool]
    buffer_bytes: int
    heartbeat_s: float
    retry_base_s: float
    retry_cap_s: float
    beginnings: Beginnings


def _instant() -> Instant:
    return Instant(now(), time.monotonic())


class Stream:
    """A stream of a partition that is ours."""

    def __init__(
        self, spec: StreamSpec, slot: int, known: StreamStatus | None, world: Surroundings
    ) -> None:
        """`known` is the last status on the topic, by whomever."""
        self.spec = spec
        self.slot = slot
        self.camera: Camera | None = None
        self.epoch = known.epoch if known else 0
        self._world = world
        self._log = log.bind(stream=spec.stream_id)
        self._state = statuses.stopped(now())
        self._said: StreamStatus | None = None
        self._said_at_s = 0.0
        self._source: SourceFacts | None = None
        self._has_shown = known is not None and known.source is not None
        self._is_deleted = self._has_moved = self._is_over = False
        self._is_claimed = self._is_contested = self._has_lost = False
        self._ends_with_camera = False
        self._ordered: tuple[StreamSpec, link.Order] | None = None
        self._failures = 0
        self.retry_at_s = 0.0
        self._running_since_s: float | None = None
        self._ticked_at_s = time.monotonic()
        self._outage = Outage(known, _instant(), spec.begun)
        self._hushed_until_s = 0.0
        self.outbox = Outbox(spec, world.send, world.buffer_bytes, self._note_loss)
        self._heartbeats = Heartbeats(spec.stream_id, self.outbox, world.beat, world.heartbeat_s)
        if known is not None:
            self._take_over(known)

    def _take_over(self, known: StreamStatus) -> None:
        """What is said already need not be said again, a clip that was over stays over, and a wrong
        password is not tried sooner because its owner died: cameras lock accounts."""
        if known.observed_generation != self.spec.generation:
            return
        if known.reason is Reason.AUTH_FAILED and self.spec.running:
            self._wait_on(known)
        if known.status is not Status.STOPPED:
            return
        self._is_over = self.spec.running and known.reason is Reason.ENDED
        if self._is_over:
            self._state = statuses.ended(known.since)
        if self._is_over or not self.spec.running:
            self._said = self._status()

    def _wait_on(self, known: StreamStatus) -> None:
        """At most for as long as it would have waited itself: clocks differ."""
        due = known.next_retry_at or now()
        wait_s = min(max((due - now()).total_seconds(), 0.0), statuses.AUTH_CAP_S)
        self._failures, self.retry_at_s = known.attempt, time.monotonic() + wait_s
        self._state = statuses.as_said(known)

    @property
    def turn(self) -> tuple[bool, float]:
        """To start, lowest first: who ran until a moment ago, then the new ones, then who has
        waited longest. Who fails again waits like the others, so that each gets its turn."""
        ran = self._has_shown and self._failures <= 1
        return not ran, self.retry_at_s

    # What others want of it

    def want(self, spec: StreamSpec) -> None:
        """A newer desired state; a lower generation is ignored, unless the stream was deleted."""
        if spec.generation < self.spec.generation and not self._is_deleted:
            return
        if spec.generation != self.spec.generation:
            self._is_over = False
            self._failures, self.retry_at_s = 0, 0.0
        self.spec = self.outbox.spec = spec
        self._is_deleted = self._has_moved = False

    def delete(self, *, has_moved: bool = False) -> None:
        """Nothing of it is wanted here any more."""
        self._is_deleted, self._has_moved = True, has_moved

    @property
    def is_gone(self) -> bool:
        """Deleted, stopped, and said to be so."""
        is_stopped = self.camera is None and self._is_told_stopped
        is_settled = self._outage.is_settled or self._leaves_its_event
        return self._is_deleted and is_stopped and is_settled

    @property
    def _leaves_its_event(self) -> bool:
        """As it is, in the status: it goes on in another slot."""
        is_moving = self.spec.moving and (self._has_moved or not self._is_deleted)
        return is_moving and self._outage.is_open

    @property
    def _is_told_stopped(self) -> bool:
        return self._said is not None and self._said.status is Status.STOPPED

    @property
    def _should_run(self) -> bool:
        return self.spec.running and not self._is_deleted and not self._is_over

    @property
    def needs_claim(self) -> bool:
        """Whether an epoch must be minted, once membership is proven."""
        is_wanted = self._should_run or self._is_contested
        return is_wanted and not self._is_claimed and not self._is_hushed

    def claim(self, epoch: int) -> None:
        """Frames follow when the broker has acknowledged the status that says so."""
        self.epoch, self._is_claimed, self._is_contested = epoch, True, False
        if self._should_run:
            if self._asks_for_room() and not self._is_to_wait:
                self._enter(statuses.starting(now()))
        elif self._state.status is not Status.STOPPED:
            self._come_to_rest()

        def acknowledged() -> None:
            if self._is_claimed and self.epoch == epoch:
                crash_point("ingestor.after_claim")
                self._log.info("epoch.claimed", epoch=epoch)
                self.outbox.open(epoch)

        if self._publish(self._status(), acknowledged):
            metrics.CLAIMS.inc()
        else:
            self._is_claimed = False

    @property
    def _is_to_wait(self) -> bool:
        """It has failed, and its next attempt is not due."""
        has_failed = self._state.status is Status.ERROR and not self._lacks_room
        return self.camera is None and has_failed and time.monotonic() < self.retry_at_s

    def _come_to_rest(self) -> None:
        if self.camera is None:
            self._enter(statuses.stopped(now()))
        else:
            self._enter(statuses.stopping(now()))
            self.camera.stop()

    def is_fenced_by(self, foreign: StreamStatus) -> bool:
        """Said in another partition than the stream's: below our epoch it is history. Where the
        stream need not run, it may have moved there."""
        return foreign.epoch >= self.epoch and self._should_run

    def contest(self, foreign: StreamStatus) -> None:
        """Somebody else speaks for this stream: we say it again; against an epoch that is not
        below ours, we prove first that we may, and mint a higher one."""
        if foreign.epoch < self.epoch:
            self._said = None
            return
        self._log.warning("stream.contested", foreign=foreign.owner, epoch=foreign.epoch)
        self._is_contested = True
        self._give_up_epoch()

    def restart(self) -> None:
        """In a new epoch, once the last frame by the old clock has been numbered in this one."""
        if self.camera is None:
            self._give_up_epoch()
            return
        self._ends_with_camera = True
        self.camera.stop()

    def _note_loss(self) -> None:
        self._has_lost = True

    def _give_up_epoch(self) -> None:
        if self._is_claimed:
            self._is_claimed = False
            self.outbox.end()

    # One step

    def tick(self) -> None:
        now_s = time.monotonic()
        tick_s, self._ticked_at_s = now_s - self._ticked_at_s, now_s
        if self._has_lost:
            self._has_lost = self._is_claimed = False
            metrics.LOSSES.inc()
            self._log.warning("epoch.lost", epoch=self.epoch)
        if self.camera is None:
            self._rest(now_s)
        elif self.camera.is_over:
            self._part_from(self.camera)
        else:
            self._watch(self.camera, tick_s)
        if self.camera is None and not self._should_run:
            self._world.room.leave(self._place)
        self._note_condition()
        self._tell()
        self._tell_down()
        self._heartbeats.tick(self._seen())

    def _rest(self, now_s: float) -> None:
        """No camera runs."""
        if not self._should_run:
            if not self._is_over and (self._state.status, self._state.reason) != (
                Status.STOPPED,
                None,
            ):
                self._enter(statuses.stopped(now()))
            return
        if not self._asks_for_room():
            return
        if self._state.status in (Status.STOPPED, Status.STOPPING) or self._lacks_room:
            self._enter(statuses.starting(now()))
        is_due = self.outbox.epoch is not None and now_s >= self.retry_at_s
        if is_due and self._world.beginnings.have_room():
            self._start()

    @property
    def _place(self) -> tuple[int, str]:
        return self.slot, self.spec.stream_id

    @property
    def _lacks_room(self) -> bool:
        return self._state.reason is Reason.CAPACITY

    def _asks_for_room(self) -> bool:
        """What has it keeps it, reconnects included, for as long as it should run."""
        has_room = self._world.room.take(self._place)
        if not has_room and not self._lacks_room:
            self._enter(statuses.full(now()))
        return has_room

    def _start(self) -> None:
        try:
            order = self._order()
        except SealBroken as error:
            self._fail(Reason.AUTH_FAILED, str(error))
            return
        self._running_since_s = None
        self._heartbeats.note_start()
        self.camera = Camera(self._world.start(), order, self._take)
        self._world.beginnings.note(self.camera)
        self._log.info("camera.started", pid=self.camera.child.pid, epoch=self.epoch)

    def _take(self, shot: link.Shot | link.Counted, jpeg: bytes) -> None:
        """In the camera's reader."""
        if isinstance(shot, link.Counted):
            self.outbox.count(shot.captured, shot.dropped)
            return
        self._heartbeats.note_encoding(shot.encode_ms)
        frame_id = self.outbox.put(
            Waiting(
                jpeg=jpeg,
                captured_at_us=shot.captured_at_us,
                at_s=shot.at_s,
                width=shot.width,
                height=shot.height,
                clock=shot.clock,
                captured=shot.captured,
                dropped=shot.dropped,
            )
        )
        self._world.newest.put(self.spec.stream_id, Still(jpeg, shot.captured_at_us, frame_id))

    def _watch(self, camera: Camera, tick_s: float) -> None:
        if camera.child.is_ending:
            camera.child.press()
            if not self._should_run and self._state.status is not Status.STOPPING:
                self._enter(statuses.stopping(now()))
            return
        order = self._order_now(camera)
        if order is None:
            self._enter(statuses.starting(now()) if self._should_run else statuses.stopping(now()))
            camera.stop()
            return
        camera.tune(order)
        if camera.is_hung(tick_s):
            camera.last_word = link.Failed(Reason.STALLED if camera.shots else Reason.TIMEOUT)
            camera.child.kill()
            self._log.warning("camera.killed", pid=camera.child.pid)
        elif camera.shots and self.outbox.numbered:
            self._run(camera)

    def _order_now(self, camera: Camera) -> link.Order | None:
        """What the running camera should do; None where it must stop, be it to start anew."""
        if not self._should_run:
            return None
        try:
            order = self._order()
        except SealBroken:
            return None
        return None if camera.order.needs_new_connection(order) else order

    def _order(self) -> link.Order:
        """Made once per generation: opening a seal takes its time. Raises SealBroken."""
        if self._ordered is None or self._ordered[0] is not self.spec:
            self._ordered = self.spec, self._world.order(self.spec)
        return self._ordered[1]

    def _run(self, camera: Camera) -> None:
        """Frames are coming."""
        is_down = self.outbox.stuck_s > BROKER_PATIENCE_S
        is_said_down = self._state.reason is Reason.BROKER_DOWN
        if self._state.status is not Status.RUNNING or is_down is not is_said_down:
            self._source = camera.opened.source if camera.opened else self._source
            self._enter(statuses.broker_down(now()) if is_down else statuses.running(now()))
        self._has_shown = True
        if self._running_since_s is None:
            self._running_since_s = time.monotonic()
        elif time.monotonic() - self._running_since_s > STABLE_S:
            self._failures = 0

    def _part_from(self, camera: Camera) -> None:
        """Its process has ended, and this is why."""
        self.camera = None
        self._heartbeats.note_end()
        camera.close()
        self._log.info("camera.ended", pid=camera.child.pid)
        if self._ends_with_camera:
            self._ends_with_camera = False
            self._give_up_epoch()
        if camera.was_stopped or not self._should_run:
            return
        word = camera.last_word or link.Failed(Reason.DECODER_CRASHED, camera.child.ended_by)
        if isinstance(word, link.Ended):
            self._is_over = True
            self._enter(statuses.ended(now()))
        else:
            self._fail(word.reason, word.detail)

    def _fail(self, reason: Reason, detail: str | None) -> None:
        self._failures += 1
        world, chance = self._world, random.random()
        wait_s = statuses.retry_wait_s(
            reason, self._failures, world.retry_base_s, world.retry_cap_s, chance
        )
        self.retry_at_s = time.monotonic() + wait_s
        self._state = statuses.failed(
            self._state,
            reason,
            detail and redact(detail),
            statuses.Attempt(self._failures, now(), wait_s),
        )
        metrics.FAILURES.labels(reason).inc()
        if self._failures == 1 or self._is_due_to_say():
            self._log.warning("camera.failed", reason=reason, attempt=self._failures)

    # What it says

    def _enter(self, state: statuses.State) -> None:
        if state.status is not self._state.status:
            self._log.info("stream.changed", status=state.status, before=self._state.status)
        self._state = state
        if state.status is Status.STOPPED:
            self._source = None
            self._world.newest.forget(self.spec.stream_id)

    @property
    def reason(self) -> str:
        """Why there is nothing to see, in a word."""
        return self._state.reason or self._state.status

    @property
    def is_held_up(self) -> bool:
        """Whether its frames can't be stored, as far as we know."""
        return self._state.reason is Reason.BROKER_DOWN

    @property
    def is_running(self) -> bool:
        return self._state.status is Status.RUNNING

    def _status(self) -> StreamStatus:
        state = self._state
        is_stopped = state.status is Status.STOPPED
        return StreamStatus(
            stream_id=self.spec.stream_id,
            status=state.status,
            reason=state.reason,
            message=state.message,
            hint=state.hint,
            since=state.since,
            attempt=state.attempt,
            next_retry_at=state.next_retry_at,
            owner=self._world.instance,
            endpoint=None if is_stopped else self._world.endpoint,
            epoch=self.epoch,
            observed_generation=self.spec.generation,
            source=self._source,
            down=self._outage.down,
        )

    def _is_due_to_say(self) -> bool:
        since_s = time.monotonic() - self._said_at_s
        return statuses.is_news(self._said, self._status(), since_s)

    def _tell(self) -> None:
        """Not before the claim: whoever runs a stream speaks in its own epoch."""
        may_speak = self._is_claimed or not self._should_run
        if may_speak and not self._is_hushed and self._is_due_to_say():
            self._publish(self._status(), lambda: None)

    def _publish(self, status: StreamStatus, acknowledged: Acknowledged) -> bool:
        def noted() -> None:
            acknowledged()
            self._outage.acknowledge(status.down)
            self._tell_down()

        told = self._world.say(status, self.slot, noted, self._lose_status)
        if told and not self._is_hushed:
            self._said, self._said_at_s = status, time.monotonic()
        return told

    @property
    def _is_hushed(self) -> bool:
        return time.monotonic() < self._hushed_until_s

    def _lose_status(self) -> None:
        """The broker took no such status, as of a topic that is made anew: nobody else knows of
        the epoch, so another is claimed. Not at once: it may refuse that, too."""
        self._hushed_until_s = time.monotonic() + RETELL_S
        self._said = None
        self._give_up_epoch()

    def _note_condition(self) -> None:
        if self._leaves_its_event:
            return
        frames = self.camera.shots if self.camera else 0
        self._outage.note(Condition(self._state.status, self._state.reason, frames), _instant())

    def _tell_down(self) -> None:
        """Where there is no room, it stays due."""
        due = self._outage.due
        if due is not None:
            event = down_event(self.spec.stream_id, due)
            if self._world.tell(event, self._outage.note_told, self._lose_event):
                self._outage.note_sent()

    def _lose_event(self) -> None:
        self._outage.note_lost(_instant())

    def _seen(self) -> Seen:
        process = self.camera.child if self.camera else None
        return Seen(process is not None and self.is_running, self._state.reason, process)

    # Letting go

    def release(self, *, lost: bool) -> None:
        """The partition is given up; its camera has ended by now. If it was lost already, another
        may speak for the stream, and we say nothing."""
        if self.camera is not None:
            self.camera.close()
            self.camera = None
        self.outbox.end()
        self._heartbeats.finish(self._seen())
        if not lost and self._should_run:
            self._enter(statuses.handed_over(now()))
            self._publish(self._status(), lambda: None)
        elif not lost and not self._is_told_stopped:
            self._enter(self._state if self._is_over else statuses.stopped(now()))
            self._note_condition()
            self._publish(self._status(), lambda: None)
        self._is_claimed = False
        self._world.room.leave(self._place)
        self._world.newest.forget(self.spec.stream_id)
