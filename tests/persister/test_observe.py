"""The newest status and heartbeat of each stream, and the transitions between statuses."""

from dataclasses import replace

import pytest
from sqlalchemy import select, text

from schemas.messages import Reason, SourceFacts, Status
from schemas.tables import heartbeats, status_history, statuses
from schemas.topics import HEARTBEATS
from services.persister.decode import decode
from tests.persister.making import (
    DOOR,
    EPOCH,
    PREFIX,
    YARD,
    arrival,
    arrivals,
    heartbeat,
    status,
    tombstone,
)


@pytest.fixture(autouse=True)
def empty(engine):
    with engine.begin() as connection:
        connection.execute(text("TRUNCATE statuses, status_history, heartbeats"))


def newest(engine):
    query = select(statuses.c.stream_id, statuses.c.status).order_by(statuses.c.stream_id)
    with engine.connect() as connection:
        return {row.stream_id: row.status for row in connection.execute(query)}


def history(engine):
    """Partition, offset and status, oldest first."""
    columns = status_history.c
    query = select(columns.topic_partition, columns.topic_offset, columns.status)
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(query.order_by(*query.selected_columns))]


def test_the_newest_status_is_kept_whole(engine, rows):
    said = status(
        Status.ERROR,
        minute=3,
        reason=Reason.AUTH_FAILED,
        hint="Check the password.",
        attempt=4,
        endpoint="http://127.0.0.1:9101",
        owner="ingestor-1",
        observed_generation=2,
        source=SourceFacts(codec="h264", width=1920, height=1080),
    )
    rows.store(arrivals(status(Status.STARTING), said))
    with engine.connect() as connection:
        (row,) = connection.execute(select(statuses)).mappings()
    assert dict(row) == {
        "stream_id": DOOR,
        "status": "ERROR",
        "reason": "AUTH_FAILED",
        "message": None,
        "hint": "Check the password.",
        "since": said.since,
        "attempt": 4,
        "next_retry_at": None,
        "owner": "ingestor-1",
        "endpoint": "http://127.0.0.1:9101",
        "epoch": EPOCH,
        "observed_generation": 2,
        "source": {"codec": "h264", "width": 1920, "height": 1080, "fps": None},
        "topic_partition": 0,
        "topic_offset": 1,
    }


def test_an_older_offset_of_the_same_partition_never_replaces_a_newer(engine, rows):
    rows.store(arrivals(status(Status.RUNNING, minute=1), first=5))
    rows.store(arrivals(status(Status.STARTING, minute=9), first=4))
    assert newest(engine) == {DOOR: "RUNNING"}


def test_between_partitions_the_higher_epoch_wins_then_the_later_since(engine, rows):
    rows.store(arrivals(status(Status.RUNNING, epoch=EPOCH + 1), first=5, partition=1))
    rows.store(arrivals(status(Status.STOPPED, minute=9), first=99, partition=0))
    assert newest(engine) == {DOOR: "RUNNING"}
    rows.store(arrivals(status(Status.ERROR, epoch=EPOCH + 1, minute=1), first=1, partition=2))
    assert newest(engine) == {DOOR: "ERROR"}


@pytest.mark.parametrize("partition", [0, 1])
def test_an_owner_overtakes_a_forged_epoch_by_the_higher_one_it_mints(engine, rows, partition):
    forged = EPOCH + 23 * 3_600_000
    rows.store(arrivals(status(Status.ERROR, epoch=forged, minute=99), first=5))
    rows.store(arrivals(heartbeat(99, epoch=forged)))
    owner = status(Status.RUNNING, epoch=forged + 1)
    rows.store(arrivals(owner, first=6, partition=partition))
    rows.store(arrivals(heartbeat(1, epoch=forged + 1), first=1))
    assert newest(engine) == {DOOR: "RUNNING"}
    with engine.connect() as connection:
        assert connection.scalar(select(heartbeats.c.epoch)) == forged + 1


def test_a_republished_status_is_no_transition(engine, rows):
    running = status(Status.RUNNING, owner="a", reason=Reason.BROKER_DOWN)
    again = status(Status.RUNNING, owner="a", reason=Reason.BROKER_DOWN, attempt=2)
    rows.store(arrivals(status(Status.STARTING), running, running))
    rows.store(arrivals(again, status(Status.STOPPED), first=3))
    assert history(engine) == [(0, 0, "STARTING"), (0, 1, "RUNNING"), (0, 4, "STOPPED")]


@pytest.mark.parametrize("again_from", range(5))
def test_statuses_folded_in_again_from_anywhere_change_nothing(engine, rows, again_from):
    log = arrivals(
        status(Status.STARTING),
        status(Status.RUNNING),
        status(Status.RUNNING),
        status(Status.ERROR),
        status(Status.ERROR, stream_id=YARD),
    )
    rows.store(log)
    before = history(engine), newest(engine)
    for one in log[again_from:]:
        rows.store([one])
    assert (history(engine), newest(engine)) == before


def test_a_tombstone_takes_the_status_of_its_own_partition_away(engine, rows):
    rows.store([*arrivals(status(Status.STOPPED), status(Status.RUNNING, stream_id=YARD))])
    rows.store([tombstone(YARD, 7, partition=3), tombstone(DOOR, 2)])
    assert newest(engine) == {YARD: "RUNNING"}
    assert len(history(engine)) == 2


def test_a_stream_that_comes_back_after_its_tombstone_has_a_status_again(engine, rows):
    rows.store([*arrivals(status(Status.STOPPED)), tombstone(DOOR, 1)])
    rows.store(arrivals(status(Status.STARTING), first=2))
    assert newest(engine) == {DOOR: "STARTING"}


def test_the_newest_heartbeat_of_a_stream_is_kept_as_it_was_sent(engine, rows):
    rows.store(arrivals(heartbeat(2), heartbeat(3), heartbeat(1, epoch=EPOCH - 1)))
    rows.store(arrivals(heartbeat(1), heartbeat(9, epoch=EPOCH - 1), first=3))
    with engine.connect() as connection:
        (row,) = connection.execute(select(heartbeats)).mappings()
    assert (row["stream_id"], row["epoch"], row["at"]) == (DOOR, EPOCH, heartbeat(3).at)
    assert row["value"]["totals"]["captured"] == 3
    assert row["value"]["windowS"] == 10


@pytest.mark.parametrize("unknown", [b"1e400", b"9" * 5000, b'"\xff"', b'"\\u0000"'])
def test_what_a_heartbeat_says_that_is_not_known_is_left_out(engine, rows, unknown):
    value = HEARTBEATS.encode(heartbeat(3))[:-1] + b',"unknown":' + unknown + b"}"
    ((one,), refusals) = decode(
        [replace(arrival(heartbeat(3)).origin, value=value)],
        {HEARTBEATS.named(PREFIX): HEARTBEATS},
    )
    assert rows.store([one]) == refusals == []
    with engine.connect() as connection:
        assert "unknown" not in connection.scalar(select(heartbeats.c.value))
