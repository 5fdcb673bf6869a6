"""What stands around a detector process: frames in, records out, and the process itself."""

import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

from aiokafka.partitioner import murmur2  # type: ignore[import-untyped]  # so it is
from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    ConsumerGroupState,
    ConsumerGroupTopicPartitions,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._listoffsets import OffsetSpec

from schemas.messages import DetectionRecord, Frame, Status, StreamStatus, now
from schemas.topics import (
    DETECTIONS,
    FRAMES,
    PRODUCER,
    STREAM_STATUS,
    Headers,
    Topic,
)
from services.process.trace import new_traceparent
from tests.detector.fake_ai import FakeAI, a_jpeg
from tests.ports import free_port
from tests.unencoded import put_unencoded


def eventually(claim: Callable[[], object], timeout_s: float = 15, what: str = "") -> object:
    """The first truthy answer; AssertionError at the deadline."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        answer = claim()
        if answer:
            return answer
        time.sleep(0.02)
    raise AssertionError(f"not within {timeout_s} s: {what or claim}")


@dataclass
class Tail:
    """All messages of a topic, by key, read on whenever one looks."""

    kafka: str
    topic: str
    messages: dict[str, list[Message]] = field(default_factory=lambda: defaultdict(list))

    def __post_init__(self) -> None:
        config = {"bootstrap.servers": self.kafka, "group.id": f"tail-{uuid4().hex}"}
        self.consumer = Consumer(config | {"enable.auto.commit": False, "fetch.wait.max.ms": 20})
        self.admin = AdminClient({"bootstrap.servers": self.kafka})
        self.partitions = range(partitions_of(self.consumer, self.topic))
        self.read_to = dict.fromkeys(self.partitions, 0)
        self.consumer.assign(
            [TopicPartition(self.topic, p, OFFSET_BEGINNING) for p in self.partitions]
        )

    def read(self) -> None:
        """To the end as it is now."""
        ends = ends_of(self.kafka, self.admin, self.topic, self.partitions)
        while any(self.read_to[partition] < end for partition, end in ends.items()):
            for message in self.consumer.consume(1000, 0.02):
                assert message.error() is None
                self.messages[(message.key() or b"").decode()].append(message)
                self.read_to[message.partition() or 0] = (message.offset() or 0) + 1

    def close(self) -> None:
        self.consumer.close()

    def of(self, key: str) -> list[Message]:
        self.read()
        return self.messages[key]


@dataclass
class Site:
    kafka: str
    prefix: str
    ai: FakeAI
    epoch: int = 1_000

    def __post_init__(self) -> None:
        self.producer = Producer({"bootstrap.servers": self.kafka, "linger.ms": 0} | PRODUCER)
        self.records_tail = self.tail(DETECTIONS)
        self.partitions = len(self.records_tail.partitions)

    def name(self, topic: Topic[Any]) -> str:
        return topic.named(self.prefix)

    def tail(self, topic: Topic[Any]) -> Tail:
        return Tail(self.kafka, self.name(topic))

    def close(self) -> None:
        self.records_tail.close()

    def publish(self, *frames: Frame) -> None:
        for frame in frames:
            self.put(FRAMES, FRAMES.key(frame), frame.jpeg, headers_of(frame))
        self.flush()

    def put(self, topic, key, value, headers=(), partition=-1) -> None:
        self.producer.produce(
            self.name(topic), value=value, key=key, headers=list(headers), partition=partition
        )
        self.producer.poll(0)

    def put_unencoded(self, topic, key, value, headers, partition) -> None:
        """The names of headers are bytes."""
        put_unencoded(self.kafka, self.name(topic), partition, (key, value), headers)

    def flush(self) -> None:
        assert self.producer.flush(10) == 0

    def claim(
        self, stream_id: str, epoch: int, key: bytes | None = None, partition: int = -1
    ) -> None:
        """What an owner does before its first frame; under another key, what none does."""
        status = StreamStatus(
            stream_id=stream_id, status=Status.STARTING, since=now(), owner="o", epoch=epoch
        )
        value = STREAM_STATUS.encode(status)
        self.put(STREAM_STATUS, key or STREAM_STATUS.key(status), value, partition=partition)
        self.flush()

    def records(self, stream_id: str) -> list[DetectionRecord]:
        return [DETECTIONS.decode(m.value()) for m in self.records_tail.of(stream_id)]

    def expect(self, stream_id: str, count: int, timeout_s: float = 15) -> list[DetectionRecord]:
        """Exactly so many, in the order of the partition."""
        eventually(
            lambda: len(self.records(stream_id)) >= count,
            timeout_s,
            f"{count} records, there are {len(self.records(stream_id))}",
        )
        records = self.records(stream_id)
        assert len(records) == count
        return records

    def committed(self) -> dict[int, int]:
        admin = AdminClient({"bootstrap.servers": self.kafka})
        group = f"{self.prefix}detector"
        [told] = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)]).values()
        return {at.partition: at.offset for at in told.result(10).topic_partitions}

    def is_joining(self) -> bool:
        """Whether somebody waits to be let into the group of detectors."""
        admin = AdminClient({"bootstrap.servers": self.kafka})
        [told] = admin.describe_consumer_groups([f"{self.prefix}detector"]).values()
        return bool(told.result(10).state is ConsumerGroupState.PREPARING_REBALANCING)

    def partition_of(self, stream_id: str) -> int:
        """As every producer of ours chooses."""
        return int(murmur2(stream_id.encode()) & 0x7FFFFFFF) % self.partitions

    def ends(self) -> dict[int, int]:
        return ends_of(
            self.kafka, self.records_tail.admin, self.name(FRAMES), range(self.partitions)
        )

    def is_all_committed(self) -> bool:
        committed = self.committed()
        return all(committed.get(p, 0) == end for p, end in self.ends().items() if end)


def partitions_of(client: Consumer, topic: str) -> int:
    """Waits for a topic that was only just made."""
    count = eventually(lambda: len(client.list_topics(topic, 10).topics[topic].partitions))
    assert isinstance(count, int)
    return count


def ends_of(
    kafka: str, admin: AdminClient, topic: str, partitions: Iterable[int]
) -> dict[int, int]:
    """Asks again where a leader has just changed."""
    asked = {TopicPartition(topic, p): OffsetSpec.latest() for p in partitions}
    deadline = time.monotonic() + 30
    while True:
        told = admin.list_offsets(asked)
        try:
            return {at.partition: answer.result(10).offset for at, answer in told.items()}
        except KafkaException:
            if time.monotonic() > deadline:
                raise
            admin = AdminClient({"bootstrap.servers": kafka})  # the other goes on as it was


def a_stream() -> str:
    return uuid4().hex[:26].upper()


def a_frame(stream_id: str, seq: int, **changed) -> Frame:
    epoch = changed.pop("epoch", 1_000)
    facts: dict[str, Any] = {
        "width": 640,
        "height": 360,
        "captured_at": now() - timedelta(milliseconds=5),
        "age_ms": 5,
        "max_age_ms": 60_000,
        "captured": seq + 1,
        "jpeg": a_jpeg(f"{stream_id}/{epoch}/{seq}"),
    }
    return Frame(stream_id=stream_id, epoch=epoch, seq=seq, **(facts | changed))


def headers_of(frame: Frame) -> list[tuple[str, bytes]]:
    return FRAMES.headers(frame, "sightlog/ingestor/test", new_traceparent())


def headers_on(message: Message) -> Headers:
    return cast(Headers, message.headers() or ())  # a list of pairs: its stub also allows a dict


@dataclass
class Running:
    """A detector process."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    def is_ready(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health/ready", timeout=5):
                return True
        except OSError:
            return False

    def metric(self, line: str) -> float:
        """0 where there is none, -1 where nobody answers yet."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=5) as said:
                text = said.read().decode()
        except OSError:
            return -1
        found = re.search(rf"^{re.escape(line)} (\S+)$", text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)

    def terminate(self) -> tuple[int, float]:
        """Its status, and the seconds it took to end."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(40), time.monotonic() - began


@contextmanager
def running(site: Site, folder: Path, **environment: str) -> Iterator[Running]:
    """A detector of this site."""
    told = {
        "AI_SERVICE_URL": site.ai.url,
        "KAFKA_BOOTSTRAP_SERVERS": site.kafka,
        "SIGHTLOG_TOPIC_PREFIX": site.prefix,
    }
    with started(told | environment, folder) as detector:
        yield detector


@contextmanager
def started(environment: dict[str, str], folder: Path) -> Iterator[Running]:
    """A detector as a user starts it; killed at the end if it still runs."""
    port = free_port()
    log = folder / f"detector-{port}.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "services.detector"],
            env=os.environ | {"DETECTOR_HTTP_PORT": str(port)} | environment,
            stdout=out,
            stderr=out,
        )
    try:
        yield Running(process, port, log)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(10)
