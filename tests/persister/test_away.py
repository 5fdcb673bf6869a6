"""What a persister writes to is away: it waits, stays in its group, and catches up."""

import os
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from confluent_kafka.admin import AdminClient

from schemas.messages import Status
from schemas.tables import OUTCOME_CODES
from schemas.topics import SNAPSHOTS
from tests.persister.making import record, snapshot, status
from tests.persister.persister_process import eventually
from tests.persister.test_app import codes_of, count, pictures, rows_of, unread

pytestmark = pytest.mark.usefixtures("short_session")

LAWN, ROOF, SHED, MILL = (f"01KAN0T5D3W8Y7R2Q4V6X9Z1E{last}" for last in "ABCD")
RECORDS_PER_S = 50
LABELS = ["person"] * 5
DRAINED_TIMES_LIVE = 3
SOAK_S = 60.0
PICTURE_BYTES = 100_000


class Load:
    """A stream's records at a steady rate, in a thread of its own."""

    def __init__(self, send: Callable[..., None], stream_id: str) -> None:
        self._send, self._stream_id = send, stream_id
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.sent = 0

    def _run(self) -> None:
        began = time.monotonic()
        while not self._ended.wait(0.1):
            due = int((time.monotonic() - began) * RECORDS_PER_S)
            self._send(
                *(record(seq, *LABELS, stream_id=self._stream_id) for seq in range(self.sent, due))
            )
            self.sent = max(self.sent, due)

    def __enter__(self) -> "Load":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()


def records_stored(database_url: str, stream_id: str) -> int:
    return int(count(database_url, "detections", stream_id)) // len(LABELS)


def members(kafka: str, prefix: str) -> dict[str, set[tuple[str, int]]]:
    """Of the persisters' group, and what each holds."""
    group = f"{prefix}persister"
    admin = AdminClient({"bootstrap.servers": kafka})
    described = admin.describe_consumer_groups([group])[group].result(10)
    return {
        one.member_id: {(at.topic, at.partition) for at in one.assignment.topic_partitions}
        for one in described.members
    }


def assert_exactly(database_url: str, stream_id: str, records: int) -> None:
    expected = [(seq, label) for seq in range(records) for label in LABELS]
    assert rows_of(database_url, stream_id) == expected
    assert codes_of(database_url, stream_id) == bytes([OUTCOME_CODES["ok"]]) * records


@pytest.mark.parametrize(
    ("how", "away_s"),
    [
        ("kill", 5.0),
        pytest.param("kill", SOAK_S, marks=pytest.mark.soak),
        pytest.param("stop", SOAK_S, marks=pytest.mark.soak),
    ],
)
def test_postgres_may_go_under_load_and_come_back(
    kafka, topic_prefix, start_persister, send, *, own_postgres, own_database, how, away_s
):
    stream_id = f"{LAWN[:-2]}{how[0]}{int(away_s)}".upper()
    process = start_persister(DATABASE_URL=own_database)
    eventually(process.is_ready)
    with Load(send, stream_id) as load:
        eventually(lambda: records_stored(own_database, stream_id) > RECORDS_PER_S)
        before = members(kafka, topic_prefix)

        getattr(own_postgres, how)()
        gone = time.monotonic()
        eventually(lambda: process.metric('sightlog_persister_paused{lane="detections"}') == 1)
        assert not process.is_ready()
        time.sleep(max(0.0, gone + away_s - time.monotonic()))
        own_postgres.start_again()

        back, had = time.monotonic(), records_stored(own_database, stream_id)
        eventually(lambda: records_stored(own_database, stream_id) > had)
        flows = time.monotonic()
        eventually(lambda: load.sent - records_stored(own_database, stream_id) < RECORDS_PER_S)
        drained, now = records_stored(own_database, stream_id) - had, time.monotonic()
        ratio = drained / (now - (back if away_s == SOAK_S else flows - 0.5)) / RECORDS_PER_S
        print(
            f"{how}, {away_s:.0f} s: first rows {flows - back:.2f} s after Postgres was back,"
            f" {drained} records in {now - back:.2f} s, {ratio:.1f} times the live rate"
        )
        # A pause of a second is a fifth of a short outage's time.
        assert ratio >= (DRAINED_TIMES_LIVE if away_s == SOAK_S else DRAINED_TIMES_LIVE / 2)
        assert members(kafka, topic_prefix) == before
    eventually(lambda: records_stored(own_database, stream_id) == load.sent)
    assert_exactly(own_database, stream_id, load.sent)
    assert process.poll() is None
    assert not process.said("partitions.given_up")
    eventually(process.is_ready)
    assert lines_per_second(process.log.read_text(), "batches.stored") <= 2
    assert "Traceback" not in process.log.read_text()

    own_postgres.stop()
    send(record(load.sent, stream_id=stream_id))
    eventually(lambda: process.metric('sightlog_persister_paused{lane="detections"}') == 1)
    process.terminate()
    assert process.wait(30) == 0
    assert "Traceback" not in process.log.read_text()


def lines_per_second(log: str, event: str) -> int:
    """The most of the lane of detections in any second of the clock."""
    said = [line for line in log.splitlines() if f'"{event}"' in line and '"detections"' in line]
    seconds = [re.findall(r'"timestamp": "([^".]*)', line)[0] for line in said]
    return max(map(seconds.count, seconds), default=0)


def test_backends_that_are_ended_all_the_time_cost_no_row(start_persister, send, database_url):
    process = start_persister(PERSISTER_BATCH_SIZE="50")
    eventually(process.is_ready)
    ended, until = 0, time.monotonic() + 4
    with Load(send, ROOF) as load, psycopg.connect(database_url, autocommit=True) as connection:
        while time.monotonic() < until or ended <= 3:
            ended += len(
                connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                    " AND application_name = 'sightlog-persister'"
                ).fetchall()
            )
            time.sleep(0.02)
    print(f"{ended} backends ended")
    assert ended > 3
    eventually(lambda: records_stored(database_url, ROOF) == load.sent)
    assert_exactly(database_url, ROOF, load.sent)
    assert process.poll() is None
    assert not process.said("partitions.given_up")
    assert "Traceback" not in process.log.read_text()


@contextmanager
def in_the_way(folder: Path) -> Iterator[None]:
    """There is a file instead of the folder."""
    folder.write_bytes(b"in the way")
    yield
    folder.unlink()


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[None]:
    if os.geteuid() != 0:
        pytest.skip("only root may mount")
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], check=False)
    if made.returncode != 0:
        pytest.skip("nothing can be mounted here")
    subprocess.run(["mount", "-o", f"remount,{options}", folder], check=True)
    yield
    subprocess.run(["mount", "-o", "remount,rw,size=16m", folder], check=True)


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    with mounted(folder, "ro"):
        yield


@contextmanager
def full(folder: Path) -> Iterator[None]:
    with mounted(folder, "rw"):
        yield


@contextmanager
def unwritable(folder: Path) -> Iterator[None]:
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    folder.mkdir(mode=0o555)
    yield
    folder.chmod(0o755)


@pytest.fixture
def frames(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "frames"
    yield folder
    if folder.is_mount():
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.parametrize("away_s", [0.0, pytest.param(SOAK_S, marks=pytest.mark.soak)])
@pytest.mark.parametrize("why", [in_the_way, read_only, unwritable, full])
def test_rows_flow_while_pictures_wait(
    kafka, topic_prefix, database_url, start_persister, send, *, frames, why, away_s
):
    stream_id = f"{SHED[:-6]}{why.__name__[:4]}{int(away_s):02}".upper().replace("_", "0")
    shown = [snapshot(seq, stream_id=stream_id, jpeg=picture(seq)) for seq in range(20)]
    whole = {one.jpeg for one in shown}
    with why(frames):
        process = start_persister(FRAME_STORAGE_PATH=str(frames))
        eventually(process.is_ready)
        send(*shown)
        eventually(lambda: process.metric('sightlog_persister_paused{lane="snapshots"}') == 1)
        with Load(send, stream_id) as load:
            ends = time.monotonic() + away_s
            eventually(lambda: records_stored(database_url, stream_id) > 0)
            while time.monotonic() < ends:
                time.sleep(1)
                behind = load.sent - records_stored(database_url, stream_id)
                assert behind < 4 * RECORDS_PER_S
        send(status(Status.RUNNING, stream_id=stream_id))
        eventually(lambda: count(database_url, "statuses", stream_id) == 1)
        eventually(lambda: records_stored(database_url, stream_id) == load.sent)
        assert unread(kafka, topic_prefix, SNAPSHOTS) >= 20 - len(pictures(frames))
        assert process.metric('sightlog_persister_paused{lane="snapshots"}') == 1
        if frames.is_dir():
            assert {path.read_bytes() for path in pictures(frames)} < whole
            assert len(pictures(frames)) == (10 if why is full else 0)

    eventually(lambda: unread(kafka, topic_prefix, SNAPSHOTS) == 0)
    assert len(pictures(frames)) == 20
    assert {path.read_bytes() for path in pictures(frames)} == whole
    assert process.metric('sightlog_persister_paused{lane="snapshots"}') == 0
    assert not process.said("partitions.given_up")
    process.terminate()
    assert process.wait(30) == 0
    assert "Traceback" not in process.log.read_text()


def picture(seq: int) -> bytes:
    return b"\xff\xd8\xff" + seq.to_bytes(2, "big") * (PICTURE_BYTES // 2) + b"\xff\xd9"
