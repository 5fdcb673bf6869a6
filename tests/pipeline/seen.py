"""What can be seen of a running stack from outside: processes, logs, offsets, books."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from confluent_kafka import Consumer, KafkaError, KafkaException, Message
from confluent_kafka import TopicPartition as At

from deploy.local.commands import is_healthy, name_of
from deploy.local.streams import call, exchange
from schemas.topics import Topic
from tests.faults.gather import watermarks
from tests.stack import RunningStack, eventually

ROOT = Path(__file__).parents[2]
SHOWN = "/streams?limit=100"


class Run(NamedTuple):
    pid: int
    restarts: int


def runs(stack: RunningStack) -> dict[str, Run]:
    """By the services' names."""
    return {name_of(one): Run(one["pid"], one["restarts"]) for one in stack["services"]}


def all_ready(stack: RunningStack) -> bool:
    return all(map(is_healthy, stack["services"]))


def is_gone(pid: int) -> bool:
    return not psutil.pid_exists(pid)


class Logs:
    """What the services have written since this was made."""

    def __init__(self, stack: RunningStack) -> None:
        self._files = {name_of(one): Path(one["logFile"]) for one in stack["services"]}
        self._begins = {name: file.stat().st_size for name, file in self._files.items()}

    def lines(self) -> dict[str, list[str]]:
        return {name: self._since(name).splitlines() for name in self._files}

    def _since(self, name: str) -> str:
        return self._files[name].read_bytes()[self._begins[name] :].decode(errors="replace")


def traces(logs: Logs) -> list[str]:
    """Lines that show where in the code something went wrong."""
    return [
        f"{name}: {line[:2000]}"
        for name, lines in logs.lines().items()
        for line in lines
        if "Traceback" in line or '"exception"' in line
    ]


class Reader:
    """Looks at topics without joining any group."""

    def __init__(self, stack: RunningStack, group: str = "nobody") -> None:
        """`group`: whose commits `committed` tells."""
        self._prefix = stack["topicPrefix"]
        self._consumer = Consumer(
            {
                "bootstrap.servers": stack["kafkaBootstrapServers"],
                "log_level": 0,
                "group.id": f"{self._prefix}{group}",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "fetch.wait.max.ms": 20,
                "fetch.message.max.bytes": 2_100_000,
            }
        )

    def partitions(self, topic: Topic[Any]) -> list[int]:
        named = topic.named(self._prefix)
        return sorted(self._consumer.list_topics(named, timeout=10).topics[named].partitions)

    def ends(self, topic: Topic[Any]) -> dict[int, int]:
        return {number: self.bounds(topic, number)[1] for number in self.partitions(topic)}

    def bounds(self, topic: Topic[Any], partition: int) -> tuple[int, int]:
        """The first offset and the next one."""
        return watermarks(self._consumer, At(topic.named(self._prefix), partition))

    def committed(self, topic: Topic[Any], partitions: Iterable[int]) -> dict[int, int]:
        """What the group reads next; 0 where it has said nothing yet."""
        asked = [At(topic.named(self._prefix), number) for number in partitions]
        return {at.partition: max(0, at.offset) for at in self._consumer.committed(asked, 10)}

    def read(self, topic: Topic[Any], begins: dict[int, int]) -> Iterator[Message]:
        """From there to the topic's end as it is now; `begins` by partition."""
        named = topic.named(self._prefix)
        left = {number for number, begin in begins.items() if self.bounds(topic, number)[1] > begin}
        self._consumer.assign([At(named, number, begins[number]) for number in left])
        while left:
            message = self._consumer.poll(10)
            assert message is not None, f"{named} ended early: {left}"
            if (error := message.error()) is None:
                yield message
            elif error.code() == KafkaError._PARTITION_EOF:
                left.discard(message.partition())
            else:
                raise KafkaException(error)
        self._consumer.unassign()

    def newest(self, topic: Topic[Any]) -> Message | None:
        """The last one of some partition that has any with a value."""
        for number in self.partitions(topic):
            low, high = self.bounds(topic, number)
            if high > low:
                *_, last = self.read(topic, {number: max(low, high - 1)})
                if last.value():
                    return last
        return None

    def close(self) -> None:
        self._consumer.close()


def headers_of(message: Message) -> dict[str, bytes]:
    pairs: Iterable[tuple[str, bytes | None]] = message.headers() or ()  # type: ignore[assignment]  # pairs of bytes, always: its stub allows more
    return {name: value or b"" for name, value in pairs}


@contextmanager
def reading(stack: RunningStack, group: str = "nobody") -> Iterator[Reader]:
    reader = Reader(stack, group)
    try:
        yield reader
    finally:
        reader.close()


class Backlog:
    """How far the persister is behind the records."""

    def __init__(self, reader: Reader, topic: Topic[Any]) -> None:
        """The reader must be of its group."""
        self._reader, self._topic = reader, topic
        self._partitions = reader.partitions(topic)

    def stored(self) -> int:
        return sum(self._reader.committed(self._topic, self._partitions).values())

    def published(self) -> int:
        return sum(self._reader.ends(self._topic).values())

    def waiting(self) -> int:
        """Partitions that hold nothing have no commit."""
        return self.published() - self.stored()


def streams_of(stack: RunningStack) -> list[dict[str, Any]]:
    """As the gateway shows them, as soon as it can."""
    found: list[dict[str, Any]] = call(stack.described(), "GET", SHOWN)[0]
    return found


def all_running(stack: RunningStack) -> bool:
    """Not while the gateway can't say."""
    status, answer, _ = exchange(stack.described(), "GET", SHOWN, None)
    streams = json.loads(answer) if status == 200 else []
    return bool(streams) and all(stream["status"] == "RUNNING" for stream in streams)


def terminate(stack: RunningStack, names: Sequence[str]) -> list[int]:
    """SIGTERM; returns their process ids."""
    before = runs(stack)
    pids = [before[each].pid for each in names]
    for pid in pids:
        os.kill(pid, signal.SIGTERM)
    return pids


def balance(stack: RunningStack) -> None:
    """The checker's verdict on each stream that there is must be a good one; what tests have put
    into the topics is of others."""
    streams = [stream["id"] for stream in streams_of(stack)]
    assert streams
    judge(stack, streams)


def judge(stack: RunningStack, streams: Sequence[str] = ()) -> None:
    """Of these streams, or of all that its topics know."""
    named = [word for stream in streams for word in ("--stream", stream)]
    checked = subprocess.run(
        [sys.executable, "-m", "tests.faults.check", "--stack", stack.folder, *named],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert checked.returncode == 0, checked.stdout[-4000:] + checked.stderr[-4000:]
    verdict = json.loads(checked.stdout.splitlines()[-1])
    print("books:", {name: value for name, value in verdict.items() if name != "violations"})


def await_running(stack: RunningStack, timeout_s: float) -> None:
    assert eventually(lambda: all_ready(stack) and all_running(stack), timeout_s), stack["services"]
