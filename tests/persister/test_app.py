"""The process, from Kafka to Postgres and the folder of pictures, and its deaths."""

import base64
import random
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
from confluent_kafka import Consumer, TopicPartition

from schemas.messages import Outcome, Status
from schemas.tables import OUTCOME_CODES
from schemas.topics import DEAD_LETTERS, DETECTIONS, HEARTBEATS, SNAPSHOTS, STREAM_STATUS
from tests.conftest import FEW_PARTITIONS
from tests.persister.making import DOOR, GATE, YARD, heartbeat, record, snapshot, status
from tests.persister.persister_process import PersisterProcess, eventually

pytestmark = pytest.mark.usefixtures("short_session")

BARN, POND = (f"01KAN0T5D3W8Y7R2Q4V6X9Z1C{last}" for last in "AB")
OK = bytes([OUTCOME_CODES["ok"]])
NOT_OK = [outcome for outcome in Outcome if outcome is not Outcome.OK]
POISON = (
    (DETECTIONS, b"{", "NOT_JSON"),
    (DETECTIONS, b"[]", "WRONG_SHAPE"),
    (DETECTIONS, b"", "EMPTY"),
    (HEARTBEATS, b'{"streamId": 1}', "WRONG_SHAPE"),
    (HEARTBEATS, HEARTBEATS.encode(heartbeat(1)).replace(b"2026", b"9999"), "WRONG_SHAPE"),
    (DETECTIONS, DETECTIONS.encode(record(7)).replace(b"2026-", b"0001-"), "WRONG_SHAPE"),
    (STREAM_STATUS, b"\xff\xfe", "NOT_JSON"),
    (SNAPSHOTS, b"\xff\xd8", "MISSING_HEADER"),
)


def rows_of(database_url, stream_id):
    """Seq and label of each row, in order."""
    query = "SELECT seq, label FROM detections WHERE stream_id = %s ORDER BY seq, position"
    with psycopg.connect(database_url) as connection:
        return connection.execute(query, [stream_id]).fetchall()


def codes_of(database_url, stream_id):
    """Of its one epoch, up to the last that is not 0."""
    query = "SELECT codes FROM outcomes WHERE stream_id = %s ORDER BY epoch, block"
    with psycopg.connect(database_url) as connection:
        blocks = connection.execute(query, [stream_id]).fetchall()
    return b"".join(bytes(codes) for (codes,) in blocks).rstrip(b"\0")


def count(database_url, table, stream_id):
    query = f"SELECT count(*) FROM {table} WHERE stream_id = %s"
    with psycopg.connect(database_url) as connection:
        ((number,),) = connection.execute(query, [stream_id]).fetchall()
    return number


def pictures(folder: Path):
    """Whole ones: what is being written lies beside them under another name."""
    return list(folder.rglob("*.jpg"))


def dead_letters(kafka, topic_prefix):
    """All of them, with their headers."""
    consumer = Consumer({"bootstrap.servers": kafka, "group.id": "unused"})
    name = DEAD_LETTERS.named(topic_prefix)
    partitions = [TopicPartition(name, number, 0) for number in range(6)]
    left = sum(consumer.get_watermark_offsets(partition)[1] for partition in partitions)
    consumer.assign(partitions)
    messages: list[Any] = []
    while len(messages) < left:
        messages += consumer.consume(left - len(messages), 5)
    consumer.close()
    return [(DEAD_LETTERS.decode(one.value()), dict(one.headers())) for one in messages]


def unread(kafka, topic_prefix, topic):
    """How many of its messages the group has not committed."""
    name, group = topic.named(topic_prefix), f"{topic_prefix}persister"
    consumer = Consumer({"bootstrap.servers": kafka, "group.id": group})
    partitions = [TopicPartition(name, number) for number in range(FEW_PARTITIONS.data)]
    ends = [consumer.get_watermark_offsets(partition)[1] for partition in partitions]
    committed = [max(one.offset, 0) for one in consumer.committed(partitions)]
    consumer.close()
    return sum(ends) - sum(committed)


def test_what_arrives_is_stored_and_what_cannot_be_is_set_aside_once(
    kafka, topic_prefix, database_url, start_persister, send, tmp_path
):
    send(*(record(seq, "dog", "cat") for seq in range(50)), record(0, "dog", "cat"))
    send(status(Status.STARTING), status(Status.RUNNING), heartbeat(1), heartbeat(2))
    send(snapshot(3), snapshot(3), snapshot(4))
    for topic, value, _ in POISON:
        send(value, topic=topic, key=YARD.encode())
    send(record(0, "bird", stream_id=YARD))  # behind the poison, in the same partition

    process = start_persister(FRAME_STORAGE_PATH=str(tmp_path))
    eventually(process.is_ready)
    eventually(lambda: len(rows_of(database_url, DOOR)) == 100)
    eventually(lambda: rows_of(database_url, YARD) == [(0, "bird")])
    eventually(lambda: len(pictures(tmp_path)) == 2)
    eventually(lambda: count(database_url, "status_history", DOOR) == 2)
    eventually(lambda: count(database_url, "heartbeats", DOOR) == 1)
    for lane, messages in {"detections": 56, "observations": 7, "snapshots": 4}.items():
        eventually(partial(has_settled, process, lane, messages))

    letters = dead_letters(kafka, topic_prefix)
    origins = {(letter.topic, base64.b64decode(letter.payload)): letter for letter, _ in letters}
    assert len(letters) == len(origins) == len(POISON)
    for topic, value, reason in POISON:
        assert origins[topic.named(topic_prefix), value].reason == reason
    assert all("origin_traceparent" in headers for _, headers in letters)
    assert {letter.key for letter, _ in letters} == {YARD}
    eventually(lambda: process.metric("sightlog_persister_repeats_total") == 1)

    asked = time.monotonic()
    process.terminate()
    assert process.wait(30) == 0
    assert time.monotonic() - asked < 10
    assert "Traceback" not in process.log.read_text()

    again = start_persister(FRAME_STORAGE_PATH=str(tmp_path))
    eventually(again.is_ready)
    send(status(Status.STOPPED), None, topic=STREAM_STATUS, key=DOOR.encode())
    eventually(lambda: count(database_url, "statuses", DOOR) == 0)
    eventually(lambda: again.metric('sightlog_persister_messages_total{lane="observations"}') == 2)
    assert len(dead_letters(kafka, topic_prefix)) == len(POISON)


def has_settled(process, lane, messages):
    """Stored, set aside and committed."""
    metric = f'sightlog_persister_messages_total{{lane="{lane}"}}'
    return process.metric(metric) == messages


@dataclass
class Deaths:
    """What the tests of deaths work with."""

    start_persister: Callable[..., PersisterProcess]
    send: Callable[..., None]
    unread: Callable[[], int]

    def persist(self, stream_id: str, points: Sequence[str]) -> list[tuple[int, str]]:
        """Kill it at each of these points while records with repeats come in, then let it finish;
        the rows there should be."""
        chance = random.Random(len(points))
        expected: list[tuple[int, str]] = []
        for point in [*points, ""]:
            expected += self._send(stream_id, len(expected), chance)
            crash = {"SIGHTLOG_CRASH_AT": point} if point else {}
            process = self.start_persister(PERSISTER_BATCH_SIZE="25", **crash)
            if point:
                assert process.wait(60) == -signal.SIGKILL
        eventually(lambda: self.unread() == 0, 60)
        process.terminate()
        assert process.wait(30) == 0
        return expected

    def _send(self, stream_id: str, first: int, chance: random.Random) -> Iterator[tuple[int, str]]:
        for seq in range(first, first + 40):
            answer = record(seq, chance.choice(["dog", "cat"]), stream_id=stream_id)
            before = record(seq, stream_id=stream_id, outcome=chance.choice(NOT_OK))
            repeat = record(seq, "ghost", stream_id=stream_id)
            self.send(*([before] if chance.random() < 0.5 else []), answer, repeat)
            yield seq, answer.detections[0].label


DRAIN_BAR = 2000  # rows a second


@pytest.fixture
def deaths(start_persister, send, kafka, topic_prefix):
    return Deaths(start_persister, send, lambda: unread(kafka, topic_prefix, DETECTIONS))


def test_rows_are_exactly_right_after_deaths_before_and_after_their_commit(deaths, database_url):
    points = ["offsets_commit", "rows_commit:2", "offsets_commit:2"]
    expected = deaths.persist(GATE, [f"sink.before_{point}" for point in points])
    assert rows_of(database_url, GATE) == expected
    assert codes_of(database_url, GATE) == OK * len(expected)


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_rows_are_exactly_right_after_fifty_deaths_at_each_point(deaths, database_url):
    points = ["sink.before_rows_commit", "sink.before_offsets_commit"] * 50
    expected = deaths.persist(BARN, points)
    assert rows_of(database_url, BARN) == expected
    assert codes_of(database_url, BARN) == OK * len(expected)
    print(f"{len(points)} deaths, {len(expected)} rows and codes exactly right")


def test_a_backlog_drains_much_faster_than_it_grows(
    kafka, topic_prefix, database_url, start_persister, send
):
    labels = ["person"] * 5
    send(*(record(seq, *labels, stream_id=POND) for seq in range(6000)))
    begin = time.monotonic()
    start_persister()
    eventually(lambda: unread(kafka, topic_prefix, DETECTIONS) == 0)
    rate = 30_000 / (time.monotonic() - begin)
    print(f"drained {rate:.0f} rows/s, its start included (bar {DRAIN_BAR})")
    assert count(database_url, "detections", POND) == 30_000
    assert rate > DRAIN_BAR / 4  # the bar is for a quiet machine


def test_persisters_come_and_go_and_every_row_is_stored_once(
    kafka, topic_prefix, database_url, start_persister, send
):
    streams = [f"01KAN0T5D3W8Y7R2Q4V6X9Z1D{last}" for last in "ABCDEFGH"]

    def send_more(first):
        for seq in range(first, first + 100):
            send(*(record(seq, "dog", stream_id=stream_id) for stream_id in streams))

    first = start_persister()
    eventually(first.is_ready)
    send_more(0)
    second = start_persister()
    send_more(100)
    eventually(second.is_ready)
    sent = 200
    while second.metric('sightlog_persister_messages_total{lane="detections"}') <= 0:
        send_more(sent)
        sent += 100
    first.terminate()
    send_more(sent)
    assert first.wait(30) == 0
    eventually(lambda: unread(kafka, topic_prefix, DETECTIONS) == 0)
    for stream_id in streams:
        assert rows_of(database_url, stream_id) == [(seq, "dog") for seq in range(sent + 100)]
