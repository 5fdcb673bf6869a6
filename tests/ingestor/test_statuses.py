"""What is said of a stream, and how long until the next attempt."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from schemas.messages import Reason, Status, StreamStatus
from services.ingestor import statuses
from services.ingestor.settings import Settings
from services.ingestor.statuses import Attempt, is_news, retry_wait_s

AT = datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)


def test_every_reason_has_a_message_and_a_hint():
    assert set(statuses.TEXTS) == set(Reason)
    assert all(message and hint.endswith(".") for message, hint in statuses.TEXTS.values())


def test_the_wait_doubles_from_the_base_to_the_cap():
    waits = [retry_wait_s(Reason.UNREACHABLE, n, 2, 60, 1.0) for n in range(1, 9)]
    assert waits == [2, 4, 8, 16, 32, 60, 60, 60]


USUAL = sorted(set(Reason) - {Reason.AUTH_FAILED, Reason.DECODER_CRASHED})


@given(st.sampled_from(USUAL), st.integers(1, 10_000), st.floats(0, 1))
def test_the_wait_is_jittered_over_its_whole_length_and_never_above_the_cap(
    reason, attempt, chance
):
    wait_s = retry_wait_s(reason, attempt, 2, 60, chance)
    assert wait_s == chance * retry_wait_s(reason, attempt, 2, 60, 1.0)
    assert 0 <= wait_s <= 60
    assert retry_wait_s(reason, attempt, 2, 60, 0) == 0


def test_the_first_wait_is_two_seconds_and_the_longest_a_minute_unless_set_otherwise():
    usual = {name: Settings.model_fields[name].default for name in ("retry_base_s", "retry_cap_s")}
    assert usual == {"retry_base_s": 2, "retry_cap_s": 60}


def test_a_wrong_password_is_tried_seldom_lest_the_account_be_locked():
    assert retry_wait_s(Reason.AUTH_FAILED, 1, 2, 60, 0) == 150
    assert retry_wait_s(Reason.AUTH_FAILED, 9, 2, 60, 1) == 300
    assert retry_wait_s(Reason.AUTH_FAILED, 1, 0.05, 0.5, 1) == 0.5


def test_a_crashed_decoder_is_started_at_once_but_only_once():
    assert retry_wait_s(Reason.DECODER_CRASHED, 1, 2, 60, 1) == 0
    assert retry_wait_s(Reason.DECODER_CRASHED, 2, 2, 60, 1) == 4


def test_since_is_when_it_began_and_not_the_last_attempt():
    first = statuses.failed(statuses.starting(AT), Reason.TIMEOUT, None, Attempt(1, AT, 2))
    later = AT + timedelta(minutes=1)
    second = statuses.failed(first, Reason.TIMEOUT, None, Attempt(2, later, 4))
    other = statuses.failed(second, Reason.NOT_FOUND, None, Attempt(3, later, 8))
    assert (first.since, second.since, other.since) == (AT, AT, later)
    assert (second.attempt, second.next_retry_at) == (2, later + timedelta(seconds=4))


def test_a_dead_broker_does_not_stop_a_camera():
    state = statuses.broker_down(AT)
    assert (state.status, state.reason) == (Status.RUNNING, Reason.BROKER_DOWN)


@pytest.mark.parametrize(
    ("changes", "after_s", "news"),
    [
        ({}, 100, False),
        ({"attempt": 2}, 9, False),
        ({"attempt": 2}, 10, True),
        ({"status": Status.RUNNING}, 0, True),
        ({"epoch": 2}, 0, True),
        ({"observed_generation": 2}, 0, True),
    ],
)
def test_changes_are_told_at_once_and_attempts_now_and_then(changes, after_s, news):
    said = StreamStatus(stream_id="S", status=Status.ERROR, since=AT, attempt=1)
    assert is_news(said, replace(said, **changes), after_s) is news


def test_what_was_never_said_is_news():
    assert is_news(None, StreamStatus(stream_id="S", status=Status.STOPPED, since=AT), 0)
