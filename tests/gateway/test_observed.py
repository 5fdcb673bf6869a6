"""What is known of each stream."""

import math
from datetime import timedelta

from schemas.messages import Outcome, Status, now
from services.gateway.observed import PARTITIONS_KEPT, RECORDS_KEPT, STREAMS_KEPT, Observed
from tests.gateway.clock import Clock
from tests.gateway.messages import DOOR, YARD, a_heartbeat, a_record, a_spec, a_status


def test_the_last_status_counts_until_it_is_tombstoned() -> None:
    observed = Observed()
    observed.note_status(0, a_status(status=Status.STARTING), now())
    observed.note_status(0, a_status(status=Status.RUNNING), now())
    assert observed.status(DOOR) == a_status(status=Status.RUNNING)
    assert observed.statuses() == [a_status(status=Status.RUNNING)]
    assert observed.forget_status(0, DOOR)
    assert observed.status(DOOR) is None


def test_a_tombstone_in_the_slot_that_a_stream_left_says_nothing() -> None:
    observed = Observed()
    observed.note_spec(0, a_spec(generation=1))
    observed.note_spec(3, a_spec(generation=2))
    assert not observed.forget_spec(0, DOOR)
    assert observed.spec(DOOR) == a_spec(generation=2)
    assert observed.forget_spec(3, DOOR)
    assert observed.specs() == []


def test_the_status_that_counts_is_that_of_the_slot_where_the_stream_is_wanted() -> None:
    observed = Observed()
    observed.note_spec(0, a_spec(generation=1))
    observed.note_status(0, a_status(status=Status.STOPPED), now())
    observed.note_spec(3, a_spec(generation=3))
    assert observed.status(DOOR) == a_status(status=Status.STOPPED)  # nobody has said more yet
    observed.note_status(3, a_status(epoch=2), now())
    observed.note_status(0, a_status(status=Status.STOPPED, attempt=1), now())  # said again, late
    assert observed.status(DOOR) == a_status(epoch=2)
    assert observed.statuses() == [a_status(epoch=2)]
    assert observed.status_in(0, DOOR) == a_status(status=Status.STOPPED, attempt=1)
    observed.note_heartbeat(a_heartbeat(at=now()), now())
    assert not observed.forget_status(0, DOOR)
    assert observed.heartbeat(DOOR)
    assert observed.status(DOOR) == a_status(epoch=2)
    assert observed.forget_status(3, DOOR)
    assert not observed.heartbeat(DOOR)


def test_of_one_stream_no_more_partitions_are_kept_than_so_many() -> None:
    observed = Observed()
    for partition in range(PARTITIONS_KEPT * 2):
        observed.note_status(partition, a_status(epoch=partition), now())
    kept = [observed.status_in(partition, DOOR) for partition in range(PARTITIONS_KEPT * 2)]
    assert [status is not None for status in kept] == [False] * 4 + [True] * 4


def test_an_older_spec_from_the_slot_that_a_stream_left_is_ignored() -> None:
    observed = Observed()
    observed.note_spec(3, a_spec(generation=2))
    observed.note_spec(0, a_spec(generation=1))
    assert observed.spec(DOOR) == a_spec(generation=2)


def test_a_record_at_or_below_the_last_seq_of_its_epoch_is_a_repeat() -> None:
    observed = Observed()
    answers = [
        observed.note_record(a_record(seq, epoch=epoch))
        for epoch, seq in [(1, 0), (1, 1), (1, 1), (1, 0), (2, 0), (1, 2), (2, 0), (2, 5), (2, 4)]
    ]
    assert answers == [True, True, False, False, True, False, False, True, False]


def test_rates_and_lags_are_those_of_the_last_half_minute() -> None:
    clock = Clock()
    observed = Observed(clock)
    for seq in range(200):
        outcome = Outcome.OK if seq % 2 else Outcome.SHED
        observed.note_record(a_record(seq, outcome=outcome))
        clock.at += 0.2
    measured = observed.measured(DOOR)
    assert measured is not None
    assert 4.9 < measured.fps < 5.1
    assert 2.4 < measured.detected_fps < 2.6
    assert (measured.lag_ms_p50, measured.lag_ms_p95) == (40, 40)
    clock.at += 31
    assert observed.measured(DOOR) is None


def test_a_fresh_heartbeat_says_what_is_published() -> None:
    observed = Observed()
    observed.note_heartbeat(a_heartbeat(at=now(), fps=4.5), now())
    measured = observed.measured(DOOR)
    assert measured is not None
    assert (measured.fps, measured.detected_fps, measured.lag_ms_p50) == (4.5, 0, None)


def test_a_heartbeat_read_late_is_as_old_as_it_is() -> None:
    observed = Observed()
    observed.note_heartbeat(a_heartbeat(at=now()), now() - timedelta(seconds=40))
    assert observed.measured(DOOR) is None
    assert observed.heartbeat(DOOR) is not None
    assert 40 <= observed.silent_s(DOOR) < 50


def test_a_heartbeat_is_no_younger_for_a_status_that_was_read_before_it() -> None:
    observed = Observed()
    observed.note_status(0, a_status(), now())
    observed.note_heartbeat(a_heartbeat(at=now()), now() - timedelta(seconds=40))
    assert observed.measured(DOOR) is None
    assert observed.silent_s(DOOR) < 10


def test_an_owner_whose_clock_is_off_is_heard_when_it_speaks() -> None:
    clock = Clock()
    observed = Observed(clock)
    assert observed.silent_s(DOOR) == math.inf
    observed.note_heartbeat(a_heartbeat(at=now() - timedelta(hours=1), fps=5), now())
    assert observed.measured(DOOR)
    assert observed.silent_s(DOOR) < 10
    clock.at += 400
    observed.note_status(0, a_status(), now() - timedelta(seconds=30))
    assert 30 <= observed.silent_s(DOOR) < 40
    observed.note_status(0, a_status(), now() - timedelta(seconds=300))  # read out of turn
    assert 30 <= observed.silent_s(DOOR) < 40


def test_memory_is_bounded_however_many_streams_and_records_come() -> None:
    observed = Observed()
    for number in range(STREAMS_KEPT + 10):
        observed.note_status(0, a_status(f"stream-{number}"), now())
    assert len(observed.statuses()) == STREAMS_KEPT
    assert observed.status("stream-0") is None
    for seq in range(RECORDS_KEPT * 2):
        observed.note_record(a_record(seq, stream_id=YARD))
    assert len(observed._samples[YARD]) == RECORDS_KEPT
