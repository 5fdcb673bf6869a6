"""What is dropped: all that still comes of a stream whose data is to be gone."""

from collections.abc import Iterator

import pytest
from prometheus_client import REGISTRY
from sqlalchemy import Engine, Table, insert, select, text

from schemas.messages import Status, now
from schemas.tables import detections, heartbeats, outcomes, status_history, statuses, streams
from services.persister.app import Pictures
from services.persister.database import DatabaseAway, open_engine
from services.persister.keep import open_folder
from tests.persister.making import (
    DOOR,
    GATE,
    YARD,
    arrivals,
    heartbeat,
    record,
    snapshot,
    status,
    tombstone,
)

TABLES = (detections, outcomes, statuses, status_history, heartbeats)


@pytest.fixture(autouse=True)
def empty(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text(f"TRUNCATE streams, {', '.join(table.name for table in TABLES)}"))


@pytest.fixture
def dropped() -> Iterator[list[float]]:
    """How many there were, once the test is over."""
    sample = "sightlog_persister_skipped_records_total", {"reason": "purged"}
    before = REGISTRY.get_sample_value(*sample) or 0
    expected: list[float] = []
    yield expected
    assert [(REGISTRY.get_sample_value(*sample) or 0) - before] == expected


def delete(engine: Engine, stream_id: str, *, purge: bool) -> None:
    values = {
        "id": stream_id,
        "name": "",
        "url": "",
        "fps": 5,
        "detection_enabled": True,
        "max_frame_age_ms": 2000,
        "slot": 0,
        "generation": 2,
        **dict.fromkeys(("created_at", "updated_at", "deleted_at"), now()),
        "purge": purge,
    }
    with engine.begin() as connection:
        connection.execute(insert(streams).values(values))


def known(engine: Engine, table: Table) -> set[str]:
    with engine.connect() as connection:
        return set(connection.scalars(select(table.c.stream_id)))


def test_records_statuses_and_heartbeats_of_a_purged_stream_are_dropped(engine, rows, dropped):
    delete(engine, DOOR, purge=True)
    delete(engine, GATE, purge=False)
    for stream_id in (DOOR, GATE, YARD):
        said = status(Status.RUNNING, stream_id=stream_id)
        batch = arrivals(
            record(0, "dog", stream_id=stream_id), said, heartbeat(1, stream_id=stream_id)
        )
        assert rows.store(batch) == []
    for table in TABLES:
        assert known(engine, table) == {GATE, YARD}
    dropped.append(3)


def test_a_tombstone_of_a_purged_stream_still_takes_its_status_away(engine, rows, dropped):
    rows.store(arrivals(status(Status.RUNNING)))
    delete(engine, DOOR, purge=True)
    rows.store([tombstone(DOOR, 1)])
    assert known(engine, statuses) == set()
    dropped.append(0)


def test_pictures_of_a_purged_stream_are_dropped(engine, tmp_path, dropped):
    delete(engine, DOOR, purge=True)
    pictures = Pictures(lambda: open_folder(tmp_path), engine)
    foreign = snapshot(2, stream_id="nul \x00")
    refusals = pictures.store(arrivals(snapshot(1), snapshot(1, stream_id=YARD), foreign))
    assert [refusal.reason for refusal in refusals] == ["WRONG_PATH"]
    assert [path.name for path in tmp_path.iterdir()] == [YARD]
    dropped.append(1)


def test_pictures_wait_where_nobody_can_say_which_streams_are_purged(tmp_path):
    pictures = Pictures(lambda: open_folder(tmp_path), open_engine("postgresql://127.0.0.1:1/none"))
    with pytest.raises(DatabaseAway):
        pictures.store(arrivals(snapshot(1)))
    assert list(tmp_path.iterdir()) == []
