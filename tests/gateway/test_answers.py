"""What is wanted and what is seen, in one word."""

from datetime import timedelta
from typing import Any

import pytest

from schemas.messages import Reason, Status, StreamSpec, now
from services.gateway.answers import health_answer, status_of
from services.gateway.observed import Observed
from services.gateway.reconciler.bury import NO_OWNER_AFTER, is_over
from services.gateway.streams import StreamRow
from tests.gateway.parts import said

ID = "01KAPZ0000000000000000000A"
STOPPED, STARTING, RUNNING, STOPPING, ERROR = (
    Status.STOPPED,
    Status.STARTING,
    Status.RUNNING,
    Status.STOPPING,
    Status.ERROR,
)
LONG_AGO = now() - timedelta(minutes=5)


def a_row(**more) -> StreamRow:
    fields: dict[str, Any] = {
        "id": ID,
        "name": "door",
        "url": "rtsp://10.0.0.9/",
        "sources": [],
        "sealed_credentials": None,
        "fps": 5,
        "frame_width": 640,
        "detection_enabled": True,
        "model": None,
        "min_confidence": None,
        "labels": [],
        "max_frame_age_ms": 2000,
        "idle_gate": False,
        "trust_source_clock": False,
        "verify_tls": True,
        "tags": [],
        "running": True,
        "slot": 2,
        "old_slot": None,
        "generation": 3,
        "created_at": now(),
        "updated_at": now(),
        "deleted_at": None,
        "purge": False,
    }
    return StreamRow(**fields | more)


def a_spec(*, running: bool) -> StreamSpec:
    return a_row(running=running).spec


@pytest.mark.parametrize(
    ("running", "seen", "generation", "shown"),
    [
        (False, None, 0, STOPPED),
        (False, STOPPED, 2, STOPPED),
        (False, STOPPED, 3, STOPPED),
        (False, RUNNING, 2, STOPPING),
        (False, RUNNING, 3, STOPPING),
        (False, STARTING, 2, STOPPING),
        (False, STOPPING, 3, STOPPING),
        (False, ERROR, 2, STOPPING),
        (True, None, 0, STARTING),
        (True, STOPPED, 2, STARTING),
        (True, STOPPING, 2, STARTING),
        (True, ERROR, 2, STARTING),
        (True, RUNNING, 2, RUNNING),
        (True, RUNNING, 3, RUNNING),
        (True, STARTING, 3, STARTING),
        (True, ERROR, 3, ERROR),
        (True, STOPPED, 3, STARTING),
    ],
)
def test_a_stream_shows_what_is_wanted_against_what_is_seen(running, seen, generation, shown):
    observed = None if seen is None else said(ID, seen, generation)
    assert status_of(a_spec(running=running), observed) is shown


def test_a_file_that_has_ended_shows_as_stopped():
    ended = said(ID, STOPPED, 3, reason=Reason.ENDED)
    assert status_of(a_spec(running=True), ended) is STOPPED
    restarted = said(ID, STOPPED, 2, reason=Reason.ENDED)
    assert status_of(a_spec(running=True), restarted) is STARTING


@pytest.mark.parametrize(
    ("seen", "reason"),
    [
        (None, "NO_HEARTBEAT"),
        (said(ID, STOPPED, 3, since=LONG_AGO), "NO_HEARTBEAT"),  # handed over to nobody
        (said(ID, STOPPED, 2, since=LONG_AGO, reason=Reason.ENDED), "NO_HEARTBEAT"),
        (said(ID, ERROR, 2, since=LONG_AGO, reason=Reason.AUTH_FAILED), "NO_HEARTBEAT"),
        (said(ID, ERROR, 3, since=LONG_AGO, reason=Reason.AUTH_FAILED), "AUTH_FAILED"),
        (said(ID, RUNNING, 3, since=LONG_AGO, reason=Reason.BROKER_DOWN), "BROKER_DOWN"),
        (said(ID, RUNNING, 3, since=LONG_AGO), "NO_HEARTBEAT"),
    ],
)
def test_a_silent_stream_is_unhealthy_for_no_reason_that_is_over(seen, reason):
    observed = Observed()
    if seen is not None:
        observed.note_status(0, seen, LONG_AGO)
    health = health_answer([a_row(updated_at=LONG_AGO)], observed, now())
    (unhealthy,) = health.unhealthy
    assert (unhealthy.reason, health.status) == (reason, "unhealthy")


@pytest.mark.parametrize(
    ("seen", "topic", "over"),
    [
        (None, [], False),  # not yet: its owner may be about to begin
        (None, [ID], False),
        (said(ID, STOPPED, 2), [], True),
        (said(ID, STOPPED, 2), [ID], False),
        (said(ID, STOPPED, 1), [], False),  # of an earlier spec
        (said(ID, RUNNING, 2), [], False),
        (said(ID, RUNNING, 2, owner=None), [], True),
    ],
)
def test_a_deleted_stream_is_over_once_nothing_runs_or_says_it(seen, topic, over):
    assert is_over(a_row(deleted_at=now()), seen, topic, now()) is over


def test_an_owner_that_never_comes_back_is_not_waited_for_without_end():
    row = a_row(deleted_at=now() - NO_OWNER_AFTER - timedelta(seconds=1))
    assert is_over(row, said(ID, RUNNING, 1), [], now())
