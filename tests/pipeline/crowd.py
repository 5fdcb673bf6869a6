"""Streams that come, change and go in numbers, and those that must not notice."""

import socket
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any

import httpx
import psycopg
from msgspec.structs import replace

from schemas.messages import Frame, Reason, Status, StreamStatus
from schemas.topics import FRAMES, STREAM_STATUS, STREAMS, Topic
from tests.pipeline.seen import Reader
from tests.stack import RunningStack

REQUESTS_AT_ONCE = 4
SETTLED_S = 240.0
GONE_S = 120.0
LOOK_EVERY_S = 1.0  # at all of them: that is work, too
SHOWN = "/streams?limit=1000"


@dataclass
class Bystander:
    """What was said by and of a stream that nobody touched, while others came and went."""

    frames: list[Frame] = field(default_factory=list)
    statuses: list[StreamStatus] = field(default_factory=list)

    @property
    def is_gapless(self) -> bool:
        return all((b.epoch, b.seq) == (a.epoch, a.seq + 1) for a, b in pairwise(self.frames))

    @property
    def longest_gap_s(self) -> float:
        times = (frame.captured_at.timestamp() for frame in self.frames)
        return max(b - a for a, b in pairwise(times))

    @property
    def dropped(self) -> int:
        """Pictures that reached the ingestor and were not published."""
        return self.frames[-1].dropped - self.frames[0].dropped

    @property
    def failures(self) -> list[StreamStatus]:
        return [each for each in self.statuses if each.status is not Status.RUNNING]


class Watch:
    """From its making on."""

    def __init__(self, reader: Reader, ids: Iterable[str]) -> None:
        self._reader = reader
        self._ids = list(ids)
        self._begins: dict[Topic[Any], dict[int, int]] = {
            topic: reader.ends(topic) for topic in (FRAMES, STREAM_STATUS)
        }

    def seen(self) -> list[Bystander]:
        """In the order of the ids; pictures are not kept."""
        seen = {id: Bystander() for id in self._ids}
        for frame in self._read(FRAMES):
            if frame.stream_id in seen:
                seen[frame.stream_id].frames.append(replace(frame, jpeg=b""))
        for status in self._read(STREAM_STATUS):
            if status.stream_id in seen:
                seen[status.stream_id].statuses.append(status)
        return list(seen.values())

    def _read(self, topic: Topic[Any]) -> Iterable[Any]:
        for message in self._reader.read(topic, self._begins[topic]):
            if message.value() is not None:
                headers: Any = message.headers()
                yield topic.decode(message.value(), headers)


class Crowd:
    """So many streams: a half runs, and of that a half on a port that refuses."""

    def __init__(self, stack: RunningStack, size: int, camera_url: str) -> None:
        self._stack = stack
        self._numbers = range(size)
        self._camera_url = camera_url
        self._shut = socket.socket()  # bound, and nobody listens
        self._shut.bind(("127.0.0.1", 0))
        self._client = httpx.Client(base_url=stack["gatewayUrl"], timeout=30)
        self._others = set(self._shown())
        self._ids: list[str] = []

    def close(self) -> None:
        self._shut.close()
        self._client.close()

    def come(self) -> None:
        self._ids = self._all(self._create)
        self._await("came", self._is_settled, SETTLED_S)

    def change(self) -> None:
        """A third of them live, a third by a new connection, the others by a stop and a start."""
        self._all(self._change)
        self._await("changed", self._is_settled, SETTLED_S)

    def go(self) -> None:
        """Nothing is left of them."""
        self._all(lambda n: self._ask("DELETE", f"/streams/{self._ids[n]}"))
        self._await("gone", self._is_gone, GONE_S)

    def _create(self, number: int) -> str:
        port = self._shut.getsockname()[1]
        url = f"rtsp://127.0.0.1:{port}/x" if self._is_refused(number) else self._camera_url
        body = {"name": f"crowd {number}", "rtspUrl": url, "fps": 1, "detectionEnabled": False}
        id: str = self._ask("POST", "/streams", body | {"running": self._runs(number)})["id"]
        return id

    def _change(self, number: int) -> None:
        path = f"/streams/{self._ids[number]}"
        if number % 3 == 0:
            self._ask("PATCH", path, {"name": f"changed {number}", "labels": ["person"], "fps": 2})
        elif number % 3 == 1:
            self._ask("PATCH", path, {"frameWidth": 320})
        elif self._runs(number):
            self._ask("POST", f"{path}/stop")
            self._ask("POST", f"{path}/start")

    def _runs(self, number: int) -> bool:
        return number % 2 == 0

    def _is_refused(self, number: int) -> bool:
        return number % 4 == 0

    def _all(self, work: Callable[[int], Any]) -> list[Any]:
        with ThreadPoolExecutor(REQUESTS_AT_ONCE) as pool:
            return list(pool.map(work, self._numbers))

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """Asks again where the answer is to do so: two cores have much to do meanwhile."""
        while (answer := self._client.request(method, path, json=body)).status_code == 503:
            time.sleep(float(answer.headers["Retry-After"]))
        return answer.raise_for_status().json() if answer.content else None

    def _shown(self) -> dict[str, dict[str, Any]]:
        return {each["id"]: each for each in self._ask("GET", SHOWN)}

    def _await(self, what: str, holds: Callable[[], bool], within_s: float) -> None:
        begun = time.monotonic()
        while not holds():
            assert time.monotonic() - begun < within_s, f"not {what}: {self._shown()}"
            time.sleep(LOOK_EVERY_S)
        print(f"{len(self._numbers)} {what} after {time.monotonic() - begun:.1f} s", flush=True)

    def _is_settled(self) -> bool:
        """Each is as it should be, by the newest word on its last change."""
        shown = self._shown()
        return all(self._is_as_wanted(number, shown[id]) for number, id in enumerate(self._ids))

    def _is_as_wanted(self, number: int, stream: dict[str, Any]) -> bool:
        wanted: tuple[Status, Reason | None] = Status.STOPPED, None
        if self._runs(number):
            refused = Status.ERROR, Reason.UNREACHABLE
            wanted = refused if self._is_refused(number) else (Status.RUNNING, None)
        is_newest = stream["observedGeneration"] == stream["generation"]
        return is_newest and (stream["status"], stream["reason"]) == wanted

    def _is_gone(self) -> bool:
        """No row, no camera; what the topics still say is told apart, as it takes long to read."""
        ingestor = self._stack.service("ingestor")
        health = httpx.get(f"http://127.0.0.1:{ingestor['httpPort']}/health/ready").json()
        cameras = {camera["streamId"] for camera in health["cameras"]}
        return self._rows() == self._others and not cameras & set(self._ids)

    def _rows(self) -> set[str]:
        with psycopg.connect(self._stack["databaseUrl"]) as connection:
            tables = ("SELECT id FROM streams", "SELECT stream_id FROM statuses")
            return {id for query in tables for (id,) in connection.execute(query)}

    def left(self, reader: Reader) -> set[str]:
        """Of which a compacted topic still says something."""
        said = [partial(self._said, reader)(topic) for topic in (STREAMS, STREAM_STATUS)]
        return set().union(*said) & set(self._ids)

    def _said(self, reader: Reader, topic: Topic[Any]) -> set[str]:
        begins = {number: reader.bounds(topic, number)[0] for number in reader.partitions(topic)}
        last = {
            (message.partition(), message.key()): message.value()
            for message in reader.read(topic, begins)
        }
        return {(key or b"").decode() for (_, key), value in last.items() if value is not None}
