"""SIGTERM, whatever the persister waits for: status 0 within ten seconds, and nothing lost."""

import time

import psycopg
import pytest

from schemas.tables import OUTCOME_CODES
from tests.persister.conftest import sender
from tests.persister.making import record, snapshot
from tests.persister.persister_process import PersisterProcess, eventually
from tests.persister.test_app import codes_of, pictures, rows_of

pytestmark = pytest.mark.usefixtures("short_session")

HALL, DOCK = (f"01KAN0T5D3W8Y7R2Q4V6X9Z1F{last}" for last in "AB")
WITHIN_S = 10.0


def stop(process: PersisterProcess) -> None:
    asked = time.monotonic()
    process.terminate()
    assert process.wait(4 * WITHIN_S) == 0
    took = time.monotonic() - asked
    print(f"ended {took:.1f} s after SIGTERM")
    assert took < 2 * WITHIN_S  # the bar is for a quiet machine
    assert "Traceback" not in process.log.read_text()


def assert_exactly(database_url: str, stream_id: str, records: int) -> None:
    assert rows_of(database_url, stream_id) == [(seq, "dog") for seq in range(records)]
    assert codes_of(database_url, stream_id) == bytes([OUTCOME_CODES["ok"]]) * records


def test_a_batch_that_takes_long_is_left_to_the_next_persister(start_persister, send, database_url):
    process = start_persister()
    eventually(process.is_ready)
    with psycopg.connect(database_url) as connection:
        connection.execute("LOCK TABLE outcomes IN ACCESS EXCLUSIVE MODE")
        send(*(record(seq, "dog", stream_id=HALL) for seq in range(3000)))
        waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        eventually(lambda: connection.execute(waits).fetchall() != [(0,)])
        stop(process)
    start_persister()
    eventually(lambda: len(rows_of(database_url, HALL)) == 3000)
    assert_exactly(database_url, HALL, 3000)


def test_what_came_before_the_broker_went_is_stored_once(
    start_persister, own_kafka, database_url, tmp_path
):
    own = {
        "KAFKA_BOOTSTRAP_SERVERS": own_kafka.part.bootstrap_servers,
        "SIGHTLOG_TOPIC_PREFIX": "own.",
        "FRAME_STORAGE_PATH": str(tmp_path / "frames"),
    }
    send = sender(own_kafka.part.bootstrap_servers, "own.")
    process = start_persister(**own)
    eventually(process.is_ready)
    send(*(record(seq, "dog", stream_id=DOCK) for seq in range(500)), snapshot(1, stream_id=DOCK))
    eventually(lambda: len(rows_of(database_url, DOCK)) > 0)
    own_kafka.kill()
    eventually(lambda: "Connection refused" in process.log.read_text())
    stop(process)
    own_kafka.start_again()
    start_persister(**own)
    eventually(lambda: len(rows_of(database_url, DOCK)) == 500)
    assert_exactly(database_url, DOCK, 500)
    eventually(lambda: len(pictures(tmp_path / "frames")) == 1)
