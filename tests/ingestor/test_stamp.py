"""When a picture was taken."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ingestor.stamp import ClockWatch, MediaClock, WallClock, choose, clocks_apart_s

START_S = 1000.0


def stamped(pairs):
    clock = MediaClock()
    return [clock.at(pts_s, arrival_s) for pts_s, arrival_s in pairs]


def test_network_jitter_does_not_show_in_the_spacing():
    delays = [0.02, 0.0, 0.05, 0.01, 0.0, 0.08, 0.03, 0.0]
    instants = stamped((n / 10, START_S + n / 10 + delay) for n, delay in enumerate(delays))
    gaps = [b.at_s - a.at_s for a, b in pairwise(instants[1:])]
    assert gaps == pytest.approx([0.1] * len(gaps), abs=0.001)


def test_pictures_of_a_late_burst_are_as_old_as_they_are():
    on_time = [(n / 10, START_S + n / 10) for n in range(10)]
    burst = [(n / 10, START_S + 3) for n in range(10, 30)]
    instants = stamped([*on_time, *burst])
    assert instants[10].at_s == pytest.approx(START_S + 1, abs=0.01)
    assert instants[-1].at_s == pytest.approx(START_S + 2.9, abs=0.01)


def test_a_picture_is_never_younger_than_its_arrival():
    instants = stamped((n / 10 * 1.01, START_S + n / 10) for n in range(1000))
    assert all(i.at_s <= START_S + n / 10 + 1e-6 for n, i in enumerate(instants))


def test_a_camera_whose_clock_runs_slow_is_followed():
    instants = stamped((n / 10 * 0.9998, START_S + n / 10) for n in range(100_000))
    assert instants[-1].at_s == pytest.approx(START_S + 9999.9, abs=0.1)


@pytest.mark.parametrize("jump_s", [-3600.0, 3600.0, -95443.7])
def test_a_jump_of_the_cameras_timestamps_is_no_jump_of_time(jump_s):
    before = [(n / 10, START_S + n / 10) for n in range(50)]
    after = [(n / 10 + jump_s, START_S + n / 10) for n in range(50, 100)]
    instants = stamped(before + after)
    gaps = [b.media_s - a.media_s for a, b in pairwise(instants)]
    assert gaps == pytest.approx([0.1] * len(gaps), abs=0.001)
    assert instants[-1].at_s == pytest.approx(START_S + 9.9, abs=0.01)


def test_without_timestamps_arrival_counts():
    instants = stamped((None, START_S + n / 10) for n in range(10))
    assert [i.at_s for i in instants] == pytest.approx([START_S + n / 10 for n in range(10)])
    assert instants[-1].media_s == pytest.approx(0.9)


@given(
    st.lists(st.tuples(st.one_of(st.none(), st.floats(-1e6, 1e6)), st.floats(0, 5)), max_size=60)
)
def test_time_never_goes_back(steps):
    clock, arrival_s, before = MediaClock(), START_S, None
    for pts_s, wait_s in steps:
        arrival_s += wait_s
        instant = clock.at(pts_s, arrival_s)
        assert instant.at_s <= arrival_s + 1e-6
        if before is not None:
            assert instant.at_s >= before.at_s
            assert instant.media_s >= before.media_s
        before = instant


def test_utc_goes_on_by_the_monotonic_clock():
    wall = WallClock(1_700_000_000_000_000, 50.0)
    assert wall.unix_us(51.5) == 1_700_000_001_500_000


def test_a_cameras_clock_is_shown_and_not_trusted():
    at_us, clock = choose(1_000_000_000, 1_003_000_000, trusted=False)
    assert at_us == 1_000_000_000
    assert (clock.source, clock.offset_ms) == ("arrival", 3000)


def test_a_trusted_clock_is_used_only_where_it_is_plausible():
    near_us, near = choose(1_000_000_000, 1_003_000_000, trusted=True)
    far_us, far = choose(1_000_000_000, 4_600_000_000, trusted=True)
    assert (near_us, near.source) == (1_003_000_000, "source")
    assert (far_us, far.source) == (1_000_000_000, "arrival")


def test_a_clock_that_is_set_is_told_from_one_that_is_slewed():
    apart_s = [100.0]
    watch = ClockWatch(lambda: apart_s[0])
    told = []
    for now_s in (100.4, 100.9, 101.2, 101.3, 5000.0, 4999.5, 0.0):
        apart_s[0] = now_s
        told.append(round(watch.step_s(), 1))
    assert told == [0, 0, 1.2, 0, 4898.8, 0, -5000.0]


class Clocks:
    """Between some readings, numbered from 1, the thread that reads stands still for a while."""

    def __init__(self, stills_s):
        self._stills_s = stills_s
        self._readings = 0
        self._passed_s = 0.0

    def utc_s(self):
        return 1000.0 + self.monotonic_s()

    def monotonic_s(self):
        self._readings += 1
        self._passed_s += self._stills_s.get(self._readings, 0.001)
        return self._passed_s


@pytest.mark.parametrize(
    "stills_s",
    [{2: 3.0}, {3: 3.0}, {2: 3.0, 3: 5.0, 5: 2.0}, dict.fromkeys(range(1, 30), 0.4)],
)
def test_a_thread_that_stands_still_between_two_clocks_sees_no_step(stills_s):
    clocks = Clocks(stills_s)
    assert clocks_apart_s(clocks.utc_s, clocks.monotonic_s) == pytest.approx(1000, abs=0.01)
