"""Day partitions, made while rows come in and by several at once."""

import threading
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta

from sqlalchemy import text

from services.persister.app import Rows
from services.persister.arrival import Refusal
from services.persister.database import DatabaseAway, transaction
from services.persister.partition import make_days
from tests.persister.making import NOON, arrivals, record
from tests.persister.persister_process import eventually

DAY = date(2031, 5, 17)


def make(engine, today):
    with transaction(engine) as connection:
        return make_days(connection, today)


def in_default(engine):
    with engine.connect() as connection:
        return connection.scalar(text("SELECT count(*) FROM ONLY detections_default"))


def stored_in_the_end(rows, batch):
    """As a lane of the persister does it; returns what was refused."""
    for _ in range(100):
        with suppress(DatabaseAway):
            return rows.store(batch)
    raise AssertionError("Postgres was away a hundred times")


def test_a_row_of_these_days_lies_in_the_partition_of_its_day(engine, rows):
    now = datetime.now(UTC).replace(microsecond=1)
    rows.store(arrivals(record(0, "dog", at=now), record(1, "dog", at=now + timedelta(days=2))))
    with engine.connect() as connection:
        parts = connection.execute(text("SELECT tableoid::regclass::text FROM detections")).all()
    days = (now, now + timedelta(days=2))
    assert sorted(parts) == [(f"detections_{day:%Y%m%d}",) for day in days]


def test_days_are_made_once(engine):
    assert make(engine, DAY) == [f"detections_203105{day}" for day in (16, 17, 18, 19)]
    assert make(engine, DAY) == []
    assert make(engine, DAY + timedelta(days=1)) == ["detections_20310520"]


def test_rows_that_lie_in_the_default_partition_move_to_their_day(engine, rows):
    early = datetime(2032, 3, 1, tzinfo=UTC)
    rows.store(arrivals(record(10, "dog", at=early), record(11, "cat", at=NOON + timedelta(9999))))
    assert in_default(engine) == 2
    make(engine, date(2032, 3, 1))
    assert in_default(engine) == 1
    with engine.connect() as connection:
        moved = connection.scalar(text("SELECT count(*) FROM ONLY detections_20320301"))
    assert moved == 1


def test_several_make_the_same_days_while_rows_are_written(engine):
    """At the one moment when all of them see that a day begins."""
    today = date(2033, 1, 1)
    made: list[str] = []
    noon = datetime(2033, 1, 1, 12, tzinfo=UTC)
    batch = arrivals(*(record(seq, "dog", epoch=7, at=noon) for seq in range(200)))
    workers = [
        threading.Thread(target=lambda: made.extend(make(engine, today))),
        threading.Thread(target=lambda: made.extend(make(engine, today))),
        threading.Thread(target=lambda: stored_in_the_end(Rows(engine), batch)),
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(made) == 4
    with engine.connect() as connection:
        stored = connection.scalar(text("SELECT count(*) FROM detections WHERE epoch = 7"))
    assert stored == 200


def test_a_row_that_waited_for_its_day_is_no_wrong_row(engine):
    """It was on its way into the default partition when that lost the day."""
    rows, noon = Rows(engine), datetime(2034, 6, 1, 12, tzinfo=UTC)
    rows.store(arrivals(record(0, "dog", epoch=8, at=NOON)))  # made its own days
    refused: list[Refusal] = []
    late = arrivals(record(1, "dog", epoch=8, at=noon))
    writer = threading.Thread(target=lambda: refused.extend(stored_in_the_end(rows, late)))
    with transaction(engine) as connection:
        make_days(connection, noon.date())
        writer.start()
        eventually(lambda: waits_for_default(engine))
    writer.join(10)
    assert refused == []
    with engine.connect() as connection:
        stored = text("SELECT count(*) FROM ONLY detections_20340601")
        assert connection.scalar(stored) == 1


def waits_for_default(engine):
    query = text(
        "SELECT count(*) FROM pg_locks"
        " WHERE NOT granted AND relation = 'detections_default'::regclass"
    )
    with engine.connect() as connection:
        return connection.scalar(query) > 0
