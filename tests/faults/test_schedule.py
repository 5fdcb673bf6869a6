"""What a seed decides, and what every seed must bring."""

from collections import Counter

import pytest

from tests.faults.schedule import ROWS, SERVICES, SESSION_S, plan

SEEDS = range(1, 6)
POSTGRES = "away", "postgres"


@pytest.mark.parametrize("seed", SEEDS)
def test_twenty_minutes_hold_all_that_they_must(seed):
    schedule = plan(seed, 20)
    count = Counter((one.kind.name, one.kind.target) for one in schedule)
    assert len(schedule) >= 40
    for service in SERVICES:
        assert count["kill", service] >= 5
        assert count["term", service] >= 1
        assert count["stop", service] >= 1
    assert count["kill", "kafka"] >= 3
    assert min(count["term", "kafka"], count["away", "kafka"], count["kill", "camera child"]) >= 1
    assert count["away", "postgres"] >= 3
    assert count["sessions", "postgres"] >= 1
    assert {"blackhole", "reset", "halfopen", "garbage"} <= {name for name, _ in count}
    assert {one.kind.row for one in schedule} == ROWS


@pytest.mark.parametrize("seed", SEEDS)
def test_some_stops_outlast_the_session_and_some_do_not(seed):
    stops = [one for one in plan(seed, 20) if one.kind.name == "stop"]
    for service in ("ingestor", "detector", "persister"):
        short, long = sorted(one.lasts for one in stops if one.kind.target == service)
        assert short < SESSION_S
        assert long >= 2 * SESSION_S


@pytest.mark.parametrize("seed", SEEDS)
def test_faults_come_in_order_within_the_time_and_some_overlap(seed):
    schedule = plan(seed, 20)
    times = [one.at for one in schedule]
    assert times == sorted(times)
    assert 0 <= times[0] < times[-1] < 20 * 60
    ends = [one.at + one.lasts for one in schedule]
    overlaps = sum(end > later for end, later in zip(ends, times[1:], strict=False))
    assert 1 <= overlaps < len(schedule) / 2


@pytest.mark.parametrize("seed", SEEDS)
def test_postgres_is_away_between_ten_seconds_and_a_minute(seed):
    away = [one.lasts for one in plan(seed, 20) if (one.kind.name, one.kind.target) == POSTGRES]
    assert 10 <= min(away) < max(away) <= 60


def test_the_same_seed_is_the_same_schedule_and_another_is_another():
    assert plan(7, 20) == plan(7, 20)
    assert plan(7, 20) != plan(8, 20)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_short_run_has_faults_of_several_kinds(seed):
    schedule = plan(seed, 0.5)
    assert len({one.kind for one in schedule}) == len(schedule) >= 5
    assert {"kafka", "postgres", "ingestor", "detector"} <= {one.kind.target for one in schedule}
    assert all(one.lasts <= 12 for one in schedule)


def test_only_some_rows_are_only_their_faults():
    schedule = plan(1, 20, rows={1, 3})
    assert {one.kind.row for one in schedule} == {1, 3}
    assert len(schedule) == len(plan(1, 20))


def test_rows_without_faults_are_refused():
    with pytest.raises(ValueError, match="no fault of these rows"):
        plan(1, 20, rows={12})
