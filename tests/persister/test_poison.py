"""Every poison on every topic that is read: one letter each, and nothing else changes."""

import json
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any
from uuid import UUID

import psycopg
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from schemas.messages import Event, Instance, Phase, Status
from schemas.topics import (
    DETECTIONS,
    EVENTS,
    HEARTBEATS,
    INSTANCES,
    SNAPSHOTS,
    STREAM_STATUS,
    Header,
    Topic,
)
from tests.persister.making import DOOR, NOON, YARD, heartbeat, record, snapshot, status
from tests.persister.persister_process import eventually
from tests.persister.test_app import dead_letters, pictures, rows_of

pytestmark = pytest.mark.usefixtures("short_session")

MOVES_ON_WITHIN_S = 1.0
DAY_MS = 24 * 3_600_000
KEY = YARD.encode()
TWENTY_MB = 20_000_000
EVENT = Event(
    event_id=UUID(int=1),
    revision=0,
    kind="stream.down",
    phase=Phase.NEW,
    stream_id=YARD,
    started_at=NOON,
)
INSTANCE = Instance(instance=YARD, service="test", version="1", started_at=NOON, at=NOON)
GOOD: dict[Topic[Any], Any] = {
    DETECTIONS: record(0, "dog", stream_id=YARD),
    STREAM_STATUS: status(Status.RUNNING, stream_id=YARD),
    HEARTBEATS: heartbeat(1, stream_id=YARD),
    EVENTS: EVENT,
    INSTANCES: INSTANCE,
    SNAPSHOTS: snapshot(0, stream_id=YARD),
}
NOT_NUMBERS: dict[Topic[Any], str] = {
    DETECTIONS: "frame.seq",
    STREAM_STATUS: "attempt",
    HEARTBEATS: "windowS",
    EVENTS: "revision",
    INSTANCES: "capacity",
}
TEXTS: dict[Topic[Any], str] = {EVENTS: "kind", INSTANCES: "service"}


@dataclass(frozen=True)
class Poison:
    reason: str
    value: bytes | None
    key: bytes | None = KEY
    headers: Sequence[Header] = ()


def of_json(topic: Topic[Any]) -> list[Poison]:
    good = topic.encode(GOOD[topic])
    number = NOT_NUMBERS[topic]
    common = [
        Poison("EMPTY", b""),
        Poison("EMPTY", None, b"\xff" if topic is STREAM_STATUS else KEY),
        Poison("NOT_JSON", good[:-9]),
        Poison("NOT_JSON", b"\xff\xd8\xff\xe0 a picture \xff\xd9"),
        Poison("NOT_JSON", changed(good, number, "NaN")),
        Poison("NOT_JSON", changed(good, TEXTS.get(topic, "streamId"), b'"\xff\xfe"')),
        Poison("NOT_JSON", changed(good, "unknown", "[" * 100_000 + "]" * 100_000)),
        Poison("WRONG_SHAPE", b"[]"),
        Poison("WRONG_SHAPE", b"null"),
        Poison("WRONG_SHAPE", changed(good, number, '"many"')),
        Poison("WRONG_SHAPE", changed(good, number, "1e400")),
        Poison("WRONG_SHAPE", changed(good, number, "9" * 5000)),
        Poison("TOO_LARGE", good + b" " * TWENTY_MB),
        Poison("WRONG_KEY", good, DOOR.encode()),
    ]
    return common if topic is STREAM_STATUS else [*common, Poison("WRONG_KEY", good, None)]


def changed(good: bytes, path: str, to: str | bytes) -> bytes:
    """The message with other JSON at a place in it, which need not be JSON at all."""
    whole = json.loads(good)
    place, _, name = path.rpartition(".")
    (whole[place] if place else whole)[name] = "HERE"
    return json.dumps(whole).encode().replace(b'"HERE"', to.encode() if isinstance(to, str) else to)


def labelled(label: str) -> bytes:
    return DETECTIONS.encode(record(1, label, stream_id=YARD))


def boxes(number: int) -> bytes:
    whole = labelled("dog")
    begin, box, end = whole.partition(b'"detections":[')
    return begin + box + b",".join([end[:-2]] * number) + b"]}"


def of_pictures() -> list[Poison]:
    good = GOOD[SNAPSHOTS]
    facts = SNAPSHOTS.headers(good, "sightlog/test/1", "")

    def but(**other: bytes | None) -> list[Header]:
        """With another value of a header, or without it."""
        kept = [(name, other.get(name, value)) for name, value in facts]
        return [(name, value) for name, value in kept if value is not None]

    return [
        Poison("EMPTY", b"", headers=facts),
        Poison("EMPTY", None, headers=facts),
        Poison("MISSING_HEADER", good.jpeg),
        Poison("MISSING_HEADER", good.jpeg, headers=but(frameid=None)),
        Poison("MISSING_HEADER", good.jpeg, headers=but(ce_subject=b"\xff\xfe")),
        Poison("WRONG_SHAPE", good.jpeg, headers=but(ce_time=b"yesterday")),
        Poison("WRONG_SHAPE", good.jpeg, headers=but(ce_time=b"9999-01-01T00:00:00.1Z")),
        Poison("WRONG_PATH", good.jpeg, headers=but(path=b"../../etc/passwd")),
        Poison("NOT_JPEG", b"GIF89a", headers=facts),
        Poison("NOT_JPEG", good.jpeg[:-2], headers=facts),
        Poison("TOO_LARGE", good.jpeg + b" " * TWENTY_MB, headers=facts),
        Poison("WRONG_KEY", good.jpeg, DOOR.encode(), facts),
        Poison("WRONG_KEY", good.jpeg, None, facts),
    ]


LONG = "".join(random.Random(1).choices("abcdefghijklmnopqrstuvwxyz0123456789", k=9000))
NUL = '"\\u0000"'
STATUS = STREAM_STATUS.encode(GOOD[STREAM_STATUS])
HEARTBEAT = HEARTBEATS.encode(heartbeat(2, stream_id=YARD))
AHEAD = str(int(time.time() * 1000) + 400 * DAY_MS)
POISONS: dict[Topic[Any], list[Poison]] = {
    DETECTIONS: [
        *of_json(DETECTIONS),
        Poison("TOO_LARGE", boxes(100_000)),
        Poison("ROW_REFUSED", labelled("nul \0")),
        Poison("ROW_REFUSED", labelled(LONG)),
    ],
    STREAM_STATUS: [
        *of_json(STREAM_STATUS),
        Poison("ROW_REFUSED", changed(STATUS, "hint", NUL)),
        Poison("ROW_REFUSED", None, b"nul \0"),
        Poison("EPOCH_IMPLAUSIBLE", changed(STATUS, "epoch", AHEAD)),
    ],
    HEARTBEATS: [
        *of_json(HEARTBEATS),
        Poison("ROW_REFUSED", changed(HEARTBEAT, "health", NUL)),
        Poison("EPOCH_IMPLAUSIBLE", changed(HEARTBEAT, "epoch", AHEAD)),
    ],
    EVENTS: of_json(EVENTS),
    INSTANCES: of_json(INSTANCES),
    SNAPSHOTS: of_pictures(),
}


class Poisoner:
    """Sends to partition 0 of each topic, as no producer of ours could."""

    def __init__(self, kafka: str, prefix: str) -> None:
        self._prefix = prefix
        self._producer = Producer(
            {
                "bootstrap.servers": kafka,
                "message.max.bytes": 100_000_000,
                "compression.type": "zstd",  # a broker bounds what is compressed
                "log_level": 0,
            }
        )
        group = {"bootstrap.servers": kafka, "group.id": f"{prefix}persister"}
        self._group = Consumer(group | {"log_level": 0})
        self.sent: dict[tuple[str, int], str] = {}  # reasons by topic and offset

    def send(self, topic: Topic[Any], poisons: Sequence[Poison]) -> None:
        """All of them, and behind them what is none."""
        name, good = topic.named(self._prefix), GOOD[topic]
        for one in poisons:
            self._produce(name, one.value, one.key, one.headers, one.reason)
        headers = topic.headers(good, "sightlog/test/1", "")
        self._produce(name, topic.encode(good), topic.key(good), headers, None)
        assert self._producer.flush(30) == 0

    def _produce(
        self,
        name: str,
        value: bytes | None,
        key: bytes | None,
        headers: Sequence[Header],
        reason: str | None,
    ) -> None:
        def note(error: Any, message: Any) -> None:
            assert error is None, error
            if reason is not None:
                self.sent[name, message.offset()] = reason

        self._producer.produce(
            name, value, key, partition=0, headers=list(headers), on_delivery=note
        )

    def is_behind(self, topic: Topic[Any]) -> bool:
        """Whether the group committed all of it."""
        partition = TopicPartition(topic.named(self._prefix), 0)
        (committed,) = self._group.committed([partition], timeout=10)
        return bool(committed.offset == self._group.get_watermark_offsets(partition)[1])

    def close(self) -> None:
        self._group.close()


@pytest.fixture
def poisoner(kafka, topic_prefix):
    made = Poisoner(kafka, topic_prefix)
    yield made
    made.close()


def stored(database_url) -> dict[str, int]:
    """How many rows each table has."""
    tables = ("detections", "outcomes", "statuses", "status_history", "heartbeats")
    with psycopg.connect(database_url) as connection:
        counts = {name: connection.execute(f"SELECT count(*) FROM {name}") for name in tables}
        return {name: count.fetchall()[0][0] for name, count in counts.items()}


@pytest.fixture
def all_letters(kafka, topic_prefix) -> Callable[[], list[Any]]:
    return lambda: [
        (letter, headers)
        for letter, headers in dead_letters(kafka, topic_prefix)
        if letter.topic.startswith(topic_prefix)
    ]


def test_each_poison_has_one_letter_and_what_is_behind_it_is_stored(
    topic_prefix, database_url, start_persister, poisoner, all_letters, tmp_path
):
    process = start_persister(FRAME_STORAGE_PATH=str(tmp_path))
    eventually(process.is_ready)
    took_s = []
    for topic, poisons in POISONS.items():
        poisoner.send(topic, poisons)
        sent = time.monotonic()
        eventually(partial(poisoner.is_behind, topic))
        took_s.append(time.monotonic() - sent)
        print(f"{topic.name}: {len(poisons)} poisons passed in {took_s[-1]:.2f} s")
    assert median(took_s) < 4 * MOVES_ON_WITHIN_S

    letters = all_letters()
    assert {(one.topic, one.offset): one.reason for one, _ in letters} == poisoner.sent
    assert len(letters) == len(poisoner.sent) == sum(map(len, POISONS.values()))
    for letter, headers in letters:
        assert headers["ce_id"].decode() == f"{letter.topic}/0/{letter.offset}"
        assert (letter.partition, letter.service) == (0, "persister")
        assert letter.error
    of_snapshots = Counter(
        "origin_path" in headers for letter, headers in letters if "snapshots" in letter.topic
    )
    assert of_snapshots[True] == len(POISONS[SNAPSHOTS]) - 1
    assert stored(database_url) == dict.fromkeys(stored(database_url), 1)
    assert rows_of(database_url, YARD) == [(0, "dog")]
    assert [path.read_bytes() for path in pictures(tmp_path)] == [GOOD[SNAPSHOTS].jpeg]
    assert process.poll() is None
    assert "Traceback" not in process.log.read_text()


def test_a_death_between_letter_and_commit_repeats_the_letter_under_its_id(
    start_persister, poisoner, all_letters
):
    poisoner.send(DETECTIONS, [Poison("NOT_JSON", b"{{{")])
    ((topic, offset),) = poisoner.sent
    process = start_persister(SIGHTLOG_CRASH_AT="sink.before_offsets_commit")
    assert process.wait(60) == -signal.SIGKILL
    process = start_persister()
    eventually(lambda: poisoner.is_behind(DETECTIONS))
    process.terminate()
    assert process.wait(30) == 0
    ids = [headers["ce_id"].decode() for _, headers in all_letters()]
    assert ids.count(f"{topic}/0/{offset}") == 2
