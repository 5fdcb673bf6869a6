"""Checkpoints of the ledger: of each minute the last, whatever comes again and in which order."""

from datetime import timedelta
from itertools import permutations

import pytest
from msgspec.structs import replace
from sqlalchemy import select, text

from schemas.messages import Dropped, Ledger
from schemas.tables import ledgers
from services.persister.checkpoint import KEPT, prune
from tests.persister.making import DOOR, EPOCH, NOON, YARD, arrivals, heartbeat


@pytest.fixture(autouse=True)
def empty(engine):
    with engine.begin() as connection:
        connection.execute(text("TRUNCATE ledgers"))


def at(second, published, **more):
    said = heartbeat(0, **more)
    moment = said.at + timedelta(seconds=second)
    return replace(said, at=moment, totals=Ledger(captured=published, published=published))


def stored(engine):
    """Stream, epoch, seconds after noon and the published of each, oldest first."""
    columns = ledgers.c
    query = select(columns.stream_id, columns.epoch, columns.at, columns.published)
    with engine.connect() as connection:
        rows = connection.execute(query.order_by(columns.stream_id, columns.epoch, columns.at))
        return [(s, e, round((when - NOON).total_seconds()), p) for s, e, when, p in rows]


def test_the_whole_ledger_of_the_epoch_is_kept(engine, rows):
    totals = Ledger(
        captured=20, published=11, undetected=2, pending=4, dropped=Dropped(fps_limit=3, idle=2)
    )
    rows.store(arrivals(replace(heartbeat(3), totals=totals)))
    with engine.connect() as connection:
        (row,) = connection.execute(select(ledgers)).mappings()
    assert dict(row) == {
        **{"stream_id": DOOR, "epoch": EPOCH, "minute": heartbeat(3).at.replace(microsecond=0)},
        **{"at": heartbeat(3).at, "captured": 20, "published": 11, "undetected": 2, "pending": 4},
        "dropped": {"fpsLimit": 3, "idle": 2},
    }


def test_of_each_minute_the_last_is_kept_in_whatever_order_they_come(engine, rows):
    for order in permutations([at(0, 1), at(50, 6), at(10, 2), at(70, 8)]):
        rows.store(arrivals(*order[:2]))
        rows.store(arrivals(*order[2:]))
        rows.store(arrivals(*order[:2]))
        assert stored(engine) == [(DOOR, EPOCH, 50, 6), (DOOR, EPOCH, 70, 8)]
        with engine.begin() as connection:
            connection.execute(text("TRUNCATE ledgers"))


def test_each_epoch_of_each_stream_has_its_own(engine, rows):
    rows.store(arrivals(at(0, 1), at(5, 2, epoch=EPOCH + 9), at(5, 3, stream_id=YARD)))
    assert stored(engine) == [(DOOR, EPOCH, 0, 1), (DOOR, EPOCH + 9, 5, 2), (YARD, EPOCH, 5, 3)]


def test_they_have_their_time(engine, rows):
    rows.store(arrivals(at(0, 1), at(60, 2), at(120, 3)))
    with engine.begin() as connection:
        assert prune(connection, NOON + KEPT + timedelta(seconds=61)) == 2
        assert prune(connection, NOON + KEPT + timedelta(seconds=61)) == 0
    assert stored(engine) == [(DOOR, EPOCH, 120, 3)]


def test_the_persister_removes_old_ones_by_itself(engine, rows):
    rows.store(arrivals(replace(at(0, 1), at=NOON - 2 * KEPT)))
    rows._prune_from = 0.0  # as after an hour
    rows.store(arrivals(at(0, 2)))
    assert stored(engine) == [(DOOR, EPOCH, 0, 2)]


def test_a_number_beyond_all_is_refused_alone(engine, rows):
    beyond = replace(at(1, 1), totals=Ledger(captured=2**63, published=0))
    (refusal,) = rows.store(arrivals(at(0, 1, stream_id=YARD), beyond))
    assert refusal.reason == "ROW_REFUSED"
    assert stored(engine) == [(YARD, EPOCH, 0, 1)]
