"""Puts poison into every topic of a running stack, something sound behind it, and watches."""

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

import psycopg
from confluent_kafka import KafkaError, Message, Producer

from deploy.local.streams import call
from schemas.messages import DeadLetter, DetectionRecord, now, unix_us
from schemas.topics import (
    DEAD_LETTERS,
    DETECTIONS,
    FRAMES,
    HEARTBEATS,
    LARGEST_MESSAGE,
    PRODUCER,
    SNAPSHOTS,
    STREAM_STATUS,
    STREAMS,
    TOPICS,
    Topic,
)
from tests.ai.walk import jpegs
from tests.pipeline.poisons import BadPicture, Poison, Strangers, bad_pictures, of_jpeg, of_json
from tests.pipeline.seen import Reader, headers_of, streams_of
from tests.stack import RunningStack, eventually

READ: tuple[Topic[Any], ...] = tuple(topic for topic in TOPICS if topic is not DEAD_LETTERS)
EXAMPLES = Path(__file__).parents[2] / "schemas" / "examples"
GIVEN_UP_S = 20.0

Headers = Mapping[str, bytes]
Place = tuple[str, int, int]
"""A topic without its prefix, a partition, an offset."""


@dataclass(frozen=True)
class Sound:
    """A message that may come again: a repeat changes nothing."""

    partition: int
    key: bytes | None
    value: bytes
    headers: Headers


@dataclass
class Trial:
    """What was done to the stack, and how it took it."""

    poisons: dict[Place, Poison] = field(default_factory=dict)
    handled_s: dict[Place, float] = field(default_factory=dict)  # the sound one right after it
    pictures: dict[str, BadPicture] = field(default_factory=dict)  # by frame id
    records: dict[str, DetectionRecord] = field(default_factory=dict)  # of the pictures


class Poisoner:
    """Knows of each topic a partition where something lives, and what is sound there."""

    def __init__(self, stack: RunningStack, reader: Reader) -> None:
        """`reader` must be of the persister's group."""
        self._stack, self._reader = stack, reader
        self._prefix = stack["topicPrefix"]
        self._producer = producer(stack)
        self._camera = next(one["id"] for one in streams_of(stack) if one["name"] == "cam1")
        self._records_read = reader.ends(DETECTIONS)
        self._records: dict[str, DetectionRecord] = {}
        self.sounds = {topic: self._sound(topic) for topic in READ}
        self.strangers = Strangers(next(jpegs()), unix_us(now()) // 1000)

    def poison(self, topic: Topic[Any], poison: Poison) -> Place:
        at = self.sounds[topic].partition
        return self._send(topic, at, poison.key, poison.value, poison.headers)

    def frame(self, bad: BadPicture | None = None) -> str:
        """Returns its id."""
        frame = self.strangers.next(bad)
        headers = dict(FRAMES.headers(frame, "sightlog/test/1", ""))
        at = self.sounds[FRAMES].partition
        self._send(FRAMES, at, FRAMES.key(frame), FRAMES.encode(frame), headers)
        return frame.id

    def follow_up(self, topic: Topic[Any]) -> Place | str | int:
        """Something sound into the same partition; returns what `is_handled` knows it by."""
        sound = self.sounds[topic]
        if topic is FRAMES:
            return self.frame()
        if topic is STREAMS:
            return self._change_camera()
        return self._send(topic, sound.partition, sound.key, sound.value, sound.headers)

    def is_handled(self, what: Place | str | int) -> bool:
        """A frame has its record, a spec is observed, of others the persister's commit is past."""
        if isinstance(what, str):
            return self.record(what) is not None
        if isinstance(what, int):
            return bool(self._asked("GET")["observedGeneration"] >= what)
        name, partition, offset = what
        return self._reader.committed(topic_named(name), [partition])[partition] > offset

    def record(self, frame_id: str) -> DetectionRecord | None:
        for message in self._reader.read(DETECTIONS, self._records_read):
            partition, offset = message.partition(), message.offset()
            assert partition is not None
            assert offset is not None
            self._records_read[partition] = offset + 1
            if message.key() == frame_id.partition("/")[0].encode():
                record = DETECTIONS.decode(message.value())
                self._records[record.record_id] = record
        return self._records.get(frame_id)

    def poisons(self, topic: Topic[Any]) -> Iterator[tuple[Topic[Any], Poison]]:
        sound = self.sounds[topic]
        if topic is FRAMES:
            good = dict(FRAMES.headers(self.strangers.coming, "sightlog/test/1", ""))
            found = of_jpeg(topic, good)
        elif topic is SNAPSHOTS:
            found = of_jpeg(topic, sound.headers)
        else:
            found = of_json(topic, sound.value, sound.headers)
        for poison in found:
            yield topic, poison

    def _change_camera(self) -> int:
        """Returns the generation that its owner has to observe."""
        body = {"tags": [f"t{time.monotonic_ns()}"]}
        return int(self._asked("PATCH", body)["generation"])

    def _asked(self, method: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """What the gateway says of the camera."""
        at = f"/streams/{self._camera}"
        told: dict[str, Any] = call(self._stack.described(), method, at, body)[0]
        return told

    def _send(
        self,
        topic: Topic[Any],
        partition: int,
        key: bytes | None,
        value: bytes | None,
        headers: Headers,
    ) -> Place:
        told: list[tuple[KafkaError | None, Message]] = []
        self._producer.produce(
            topic.named(self._prefix),
            partition=partition,
            key=key,
            value=value,
            headers=list(headers.items()),
            on_delivery=lambda *facts: told.append(facts),
        )
        self._producer.flush(10)
        [(error, message)] = told
        assert error is None, error
        offset = message.offset()
        assert offset is not None
        return topic.name, partition, offset

    def _sound(self, topic: Topic[Any]) -> Sound:
        """The newest one of what lives, or where there is none its example; the example, too,
        where an old word of a living stream would be taken for its newest, or come after the first
        record of a newer epoch."""
        newest = self._reader.newest(topic)
        if newest is None or topic in (DETECTIONS, HEARTBEATS, STREAM_STATUS):
            return _example(topic, (newest.partition() if newest else None) or 0)
        partition, value = newest.partition(), newest.value()
        assert partition is not None
        assert value is not None
        if topic is STREAMS:
            partition = self._slot()
        return Sound(partition, newest.key(), value, headers_of(newest))

    def _slot(self) -> int:
        with psycopg.connect(self._stack["databaseUrl"]) as connection:
            query = "SELECT slot FROM streams WHERE id = %s"
            row = connection.execute(query, [self._camera]).fetchone()
        assert row is not None
        return int(row[0])


def _example(topic: Topic[Any], partition: int) -> Sound:
    """Of a stream that nobody runs."""
    [file] = (EXAMPLES / topic.name).glob("*-first.json")
    facts: dict[str, str] = json.loads(file.with_suffix(".headers").read_text())
    headers = {name: fact.encode() for name, fact in facts.items()}
    return Sound(partition, headers.get("ce_subject"), file.read_bytes(), headers)


def try_everything(poisoner: Poisoner) -> Trial:
    trial = Trial()
    for turn in zip_longest(*map(poisoner.poisons, READ)):
        take_turn(poisoner, trial, [each for each in turn if each is not None])
    for bad in bad_pictures(poisoner.strangers.coming.jpeg):
        frame = poisoner.frame(bad)
        assert eventually(lambda at=frame: poisoner.is_handled(at), GIVEN_UP_S), bad.name  # type: ignore[misc]  # bound at once
        trial.pictures[frame] = bad
        record = poisoner.record(frame)
        assert record is not None
        trial.records[frame] = record
    return trial


def take_turn(poisoner: Poisoner, trial: Trial, turn: Sequence[tuple[Topic[Any], Poison]]) -> None:
    """One poison into each topic, and something sound right behind it."""
    waiting: dict[Place, tuple[Place | str | int, float]] = {}
    for topic, poison in turn:
        place = poisoner.poison(topic, poison)
        begun = time.monotonic()
        trial.poisons[place] = poison
        waiting[place] = poisoner.follow_up(topic), begun
    deadline = time.monotonic() + GIVEN_UP_S
    while waiting:
        assert time.monotonic() < deadline, {at: trial.poisons[at].name for at in waiting}
        for place, (sound, begun) in list(waiting.items()):
            if poisoner.is_handled(sound):
                trial.handled_s[place] = time.monotonic() - begun
                del waiting[place]


def producer(stack: RunningStack, largest: int = LARGEST_MESSAGE) -> Producer:
    config = {"bootstrap.servers": stack["kafkaBootstrapServers"], "linger.ms": 0, "log_level": 0}
    return Producer(PRODUCER | config | {"message.max.bytes": largest})


def topic_named(name: str) -> Topic[Any]:
    return next(topic for topic in TOPICS if topic.name == name)


def letters(reader: Reader, begins: dict[int, int]) -> Iterable[tuple[DeadLetter, Headers]]:
    for message in reader.read(DEAD_LETTERS, begins):
        yield DEAD_LETTERS.decode(message.value()), headers_of(message)
