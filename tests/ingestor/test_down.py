"""One event for each time that a stream is down, whoever owns it meanwhile."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import override

from schemas.messages import Down, Phase, Reason, Status, StreamStatus, down_event
from services.ingestor.down import BLIP_S, RETELL_S, STEADY_S, Condition, Instant, Outage

BEGIN = datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)
RUNNING = (Status.RUNNING, None)
STARTING = (Status.STARTING, None)
STOPPED = (Status.STOPPED, None)
UNREACHABLE = (Status.ERROR, Reason.UNREACHABLE)
TIMEOUT = (Status.ERROR, Reason.TIMEOUT)
OVER = (Status.STOPPED, Reason.ENDED)
FULL = (Status.STOPPED, Reason.CAPACITY)
BROKER_DOWN = (Status.RUNNING, Reason.BROKER_DOWN)


def at(seconds):
    return BEGIN + timedelta(seconds=seconds)


class Owner:
    """Owners of one stream in turn, a broker, and what comes to stand on its two topics."""

    def __init__(self):
        self.now_s = 0.0
        self.status = STOPPED
        self.said: StreamStatus | None = None
        self.events = []
        self._frames = 0
        self._on_its_way = None
        self.take_over()

    @property
    def instant(self):
        return Instant(at(self.now_s), self.now_s)

    def take_over(self, *, arrived=True):
        """The one before was killed: what it had not said is gone, and of what it had sent nobody
        knows."""
        if self._on_its_way is not None and arrived:
            self.events.append(self._on_its_way)
        self._on_its_way = None
        self.outage = Outage(self.said, self.instant)

    def be(self, status, seconds=0.0, *, frames=True):
        """From now on, and for so long, a step every second."""
        self.status = status
        until_s = self.now_s + seconds
        while True:
            self._frames += frames and status[0] is Status.RUNNING
            self.outage.note(Condition(status[0], status[1], self._frames), self.instant)
            self.deliver()
            if self.now_s >= until_s:
                return
            self.now_s = min(until_s, self.now_s + 1)

    def deliver(self):
        while self.say() or self.tell() or self.confirm():
            continue

    def say(self, *, acknowledged=True):
        status, reason = self.status
        said = StreamStatus(
            stream_id="S", status=status, reason=reason, since=at(0), down=self.outage.down
        )
        is_news, self.said = said != self.said, said
        if acknowledged:
            self.outage.acknowledge(said.down)
        return is_news

    def tell(self):
        if (due := self.outage.due) is None:
            return False
        assert self.said is not None
        assert due == self.said.down  # or the next owner would not know of it
        self._on_its_way = down_event("S", due)
        self.outage.note_sent()
        return True

    def confirm(self):
        if self._on_its_way is None:
            return False
        self.events.append(self._on_its_way)
        self._on_its_way = None
        self.outage.note_told()
        return True

    def fail(self):
        """The broker did not take it."""
        if self._on_its_way is not None:
            self._on_its_way = None
            self.outage.note_lost(self.instant)

    @property
    def story(self):
        return [(each.phase, each.reason) for each in self.events]


@pytest.fixture
def owner():
    owner = Owner()
    owner.be(RUNNING, 10)
    return owner


def test_a_camera_that_fails_is_down_from_its_first_failure_until_its_frames_come_again(owner):
    owner.be(UNREACHABLE, 60)
    owner.be(TIMEOUT, 60)
    owner.be(RUNNING, 60)
    assert owner.story == [
        (Phase.NEW, "UNREACHABLE"),
        (Phase.UPDATE, "TIMEOUT"),
        (Phase.END, "TIMEOUT"),
    ]
    assert [each.revision for each in owner.events] == [0, 1, 2]
    assert len({each.event_id for each in owner.events}) == 1
    assert {each.started_at for each in owner.events} == {at(10)}
    assert owner.events[-1].ended_at == at(130)
    assert owner.outage.down is None


def test_a_blip_is_no_event(owner):
    owner.be(UNREACHABLE, BLIP_S - 1)
    owner.be(RUNNING, 60)
    owner.be(TIMEOUT, BLIP_S - 1)
    owner.be(RUNNING, 60)
    assert owner.events == []


def test_a_camera_that_comes_and_goes_is_down_once(owner):
    for _ in range(20):
        owner.be(UNREACHABLE, 2)
        owner.be(RUNNING, STEADY_S - 1)
    owner.be(RUNNING, 60)
    assert owner.story == [(Phase.NEW, "UNREACHABLE"), (Phase.END, "UNREACHABLE")]
    assert owner.events[0].started_at == at(10)


def test_one_frame_is_no_recovery(owner):
    owner.be(UNREACHABLE, 10)
    for _ in range(5):
        owner.be(RUNNING)
        owner.be(RUNNING, 10, frames=False)
        owner.be(UNREACHABLE, 10)
    assert owner.story == [(Phase.NEW, "UNREACHABLE")]


@pytest.mark.parametrize("end", [STOPPED, OVER, (Status.STOPPING, None)])
def test_who_stops_a_stream_ends_its_event(owner, end):
    owner.be(UNREACHABLE, 10)
    owner.be(end)
    assert owner.story[-1][0] is Phase.END
    assert owner.events[-1].ended_at == at(20)


def test_a_camera_whose_frames_find_no_broker_is_not_down(owner):
    owner.be(BROKER_DOWN, 60)
    owner.be(RUNNING, 60)
    assert owner.events == []


def test_a_stream_for_which_there_is_no_room_is_down(owner):
    owner.be(FULL, 10)
    owner.be(RUNNING, 10)
    assert owner.story == [(Phase.NEW, "CAPACITY"), (Phase.END, "CAPACITY")]


def test_starting_is_neither_a_failure_nor_a_recovery(owner):
    owner.be(STARTING, 60)
    assert owner.events == []
    owner.be(UNREACHABLE, 10)
    owner.be(STARTING, 60)
    assert owner.story == [(Phase.NEW, "UNREACHABLE")]


def test_the_next_owner_goes_on_with_the_same_event(owner):
    owner.be(UNREACHABLE, 10)
    owner.take_over()
    owner.be(STARTING, 10)
    owner.be(TIMEOUT, 10)
    owner.take_over()
    owner.be(RUNNING, 10)
    assert [each.revision for each in owner.events] == [0, 0, 1, 1, 2]
    assert owner.story[-1] == (Phase.END, "TIMEOUT")
    assert owner.events[0] == owner.events[1]
    assert len({each.event_id for each in owner.events}) == 1


def test_a_failure_of_which_no_event_was_told_yet_goes_on_with_the_next_owner(owner):
    owner.be(UNREACHABLE, 3)
    owner.take_over()
    owner.be(STARTING, 3)
    owner.be(UNREACHABLE, 3)
    assert owner.events[0].started_at == owner.said.since


def test_a_clock_that_was_set_back_ends_no_event_before_it_began(owner):
    owner.be(UNREACHABLE, 10)
    owner.outage.note(Condition(*STOPPED, 0), Instant(at(-3600), owner.now_s))
    assert owner.outage.down == Down(
        started_at=at(10), ended_at=at(10), reason="UNREACHABLE", revision=1
    )


def test_what_no_status_says_yet_is_not_told(owner):
    older = owner.outage.down
    owner.be(UNREACHABLE, BLIP_S - 1)
    owner.now_s += 1
    owner.outage.note(Condition(*UNREACHABLE, 0), owner.instant)
    owner.outage.acknowledge(older)
    assert owner.outage.down is not None
    assert owner.outage.due is None
    owner.outage.acknowledge(owner.outage.down)
    assert owner.outage.due == owner.outage.down


def test_an_event_that_the_broker_did_not_take_is_told_again_after_a_while(owner):
    owner.be(UNREACHABLE, BLIP_S - 1)
    owner.now_s += 1
    owner.outage.note(Condition(*UNREACHABLE, 0), owner.instant)
    assert owner.say()
    assert owner.tell()
    owner.fail()
    owner.be(UNREACHABLE, RETELL_S - 1)
    assert owner.events == []
    owner.be(TIMEOUT, 2)
    owner.be(RUNNING, 60)
    assert owner.story == [
        (Phase.NEW, "UNREACHABLE"),
        (Phase.UPDATE, "TIMEOUT"),
        (Phase.END, "TIMEOUT"),
    ]


def test_what_can_not_be_sent_at_all_is_told_again_too(owner):
    owner.be(UNREACHABLE, BLIP_S - 1)
    owner.now_s += 1
    owner.outage.note(Condition(*UNREACHABLE, 0), owner.instant)
    assert owner.say()
    owner.outage.note_lost(owner.instant)
    owner.outage.note_sent()
    assert not owner.outage.is_settled
    owner.be(UNREACHABLE, RETELL_S)
    assert owner.story == [(Phase.NEW, "UNREACHABLE")]


STEPS = st.one_of(
    st.tuples(
        st.just("be"),
        st.sampled_from([UNREACHABLE, TIMEOUT, RUNNING, STARTING, STOPPED, OVER, BROKER_DOWN]),
        st.sampled_from([7, 0.3, 2]),
    ),
    st.sampled_from(
        [("say",), ("hear",), ("tell",), ("confirm",), ("fail",), ("take_over",), ("lose",)]
    ),
)


class Slow(Owner):
    """Whose broker answers when a step says so."""

    @override
    def take_over(self, *, arrived=True):
        self._unheard = []
        super().take_over(arrived=arrived)

    def lose(self):
        self.take_over(arrived=False)

    @override
    def deliver(self):
        return

    @override
    def say(self, *, acknowledged=False):
        self._unheard.append(self.outage.down)
        return super().say(acknowledged=acknowledged)

    def hear(self):
        if self._unheard:
            self.outage.acknowledge(self._unheard.pop(0))

    def come_to_rest(self):
        for _ in range(4):
            self.be(STOPPED, RETELL_S)
            while self.say(acknowledged=True) or self.tell() or self.confirm():
                continue


@given(st.lists(STEPS, min_size=5, max_size=40))
def test_whatever_happens_each_event_is_told_whole_and_one_at_a_time(steps):
    owner = Slow()
    for name, *words in steps:
        getattr(owner, name)(*words)
    owner.come_to_rest()
    first = {(each.event_id, each.revision): each for each in reversed(owner.events)}
    assert all(
        (each.phase, each.reason, each.started_at)
        == (first[each.event_id, each.revision].phase, each.reason, each.started_at)
        for each in owner.events
    )
    told = list(dict.fromkeys((each.event_id, each.revision) for each in owner.events))
    phases = [first[each].phase for each in told]
    revisions = [revision for _, revision in told]
    for number, phase in enumerate(phases):
        is_first = number == 0 or phases[number - 1] is Phase.END
        assert (phase is Phase.NEW) is is_first
        assert revisions[number] == (0 if is_first else revisions[number - 1] + 1)
        assert is_first or told[number][0] == told[number - 1][0]
    assert phases[-1:] in ([], [Phase.END])
    assert owner.outage.down is None
