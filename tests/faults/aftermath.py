"""After the last fault: everything is well again, and nobody was left behind."""

import time
from collections.abc import Callable, Collection, Iterator

import psutil
from confluent_kafka import Consumer, KafkaException, TopicPartition

from schemas.topics import FRAMES
from tests.faults.books import Violation
from tests.faults.gather import Stack
from tests.faults.site import Site

SETTLE_S = 120.0
POLL_S = 0.5
MOST_LAG = 100
"""Frames that a detector which keeps up may have unread or uncommitted: it commits each second."""

Look = Callable[[], list[Violation]]


def settled(site: Site, streams: Collection[str], timeout_s: float = SETTLE_S) -> list[Violation]:
    """What is still wrong when the time is over; nothing as soon as all is well."""
    looks: list[Look] = [
        lambda: list(unready(site)),
        lambda: list(not_running(site, streams)),
        lambda: list(left_behind(site)),
        lambda: list(unread(site.stack)),
    ]
    deadline = time.monotonic() + timeout_s
    wrong = [one for look in looks for one in look()]
    while wrong and time.monotonic() < deadline:
        time.sleep(POLL_S)
        wrong = [one for look in looks for one in look()]
    return wrong


def unready(site: Site) -> Iterator[Violation]:
    for name in site.unready():
        yield Violation("NOT_READY", f"{name} does not do its work", ())


def not_running(site: Site, streams: Collection[str]) -> Iterator[Violation]:
    found = {one["id"]: one for one in site.streams()}
    for stream_id in streams:
        stream = found.get(stream_id, {"status": "unknown"})
        if stream["status"] != "RUNNING" or stream["reason"]:
            what = f"{stream_id} is {stream['status']}, reason {stream.get('reason')}"
            yield Violation("STREAM_NOT_RUNNING", what, ())


def left_behind(site: Site) -> Iterator[Violation]:
    """Processes that were the stack's, whose starter is gone; and cameras' nobody speaks of."""
    supervisor = psutil.Process(site.place.supervisor())
    family = {one.pid for one in (supervisor, *supervisor.children(recursive=True))}
    for process in psutil.process_iter():
        if process.pid not in family and works_in(process, str(site.place.folder)):
            yield Violation("ORPHAN", f"process {process.pid}: {command_of(process)}", ())
    known = set(site.camera_children())
    for ingestor in site.processes("ingestor"):
        for pid in camera_processes(ingestor["pid"]):
            if pid not in known:
                yield Violation("ORPHAN", f"process {pid} reads a camera for nobody", ())


def works_in(process: psutil.Process, folder: str) -> bool:
    """Every service, and what it starts, has the stack's folder as its own."""
    try:
        return process.cwd() == folder and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def command_of(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())[:200]
    except psutil.Error:
        return "gone"


def camera_processes(ingestor: int | None) -> list[int]:
    """The children of its forkserver, which is its child."""
    try:
        servers = psutil.Process(ingestor).children() if ingestor else []
        return [child.pid for server in servers for child in server.children()]
    except psutil.Error:
        return []


def unread(stack: Stack) -> Iterator[Violation]:
    lag = lag_of(stack, "detector", FRAMES.named(stack.prefix))
    if lag is None or lag > MOST_LAG:
        yield Violation("DETECTOR_BEHIND", f"{lag} frames", ())


def lag_of(stack: Stack, group: str, topic: str) -> int | None:
    """How much of the topic the group has not committed; None while the broker does not say."""
    consumer = Consumer(
        {
            "bootstrap.servers": stack.bootstrap_servers,
            "group.id": f"{stack.prefix}{group}",  # never joined
            "enable.auto.commit": False,
            "log_level": 0,
        }
    )
    try:
        numbers = consumer.list_topics(topic, timeout=10).topics[topic].partitions
        partitions = [TopicPartition(topic, number) for number in numbers]
        lag = 0
        for at in consumer.committed(partitions, timeout=10):
            low, high = consumer.get_watermark_offsets(at, timeout=10)
            lag += high - max(at.offset, low)
    except KafkaException:
        return None
    finally:
        consumer.close()
    return lag
