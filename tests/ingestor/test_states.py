"""A stream in its owner's hands: whatever comes in whatever order, only its diagram happens."""

import re
from itertools import count, pairwise

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from msgspec.structs import replace
from typing_extensions import override

from schemas.messages import Phase, Reason, Status, StreamSpec
from services.ingestor import cameras, heartbeat, link, publish, statuses, supervise
from services.ingestor.cameras import HUNG_S, LONGEST_TICK_S
from services.ingestor.children import KILL_AFTER_S
from services.ingestor.statuses import REASONS, TRANSITIONS
from services.ingestor.supervise import Stream
from tests.ingestor.world import BROKEN, H264, World, heard, parted, shot

SPEC = StreamSpec(
    stream_id="S", slot=0, generation=1, running=True, name="a camera", url="rtsp://x/"
)
GONE_WITHIN_S = KILL_AFTER_S + 3 * LONGEST_TICK_S  # to notice, to kill, to part
OF_CAMERAS = sorted(REASONS[Status.ERROR] - {Reason.CAPACITY})
COMING_TO_REST = (Status.STOPPING, Status.STOPPED)
LAST_WORDS = [*((link.Failed(reason),) for reason in OF_CAMERAS), (link.Ended(),), ()]
DESIRES = [
    *("delete", "outdated"),
    *({"running": running} for running in (True, False)),
    *({"sealed_credentials": seal} for seal in (None, BROKEN)),
    *({"fps": fps} for fps in (5, 9)),
    *({"url": f"rtsp://{host}/"} for host in "xy"),
]


def test_the_diagram_is_what_the_table_says():
    lines = re.findall(r"^([A-Z]+) +--> ([A-Z, ]+)$", statuses.__doc__, re.MULTILINE)
    drawn = {
        (Status(before), Status(after)) for before, list_ in lines for after in list_.split(", ")
    }
    assert drawn == set(TRANSITIONS)


def test_every_reason_belongs_to_one_status():
    assert sorted(reason for reasons in REASONS.values() for reason in reasons) == sorted(Reason)


class Watched(Stream):
    """Remembers each state that it was in."""

    @property  # type: ignore[explicit-override]  # in the place of an attribute
    def _state(self):
        return self.states[-1]

    @_state.setter
    def _state(self, state):
        self.states = [*getattr(self, "states", ()), state]


class Owners(RuleBasedStateMachine):
    """One stream, its owners one after another, its cameras one after another."""

    def __init__(self):
        super().__init__()
        self.world = World()
        self._patch = pytest.MonkeyPatch()
        for module in (supervise, cameras, publish, heartbeat):
            self._patch.setattr(module, "time", self.world.clock)
        self._patch.setattr(supervise, "now", self.world.clock.now)
        self._epochs = count(100)
        self._is_deleted = False
        self._unwanted_for_s = 0.0
        self._seen_states = self._seen_said = 0
        self.spec = SPEC

    @override
    def teardown(self):
        if hasattr(self, "stream"):
            self.settle()
        self._patch.undo()
        for child in self.world.children:
            child.end()
            child.link.close()

    @initialize(running=st.sampled_from([True, True, False]), seconds=st.sampled_from([3, 0, 1]))
    def begin(self, running, seconds):
        self.spec = replace(SPEC, running=running)
        self._take()
        self.be_well(seconds)

    def _take(self):
        """By the next owner; what was deleted is made again, by the same name."""
        if self._is_deleted:
            self.spec = replace(SPEC, generation=self.spec.generation + 1)
            self._is_deleted = False
        self.stream = Watched(self.spec, 0, self.world.last, self.world.surroundings())
        self._seen_states = 0

    @property
    def camera(self):
        return self.stream.camera

    @property
    def _is_wanted(self):
        return self.spec.running and not self._is_deleted

    def has_camera(self):
        return self.camera is not None and not self.camera.child.is_over

    # What others want

    @rule(what=st.sampled_from(DESIRES))
    def desire(self, what):
        if what == "delete":
            self._is_deleted = True
            self.stream.delete()
        elif what == "outdated":
            outdated = replace(self.spec, generation=0, running=not self.spec.running)
            self.stream.want(self.spec if self._is_deleted else outdated)
            self._is_deleted = False
        else:
            self.want(what)

    def want(self, changes):
        self.spec = replace(self.spec, generation=self.spec.generation + 1, **changes)
        self._is_deleted = False
        self.stream.want(self.spec)

    # Who owns it

    @rule(what=st.sampled_from(["hear_another", "step_the_clock", "hand_over", "lose"]))
    def own(self, what):
        getattr(self, what)()

    @precondition(lambda self: self.stream.needs_claim)
    @rule()
    def claim(self):
        self.stream.claim(max(next(self._epochs), self.stream.epoch + 1))

    def hear_another(self):
        for above in (-1, 0):
            epoch = self.stream.epoch + above
            self.stream.contest(replace(self.stream._status(), owner="another", epoch=epoch))

    def step_the_clock(self):
        self.stream.restart()

    def hand_over(self):
        self._release(lost=False)
        self.world.acknowledge()
        self._take()

    def lose(self):
        self._release(lost=True)
        self._take()

    def _release(self, *, lost):
        """As the ingestor does it: cameras first."""
        if self.camera is not None:
            self.camera.stop()
            self.camera.child.kill()
            parted(self.camera)
        self.stream.release(lost=lost)
        self.check_states()

    @rule(comes=st.booleans())
    def crowd(self, comes):
        """Another stream, for which there is a place only while this one has none."""
        (self.world.cameras.take if comes else self.world.cameras.leave)((0, "another"))

    # What a camera does

    @precondition(has_camera)
    @rule()
    def show(self):
        camera = self.camera
        words = camera._words
        camera.child.say(link.Opened(H264), shot(self.world.clock))
        heard(camera, words + 2)

    @precondition(has_camera)
    @rule(last_words=st.sampled_from(LAST_WORDS))
    def end_camera(self, last_words):
        self.camera.child.end(*last_words)
        parted(self.camera)

    # What the broker does

    @rule(what=st.sampled_from(["acknowledge", "refuse", "forbid", "deliver", "lose"]))
    def answer(self, what):
        self.world.has_room = what != "refuse"
        self.world.loses = what == "forbid"
        if what in ("deliver", "lose"):
            self.world.deliver(well=what == "deliver")
        else:
            self.world.acknowledge()

    # Time

    @rule(seconds=st.sampled_from([0.1, 1.0, 4.0, HUNG_S + 1]))
    def wait(self, seconds):
        while seconds > 0:
            self.world.clock.at_s += (step_s := min(seconds, LONGEST_TICK_S))
            seconds -= step_s
            self._tick(step_s)

    def _tick(self, step_s):
        self._unwanted_for_s = 0.0 if self._is_wanted else self._unwanted_for_s + step_s
        if self.camera is not None and self.camera.child.is_over:
            parted(self.camera)
        had_camera = self.camera is not None
        self.stream.tick()
        self.check_states()
        has_just_parted = had_camera and self.camera is None
        is_resting = self.stream.states[-1].status in COMING_TO_REST
        assert self._is_wanted or is_resting or has_just_parted
        assert self._is_wanted or self.camera is None or self._unwanted_for_s < GONE_WITHIN_S
        if self.stream.is_gone:
            self._take()

    @rule(seconds=st.integers(1, 12))
    def be_well(self, seconds):
        """Whatever is waited for comes."""
        self.world.has_room, self.world.loses = True, False
        self.crowd(comes=False)
        for _ in range(seconds):
            if self.stream.needs_claim:
                self.claim()
            self.world.acknowledge()
            self.wait(1.0)
            if self.has_camera() and not self.camera.child.is_ending:
                self.show()
            self.world.deliver(well=True)

    def settle(self):
        """Once the world is well for a while, the stream is what it should be, and said to be."""
        self.wait(
            0.1
        )  # else a clip's end may be noticed when it is wanted again already, and count
        if not self._is_deleted:
            self.want({"sealed_credentials": None})
        self.be_well(16)
        last = self.world.last
        assert last.status is (Status.RUNNING if self._is_wanted else Status.STOPPED)
        assert last.reason is None
        assert last.epoch == self.stream.epoch
        assert (self.camera is not None) is self._is_wanted
        assert not self._is_wanted or last.observed_generation == self.spec.generation
        assert self.stream._outage.down is None
        self.check_said()
        self.check_events()

    # What must hold

    @invariant()
    def check_states(self):
        if not hasattr(self, "stream"):
            return
        states = self.stream.states
        for before, after in pairwise(states[self._seen_states :]):
            self.check_transition(before, after)
            check_attempts(before, after)
        for state in states[self._seen_states :]:
            check_reason(state)
        self._seen_states = len(states) - 1

    def check_transition(self, before, after):
        stays = before.status is after.status
        assert stays or (before.status, after.status) in TRANSITIONS

    @invariant()
    def check_said(self):
        said = self.world.said
        for number in range(max(1, self._seen_said), len(said)):
            (before, _), (after, has_missed) = said[number - 1], said[number]
            assert before.epoch <= after.epoch
            is_hand_over = before.epoch != after.epoch
            if not (has_missed or is_hand_over):
                self.check_transition(before, after)
        for status, _ in said[self._seen_said :]:
            check_reason(status)
            has_frame = any(epoch == status.epoch for epoch, _ in self.world.sent)
            assert status.status is not Status.RUNNING or has_frame
        self._seen_said = len(said)

    def check_events(self):
        told = list({(each.event_id, each.revision): each for each in self.world.events}.values())
        for before, after in pairwise([None, *told]):
            is_first = before is None or before.phase is Phase.END
            assert (after.phase is Phase.NEW) is is_first
            assert after.revision == (0 if is_first else before.revision + 1)
            assert is_first or after.event_id == before.event_id
        assert not told or told[-1].phase is Phase.END


def check_reason(state):
    """Of a state, or of a status as it was said."""
    is_error = state.status is Status.ERROR
    assert state.reason in REASONS[state.status] | (frozenset() if is_error else {None})
    is_tried = is_error and state.reason is not Reason.CAPACITY
    assert (state.attempt > 0) is is_tried
    assert (state.next_retry_at is not None) is is_tried


def check_attempts(before, after):
    goes_on = before.status is after.status is Status.ERROR
    assert not goes_on or after.attempt in (0, 1, before.attempt + 1)
    assert not (goes_on and before.reason == after.reason) or after.since == before.since


def test_a_camera_that_goes_on_in_a_new_epoch_is_starting_until_a_frame_of_it_has_its_number():
    lives = Owners()
    lives.begin(True, 3)
    lives.hear_another()
    lives.claim()
    lives.wait(1.0)
    said = [lives.world.last.status]
    lives.world.acknowledge()
    lives.show()
    lives.wait(0.1)
    said.append(lives.world.last.status)
    assert said == [Status.STARTING, Status.RUNNING]
    lives.teardown()


def test_a_deleted_stream_is_not_said_to_run_in_an_epoch_that_it_claims_while_it_ends():
    lives = Owners()
    lives.begin(True, 3)
    lives.desire("delete")
    lives.hear_another()
    lives.claim()
    assert lives.world.last.status is Status.STOPPING
    assert lives.world.last.epoch == lives.stream.epoch
    lives.desire("outdated")  # made again before it was looked at
    lives.teardown()


def test_a_stream_that_is_stopped_as_its_camera_dies_has_not_failed():
    lives = Owners()
    lives.begin(True, 3)
    lives.end_camera(())
    lives.desire({"running": False})
    lives.be_well(1)
    assert Status.ERROR not in {status.status for status, _ in lives.world.said}
    lives.teardown()


def test_a_stream_is_stopping_also_where_its_camera_was_ending_for_another_reason():
    lives = Owners()
    lives.begin(True, 3)
    lives.step_the_clock()
    lives.wait(0.1)
    lives.desire("delete")
    lives.wait(0.1)
    assert lives.world.last.status is Status.STOPPING
    lives.teardown()


def test_a_deleted_stream_is_gone_only_once_the_end_of_its_event_is_told():
    lives = Owners()
    lives.begin(True, 3)
    lives.end_camera((link.Failed(Reason.TIMEOUT),))
    lives.wait(8.0)
    lives.world.acknowledge()
    assert [each.phase for each in lives.world.events] == [Phase.NEW]
    lives.world.acknowledge()
    lives.desire("delete")
    lives.wait(4.0)
    assert lives.world.last.status is Status.STOPPED
    was_gone = lives.stream.is_gone
    lives.world.acknowledge()
    assert (was_gone, lives.stream.is_gone) == (False, True)
    assert [each.phase for each in lives.world.events] == [Phase.NEW, Phase.END]
    lives.teardown()


def test_a_wrong_password_is_tried_no_sooner_because_its_owner_died():
    lives = Owners()
    lives.begin(True, 1)
    lives.end_camera((link.Failed(Reason.AUTH_FAILED),))
    lives.wait(0.1)
    lives.world.acknowledge()
    said, tried = lives.world.last, len(lives.world.children)
    assert said.reason is Reason.AUTH_FAILED
    lives.lose()
    lives.claim()
    lives.world.acknowledge()
    wait_s = (said.next_retry_at - lives.world.clock.now()).total_seconds()
    lives.wait(wait_s - 1)
    last = lives.world.last
    assert (last.reason, last.attempt, last.since) == (Reason.AUTH_FAILED, 1, said.since)
    assert last.epoch > said.epoch
    assert len(lives.world.children) == tried
    lives.wait(2.0)
    assert len(lives.world.children) == tried + 1
    lives.teardown()


@pytest.fixture
def moving():
    """One that found no room, has told of it, and was told to stop because it moves."""
    lives = Owners()
    lives.world.cameras.take((0, "another"))
    lives.spec = SPEC
    lives._take()
    lives.claim()
    for _ in range(8):
        lives.world.acknowledge()
        lives.wait(1.0)
    assert [each.phase for each in lives.world.events] == [Phase.NEW]
    lives.world.acknowledge()
    lives.want({"running": False, "moving": True})
    lives.wait(1.0)
    lives.world.acknowledge()
    assert lives.world.last.status is Status.STOPPED
    assert lives.world.last.down.reason == Reason.CAPACITY
    yield lives
    lives.teardown()


def test_an_event_outlives_the_move_of_its_stream_and_its_new_owner_ends_it(moving):
    moving.lose()
    moving.wait(1.0)
    moving.stream.delete(has_moved=True)
    moving.stream.tick()
    assert moving.stream.is_gone
    assert {each.phase for each in moving.world.events} == {Phase.NEW}
    generation, down = moving.spec.generation + 1, moving.world.last.down
    moving.spec = replace(SPEC, generation=generation, begun=down)
    moving.stream = Watched(moving.spec, 0, None, moving.world.surroundings())
    moving._seen_states = 0
    moving.be_well(12)
    told = moving.world.events
    assert told[-1].phase is Phase.END
    assert {each.event_id for each in told} == {told[0].event_id}


def test_a_stream_that_is_deleted_while_it_moves_ends_its_event_where_it_was(moving):
    moving.stream.delete()
    for _ in range(3):
        moving.stream.tick()
        moving.world.acknowledge()
    assert moving.stream.is_gone
    assert [each.phase for each in moving.world.events] == [Phase.NEW, Phase.END]
    moving.want({"running": True, "moving": False})


def test_a_claim_that_the_broker_never_took_is_made_again_and_frames_follow():
    lives = Owners()
    lives.world.loses = True
    lives.spec = SPEC
    lives._take()
    lives.claim()
    lives.wait(1.0)
    assert not lives.stream.needs_claim  # not at once
    lives.be_well(12)
    assert lives.world.last.status is Status.RUNNING
    assert {epoch for epoch, _ in lives.world.sent} == {lives.stream.epoch}
    lives.teardown()


def explore(examples):
    limits = settings(max_examples=examples, stateful_step_count=30, deadline=None)
    run_state_machine_as_test(Owners, settings=limits)


def test_a_stream_does_only_what_its_diagram_shows_and_ends_up_as_it_should_be():
    explore(60)


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_it_does_so_in_very_many_lives():
    explore(2000)
