"""The pipeline by itself: what it is sent, and what it sends, at the moments that are hard to hit
with real processes."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any

import pytest
from typing_extensions import override

from schemas.messages import DeadLetter, DetectionRecord, Frame, Outcome
from schemas.topics import DEAD_LETTERS, DETECTIONS, FRAMES
from services.detector.app import Detector, Limits, Outside
from services.detector.consume import Delivery
from services.detector.fence import Epochs
from services.detector.record import Finding
from tests.detector.site import a_frame, a_stream, headers_of

LIMITS = Limits(
    calls=2,
    waiting_bytes=1_000_000,
    unaccounted_frames=100,
    snapshots_per_minute=60,
    session_timeout_s=10,
)


class Seer:
    """In place of the AI service: answers in the next turn of the loop."""

    wait_s = 0.0

    def __init__(self) -> None:
        self.seen: list[str] = []

    async def look(self, frame: Frame, traceparent: str) -> Finding:
        self.seen.append(frame.id)
        await asyncio.sleep(0)
        return Finding(Outcome.OK)

    async def close(self) -> None: ...


class Broker:
    """In place of a producer: keeps all that it is sent, and has acknowledged it at once."""

    def __init__(self) -> None:
        self.kept: list[tuple[str, bytes | None, bytes, list[tuple[str, bytes]]]] = []

    async def send(self, topic, key, value, headers) -> "asyncio.Future[None]":
        self.kept.append((topic, key, value, list(headers)))
        safe: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        safe.set_result(None)
        return safe

    def of(self, topic) -> list[tuple[bytes, list[tuple[str, bytes]]]]:
        return [(value, headers) for name, _, value, headers in self.kept if name == topic.name]

    @property
    def records(self) -> list[DetectionRecord]:
        return [DETECTIONS.decode(value) for value, _ in self.of(DETECTIONS)]

    @property
    def letters(self) -> list[DeadLetter]:
        return [DEAD_LETTERS.decode(value) for value, _ in self.of(DEAD_LETTERS)]


class Bench:
    """A detector that holds partition 0, and its surroundings."""

    def __init__(self) -> None:
        self.seer, self.broker, self.offset = Seer(), Broker(), 0
        outside: dict[str, Any] = {
            "looker": self.seer,
            "records": self.broker,
            "pictures": self.broker,
            "epochs": Epochs(),
            "catch_up": caught_up,
            "prefix": "",
            "source": "sightlog/detector/test",
        }
        self.detector = Failing(Outside(**outside), LIMITS)

    async def assigned(self) -> None:
        async def commit(_: object) -> bool:
            return True

        await self.detector.assigned({0}, commit)
        await self.detector.ready()

    def take(self, frame: Frame, **changed: Any) -> None:
        facts: dict[str, Any] = {
            "partition": 0,
            "offset": self.offset,
            "timestamp_ms": int(time.time() * 1000),
            "key": FRAMES.key(frame),
            "value": frame.jpeg,
            "headers": headers_of(frame),
        }
        self.offset += 1
        self.detector.take(Delivery(**(facts | changed)))

    async def settled(self) -> None:
        """Until all that was taken is accounted for."""
        async with asyncio.timeout(5):
            while self.detector.positions[0] < self.offset:  # noqa: ASYNC110 -- nobody tells
                await asyncio.sleep(0.001)


class Failing(Detector):
    """Fails its test where the process would end."""

    @override
    def fail(self, error: BaseException) -> None:
        raise AssertionError("the process ends") from error


def caught_up() -> "Future[None]":
    done: Future[None] = Future()
    done.set_result(None)
    return done


Scene = Callable[[Bench], Coroutine[None, None, None]]


@pytest.fixture
def play() -> Callable[[Scene], Bench]:
    """Runs a scene in an event loop of its own."""

    def play(scene: Scene) -> Bench:
        async def whole() -> Bench:
            bench = Bench()
            await bench.assigned()
            await scene(bench)
            await bench.detector.drain()
            return bench

        return asyncio.run(whole())

    return play


def test_frames_are_looked_at_after_rebalances_that_came_before_a_call_had_begun(play):
    after = [a_frame(a_stream(), 0) for _ in range(8)]

    async def rebalances(bench: Bench) -> None:
        for _ in range(LIMITS.calls + 1):
            bench.take(a_frame(a_stream(), 0))
            await bench.detector.revoked({0})
            await bench.assigned()
        assert bench.seer.seen == []
        for frame in after:
            bench.take(frame)
        await bench.settled()

    bench = play(rebalances)
    assert sorted(bench.seer.seen) == sorted(frame.id for frame in after)
    assert {record.outcome for record in bench.broker.records} == {Outcome.OK}


def test_a_frame_with_an_epoch_far_ahead_is_poison_and_fences_nobody(play):
    stream = a_stream()

    async def forged(bench: Bench) -> None:
        bench.take(a_frame(stream, 0))
        bench.take(a_frame(stream, 0, epoch=2**53, jpeg=b"junk"))
        bench.take(a_frame(stream, 1))
        await bench.settled()

    bench = play(forged)
    assert [record.outcome for record in bench.broker.records] == [Outcome.OK, Outcome.OK]
    [letter] = bench.broker.letters
    assert (letter.reason, letter.offset, letter.service) == ("EPOCH_IMPLAUSIBLE", 1, "detector")
