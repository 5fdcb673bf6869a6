from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from services.detector.admit import Admission


@dataclass(frozen=True)
class Waiting:
    stream_id: str
    seq: int
    size: int = 10


def admission(in_flight: int = 5, waiting_bytes: int = 1000) -> Admission[Waiting]:
    return Admission(in_flight, waiting_bytes)


def test_of_each_stream_only_the_newest_frame_waits():
    admit = admission()
    assert admit.offer(Waiting("door", 0)) == []
    assert admit.offer(Waiting("door", 1)) == [Waiting("door", 0)]
    assert admit.take() == Waiting("door", 1)
    assert admit.take() is None


def test_a_stream_has_no_more_in_flight_than_allowed():
    admit = admission(in_flight=2)
    for seq in range(2):
        admit.offer(Waiting("door", seq))
        admit.take()
    assert admit.offer(Waiting("door", 2)) == []
    assert admit.take() is None
    assert admit.offer(Waiting("door", 3)) == [Waiting("door", 2)]
    admit.leave("door")
    assert admit.take() == Waiting("door", 3)


def test_streams_take_turns_however_much_one_of_them_sends():
    admit = admission()
    for stream in ("busy", "a", "b"):
        admit.offer(Waiting(stream, 0))
    taken = []
    for seq in range(1, 7):
        frame = admit.take()
        assert frame is not None
        taken.append(frame.stream_id)
        admit.offer(Waiting(frame.stream_id, seq))
        admit.offer(Waiting("busy", 100 + seq))
    assert taken == ["busy", "a", "b"] * 2


def test_the_longest_waiting_of_other_streams_goes_when_there_are_too_many_bytes():
    admit = admission(waiting_bytes=25)
    admit.offer(Waiting("a", 0))
    admit.offer(Waiting("b", 0))
    assert admit.offer(Waiting("c", 0)) == [Waiting("a", 0)]


def test_a_frame_larger_than_the_limit_may_still_wait_alone():
    admit = admission(waiting_bytes=25)
    admit.offer(Waiting("a", 0))
    assert admit.offer(Waiting("big", 0, size=100)) == [Waiting("a", 0)]
    assert admit.take() == Waiting("big", 0, size=100)


def test_frames_of_a_partition_that_was_lost_are_withdrawn():
    admit = admission(in_flight=1)
    admit.offer(Waiting("a", 0))
    admit.take()
    admit.offer(Waiting("a", 1))
    admit.offer(Waiting("b", 0))
    admit.withdraw(lambda frame: frame.stream_id == "a")
    admit.leave("a")
    assert admit.take() == Waiting("b", 0)
    assert admit.take() is None


ACTIONS = st.one_of(
    st.tuples(st.just("offer"), st.sampled_from("abcde"), st.integers(1, 40)),
    st.just(("take", "", 0)),
    st.tuples(st.just("leave"), st.sampled_from("abcde"), st.just(0)),
)


@given(st.lists(ACTIONS, max_size=200))
def test_every_frame_is_lost_or_taken_once_and_the_bounds_hold(actions):
    admit = admission(in_flight=2, waiting_bytes=60)
    offered, gone, flying = set(), [], []
    for seq, (action, stream, size) in enumerate(actions):
        if action == "offer":
            frame = Waiting(stream, seq, size)
            offered.add(frame)
            gone += admit.offer(frame)
        elif action == "take" and (taken := admit.take()):
            gone.append(taken)
            flying.append(taken.stream_id)
        elif action == "leave" and stream in flying:
            flying.remove(stream)
            admit.leave(stream)
        waiting = offered - set(gone)
        assert len(gone) == len(set(gone))
        assert len(waiting) == admit.waiting == len({frame.stream_id for frame in waiting})
        assert len(waiting) <= 1 or sum(frame.size for frame in waiting) <= 60
        assert all(flying.count(stream) <= 2 for stream in "abcde")
        assert admit.in_flight == len(flying)
    for stream in flying:
        admit.leave(stream)
    while last := admit.take():
        admit.leave(last.stream_id)
    assert admit.streams == 0
