"""Twenty cameras on two cores; the long form, see `make soak`."""

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from confluent_kafka import Consumer, Message, TopicPartition

from schemas.messages import DetectionRecord, now
from schemas.topics import DETECTIONS, FRAMES
from tests.stack import RunningStack, eventually

CAMERAS, FPS, WINDOW_S = 20, 1, 60.0
AT_REST_S = 10.0  # after which every frame of the window has its record

pytestmark = [pytest.mark.soak, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def stack_options() -> list[str]:
    cameras = ["--cameras", str(CAMERAS), "--auto-create", "--fps", str(FPS)]
    return [*cameras, "--env", "GATEWAY_AUTH=off"]


def test_twenty_cameras_at_one_frame_a_second_all_are_looked_at(stack: RunningStack) -> None:
    def running() -> int:
        streams = httpx.get(f"{stack['gatewayUrl']}/streams?limit=100").json()
        return sum(stream["status"] == "RUNNING" for stream in streams)

    assert eventually(lambda: running() == CAMERAS + 1, 60)
    pause_the_file(stack)
    time.sleep(AT_REST_S)
    begun = now()
    time.sleep(WINDOW_S)
    ended = now()
    time.sleep(AT_REST_S)

    published = [f for f in frames(stack) if begun <= broker_time(f) < ended]
    ids = {dict(f.headers() or [])["ce_id"].decode() for f in published}  # type: ignore[union-attr]  # bytes
    outcomes = Counter(r.outcome.value for r in records(stack) if r.frame.id in ids)
    rate, ok = len(ids) / WINDOW_S, outcomes["ok"] / len(ids)
    print(f"published {rate:.2f}/s, ok {ok:.1%}, {dict(outcomes)}")
    assert rate >= 19.0
    assert ok >= 0.95
    assert books(stack)["pass"]


def pause_the_file(stack: RunningStack) -> None:
    """The stack makes a stream of the bundled file too: the twenty-first is not of this test."""
    streams = httpx.get(f"{stack['gatewayUrl']}/streams?limit=100").json()
    [file] = [stream for stream in streams if stream["rtspUrl"].startswith("file:")]
    httpx.post(f"{stack['gatewayUrl']}/streams/{file['id']}/stop").raise_for_status()


def broker_time(message: Message) -> datetime:
    return datetime.fromtimestamp(message.timestamp()[1] / 1000, now().tzinfo)


def frames(stack: RunningStack) -> Iterator[Message]:
    yield from whole(stack, FRAMES.named(stack["topicPrefix"]))


def records(stack: RunningStack) -> Iterator[DetectionRecord]:
    for message in whole(stack, DETECTIONS.named(stack["topicPrefix"])):
        yield DETECTIONS.decode(message.value())


def whole(stack: RunningStack, topic: str) -> Iterator[Message]:
    """The topic as it is now, from its beginning."""
    consumer = Consumer(
        {
            "bootstrap.servers": stack["kafkaBootstrapServers"],
            "group.id": "tests",
            "enable.auto.commit": False,
            "enable.partition.eof": False,
        }
    )
    numbers = consumer.list_topics(topic, timeout=10).topics[topic].partitions
    edges = {n: consumer.get_watermark_offsets(TopicPartition(topic, n)) for n in numbers}
    left = {n: high - low for n, (low, high) in edges.items() if high > low}
    consumer.assign([TopicPartition(topic, n, edges[n][0]) for n in left])
    while any(count > 0 for count in left.values()):
        message = consumer.poll(timedelta(seconds=10).total_seconds())
        assert message is not None, f"{topic} ended early: {left}"
        assert message.error() is None
        left[message.partition() or 0] -= 1
        yield message
    consumer.close()


def books(stack: RunningStack) -> dict[str, Any]:
    checked = subprocess.run(
        [sys.executable, "-m", "tests.faults.check", "--stack", stack.folder],
        check=False,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=180,
    )
    verdict: dict[str, Any] = json.loads(checked.stdout.splitlines()[-1])
    print(verdict)
    return verdict
