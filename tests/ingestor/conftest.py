"""Cameras, ingestors as processes, and what they say on Kafka."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import psutil
import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, Producer, TopicPartition
from nacl.public import PublicKey, SealedBox

from deploy.local.camera import Camera, digest_ha1, write_cameras
from schemas.messages import DeadLetter, Event, Frame, Heartbeat, Instance, StreamSpec, StreamStatus
from schemas.topics import (
    DEAD_LETTERS,
    EVENTS,
    FRAMES,
    HEARTBEATS,
    INSTANCES,
    PRODUCER_OF_FACTS,
    STREAM_STATUS,
    STREAMS,
    DecodeError,
    Topic,
)
from services.ingestor.unseal import address, new_key_pair
from tests.ports import free_port

ROOT = Path(__file__).parents[2]
CLIPS = ROOT / "deploy" / "local" / "media"
PUBLIC_KEY, PRIVATE_KEY = new_key_pair()
INTERNAL_KEY = "between gateway and ingestors, 32+"
PASSWORD = "p@:/#?%ü$(x)"
READ = (FRAMES, HEARTBEATS, STREAM_STATUS, EVENTS, INSTANCES, DEAD_LETTERS)

T = TypeVar("T")


def eventually(find: Callable[[], T], seconds: float = 30.0) -> T:
    """The first true answer; fails once it took too long."""
    until = time.monotonic() + seconds
    while not (found := find()):
        assert time.monotonic() < until, f"not within {seconds} s"
        time.sleep(0.02)
    return found


def assert_near_bar(what: str, measured: float, bar: float) -> None:
    """The bar is for a quiet machine: the figure is printed, and fails at four times the bar."""
    print(f"{what}: {measured:.3f}, bar {bar}")
    assert measured <= 4 * bar


def is_alive(pid: int) -> bool:
    """A zombie has ended: it only waits for somebody to notice."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def sealed(stream_id: str, url: str, password: str) -> str:
    """As a gateway does it, for `viewer`."""
    scheme, host, port = address(url)
    content = {"streamId": stream_id, "scheme": scheme, "host": host, "port": port}
    content |= {"username": "viewer", "password": password}
    box = SealedBox(PublicKey(b64decode(PUBLIC_KEY)))
    return b64encode(box.encrypt(msgspec.json.encode(content))).decode()


class Ingestor:
    """`python -m services.ingestor`, and its HTTP side."""

    def __init__(self, environment: dict[str, str], log: Path, words: Sequence[str]) -> None:
        self.port = free_port()
        self.log = log
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *words],
                cwd=ROOT,
                env=environment | {"INGESTOR_HTTP_PORT": str(self.port)},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    def ask(self, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                return answer.status, dict(answer.headers), answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, dict(error.headers), error.read()

    @property
    def state(self) -> dict[str, Any]:
        try:
            status, _, body = self.ask("/health/ready")
        except OSError:
            return {}
        return {**json.loads(body), "ready": status == 200}

    @property
    def cameras(self) -> dict[str, int]:
        """The process of each stream's camera, as far as it says."""
        return {each["streamId"]: each["pid"] for each in self.state.get("cameras", ())}

    @property
    def partitions(self) -> list[int]:
        return list(self.state.get("partitions", ()))

    def camera(self, stream_id: str) -> int | None:
        """The process of its camera."""
        return self.cameras.get(stream_id)

    def wait_ready(self) -> "Ingestor":
        eventually(lambda: self.state.get("ready"), 60)
        return self

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(40)

    def end(self) -> None:
        """Whatever state it is in."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait(5)


class Topics:
    """Writes what is desired, and collects what ingestors say."""

    def __init__(self, bootstrap: str, prefix: str) -> None:
        self._prefix = prefix
        self._producer = Producer({"bootstrap.servers": bootstrap, **PRODUCER_OF_FACTS})
        self._consumer = Consumer(
            {"bootstrap.servers": bootstrap, "group.id": "unused", "enable.auto.commit": False}
        )
        self._by_name: dict[str, Topic[Any]] = {topic.named(prefix): topic for topic in READ}
        known = self._consumer.list_topics(timeout=10).topics
        self._consumer.assign(
            [
                TopicPartition(name, partition, OFFSET_BEGINNING)
                for name in self._by_name
                for partition in known[name].partitions
            ]
        )
        self._seen: dict[type, list[Any]] = {topic.type: [] for topic in READ}

    def want(self, spec: StreamSpec) -> StreamSpec:
        self._say(spec.stream_id, spec.slot, STREAMS.encode(spec))
        return spec

    def delete(self, spec: StreamSpec) -> None:
        self._say(spec.stream_id, spec.slot, None)

    def say_status(self, status: StreamStatus, slot: int) -> None:
        """As another ingestor would."""
        self.say_raw(STREAM_STATUS, slot, status.stream_id, STREAM_STATUS.encode(status))

    def say_nonsense(self, slot: int) -> None:
        """A desired state that is none."""
        self._say("nobody", slot, b"{")

    def _say(self, stream_id: str, slot: int, value: bytes | None) -> None:
        self.say_raw(STREAMS, slot, stream_id, value)

    def say_raw(
        self,
        topic: Topic[Any],
        slot: int,
        key: str | bytes | None,
        value: bytes | None,
        headers: dict[str, bytes] | None = None,
    ) -> None:
        """Whatever it may be; acknowledged."""
        name = topic.named(self._prefix)
        self._producer.produce(
            name, key=key, value=value, partition=slot, headers=dict(headers or {})
        )
        assert self._producer.flush(10) == 0

    def _read(self) -> None:
        for message in self._consumer.consume(1000, 0.02):
            if message.error() is None and message.value() is not None:
                topic = self._by_name[message.topic() or ""]
                headers: Any = message.headers()
                with suppress(DecodeError):  # a test's own nonsense
                    self._seen[topic.type].append(topic.decode(message.value(), headers))

    def frames(self, stream_id: str) -> list[Frame]:
        self._read()
        return [frame for frame in self._seen[Frame] if frame.stream_id == stream_id]

    def statuses(self, stream_id: str) -> list[StreamStatus]:
        self._read()
        return [status for status in self._seen[StreamStatus] if status.stream_id == stream_id]

    def heartbeats(self, stream_id: str) -> list[Heartbeat]:
        self._read()
        return [each for each in self._seen[Heartbeat] if each.stream_id == stream_id]

    def events(self, stream_id: str) -> list[Event]:
        self._read()
        return [each for each in self._seen[Event] if each.stream_id == stream_id]

    def instances(self) -> list[Instance]:
        self._read()
        return list(self._seen[Instance])

    def dead_letters(self) -> list[DeadLetter]:
        self._read()
        return list(self._seen[DeadLetter])

    def wait_status(
        self, stream_id: str, status: str, reason: str | None = None, seconds: float = 30.0
    ) -> StreamStatus:
        """The newest word on the stream, once it is this one."""

        def newest() -> list[StreamStatus]:
            said = self.statuses(stream_id)[-1:]
            return [each for each in said if (each.status, each.reason) == (status, reason)]

        return eventually(newest, seconds)[0]

    def wait_frames(self, stream_id: str, count: int, seconds: float = 30.0) -> list[Frame]:
        """At least so many."""

        def enough() -> list[Frame]:
            frames = self.frames(stream_id)
            return frames if len(frames) >= count else []

        return eventually(enough, seconds)

    def close(self) -> None:
        self._consumer.close()


class CameraServer:
    """`python -m deploy.local.camera` on a port of its own."""

    def __init__(self, folder: Path, cameras: Sequence[Camera]) -> None:
        self._folder = folder
        self._port = free_port()
        self.url = f"rtsp://127.0.0.1:{self._port}/"
        self.serve(cameras)
        self.start()

    def serve(self, cameras: Sequence[Camera]) -> None:
        write_cameras(self._folder / "cameras.json", list(cameras))

    def start(self) -> None:
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "deploy.local.camera", "--port", str(self._port)),
                    *("--cameras", str(self._folder / "cameras.json")),
                ],
                cwd=ROOT,
                stdout=log,
                stderr=log,
            )
        eventually(lambda: not _is_refused(self._port), 15)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(10)

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(10)


@pytest.fixture(scope="session")
def cameras(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`rtsp://HOST:PORT/`: `walk`, `locked` (needs a password), `hole` (silent)."""
    clip = str(CLIPS / "vtest_12s.mp4")
    server = CameraServer(
        tmp_path_factory.mktemp("cameras"),
        [
            Camera("walk", clip),
            Camera("locked", clip, username="viewer", ha1=digest_ha1("viewer", PASSWORD)),
            Camera("hole", clip, fault="blackhole"),
        ],
    )
    yield server.url
    server.stop()


def _is_refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return True
    return False


@pytest.fixture(scope="module")
def topics(kafka: str, topic_prefix: str) -> Iterator[Topics]:
    topics = Topics(kafka, topic_prefix)
    yield topics
    topics.close()


@pytest.fixture(scope="module")
def start_ingestor(
    kafka: str, topic_prefix: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Ingestor]]:
    """`start_ingestor(words, **environment)`; all end with the module, none with a traceback."""
    folder = tmp_path_factory.mktemp("ingestors")
    started: list[Ingestor] = []

    def start(words: Sequence[str] = ("services.ingestor",), **more: str) -> Ingestor:
        environment = {
            "PATH": os.environ["PATH"],
            "KAFKA_BOOTSTRAP_SERVERS": kafka,
            "SIGHTLOG_TOPIC_PREFIX": topic_prefix,
            "SIGHTLOG_SOURCE_NETWORKS_ALLOWED": "127.0.0.0/8",
            "SIGHTLOG_INTERNAL_KEY": INTERNAL_KEY,
            "SIGHTLOG_SEAL_PRIVATE_KEYS": PRIVATE_KEY,
            "INGESTOR_MEDIA_PATH": str(CLIPS),
            "INGESTOR_HEARTBEAT_S": "1",
            "INGESTOR_RETRY_BASE_S": "0.2",
            "INGESTOR_RETRY_CAP_S": "0.5",
        }
        started.append(Ingestor(environment | more, folder / f"{len(started)}.log", words))
        return started[-1]

    yield start
    for ingestor in started:
        ingestor.end()
    logs = "".join(ingestor.log.read_text() for ingestor in started)
    assert "Traceback" not in logs
    assert PASSWORD not in logs
