"""What stands around a detector process: frames in, records out, and the process itself."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    ConsumerGroupTopicPartitions,
    Message,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient

from schemas.messages import DetectionRecord, Frame, Status, StreamStatus, now
from schemas.topics import (
    DETECTIONS,
    FRAMES,
    PRODUCER,
    STREAM_STATUS,
    Topic,
)
from services.process.trace import new_traceparent
from tests.detector.fake_ai import FakeAI, a_jpeg


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
        self.consumer = Consumer(config | {"enable.auto.commit": False})
        partitions = self.consumer.list_topics(self.topic, 10).topics[self.topic].partitions
        self.consumer.assign([TopicPartition(self.topic, p, OFFSET_BEGINNING) for p in partitions])

    def read(self) -> None:
        while messages := self.consumer.consume(1000, 0.02):
            for message in messages:
                assert message.error() is None
                self.messages[(message.key() or b"").decode()].append(message)

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
        self.partitions = len(self.producer.list_topics(self.name(FRAMES), 10).topics[
            self.name(FRAMES)
        ].partitions)

    def name(self, topic: Topic) -> str:
        return topic.named(self.prefix)

    def tail(self, topic: Topic) -> Tail:
        return Tail(self.kafka, self.name(topic))

    def close(self) -> None:
        self.records_tail.consumer.close()

    def publish(self, *frames: Frame) -> None:
        for frame in frames:
            self.put(FRAMES, FRAMES.key(frame), frame.jpeg, headers_of(frame))
        self.flush()

    def put(self, topic, key, value, headers=(), partition=-1) -> None:
        self.producer.produce(
            self.name(topic), value=value, key=key, headers=list(headers), partition=partition
        )
        self.producer.poll(0)

    def flush(self) -> None:
        assert self.producer.flush(10) == 0

    def claim(self, stream_id: str, epoch: int) -> None:
        """What an owner does before its first frame."""
        status = StreamStatus(
            stream_id=stream_id, status=Status.STARTING, since=now(), owner="o", epoch=epoch
        )
        self.put(STREAM_STATUS, STREAM_STATUS.key(status), STREAM_STATUS.encode(status))
        self.flush()

    def records(self, stream_id: str) -> list[DetectionRecord]:
        return [DETECTIONS.decode(m.value(), m.headers()) for m in self.records_tail.of(stream_id)]

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

    def ends(self) -> dict[int, int]:
        name = self.name(FRAMES)
        return {
            p: self.records_tail.consumer.get_watermark_offsets(TopicPartition(name, p))[1]
            for p in range(self.partitions)
        }

    def is_all_committed(self) -> bool:
        committed = self.committed()
        return all(committed.get(p, 0) == end for p, end in self.ends().items() if end)


def a_stream() -> str:
    return uuid4().hex[:26].upper()


def a_frame(stream_id: str, seq: int, **changed) -> Frame:
    epoch = changed.pop("epoch", 1_000)
    facts = {
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


@dataclass
class Running:
    """A detector process."""

    process: subprocess.Popen
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
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=5) as answer:
            text = answer.read().decode()
        found = re.search(rf"^{re.escape(line)} (\S+)$", text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)

    def terminate(self) -> tuple[int, float]:
        """Its status, and the seconds it took to end."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(15), time.monotonic() - began


@contextmanager
def running(site: Site, folder: Path, **environment: str) -> Iterator[Running]:
    """A detector as a user starts it; killed at the end if it still runs."""
    port = free_port()
    log = folder / f"detector-{port}.log"
    told = {
        "AI_SERVICE_URL": site.ai.url,
        "KAFKA_BOOTSTRAP_SERVERS": site.kafka,
        "SIGHTLOG_TOPIC_PREFIX": site.prefix,
        "DETECTOR_HTTP_PORT": str(port),
    }
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "services.detector"],
            env=os.environ | told | environment,
            stdout=out,
            stderr=out,
        )
    try:
        yield Running(process, port, log)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(10)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
