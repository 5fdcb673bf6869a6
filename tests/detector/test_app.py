"""The pipeline by itself: what it is sent, and what it sends, at the moments that are hard to hit
with real processes."""

import asyncio
import os
import sys
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typing_extensions import override

from schemas.messages import (
    Box,
    DeadLetter,
    Detection,
    DetectionRecord,
    Frame,
    Outcome,
    detection_id,
)
from schemas.topics import (
    DEAD_LETTERS,
    DETECTIONS,
    FRAMES,
    LARGEST_DEAD_PAYLOAD,
    LARGEST_MESSAGE,
    facts_of,
)
from services.detector.app import Detector, Limits, Outside
from services.detector.consume import Delivery
from services.detector.fence import Epochs
from services.detector.publish import TooLarge, Undeliverable
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
        self.answers: dict[str, Finding] = {}

    async def look(self, frame: Frame, traceparent: str) -> Finding:
        self.seen.append(frame.id)
        await asyncio.sleep(0)
        return self.answers.get(frame.id, Finding(Outcome.OK))

    async def close(self) -> None: ...


class Broker:
    """In place of a producer: keeps all that it is sent, and has acknowledged it at once. Refuses
    what is too large, and dead letters with the errors that are given: at once or, those in a
    list, when asked for the acknowledgement."""

    def __init__(self) -> None:
        self.kept: list[tuple[str, bytes | None, bytes, list[tuple[str, bytes]]]] = []
        self.takes = LARGEST_MESSAGE  # bytes of a value; refuses more only in its acknowledgement
        self.refusals: list[Exception | list[Exception]] = []
        self.led = asyncio.Event()  # until it is, no dead letter is acknowledged
        self.led.set()

    async def send(self, topic, key, value, headers) -> "asyncio.Future[None]":
        safe: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        refusal = self.refusals.pop(0) if self.refusals and topic == DEAD_LETTERS.name else None
        if isinstance(refusal, Exception):
            raise refusal
        if len(value) + sum(len(text) for _, text in headers) > LARGEST_MESSAGE:
            raise TooLarge(topic)
        if refusal is not None:
            safe.set_exception(refusal[0])
        elif len(value) > self.takes:
            await asyncio.sleep(0)
            safe.set_exception(TooLarge(topic))
        else:
            self.kept.append((topic, key, value, list(headers)))
            if topic == DEAD_LETTERS.name and not self.led.is_set():
                return asyncio.create_task(self._acknowledged())
            safe.set_result(None)
        return safe

    async def _acknowledged(self) -> None:
        await self.led.wait()

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
    """Goes no further where the process would end."""

    ended_by: BaseException | None = None

    @override
    def fail(self, error: BaseException) -> None:
        self.ended_by = error
        raise AssertionError("the process ends") from error


def caught_up() -> "Future[None]":
    done: Future[None] = Future()
    done.set_result(None)
    return done


Scene = Callable[[Bench], Coroutine[None, None, None]]


def played(scene: Scene) -> Bench:
    """Runs a scene in an event loop of its own."""

    async def whole() -> Bench:
        bench = Bench()
        await bench.assigned()
        await scene(bench)
        await bench.detector.drain()
        return bench

    return asyncio.run(whole())


@pytest.fixture
def play() -> Callable[[Scene], Bench]:
    return played


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


@pytest.mark.parametrize("refusal", [TooLarge("x"), [TooLarge("x")]], ids=["at once", "later"])
def test_a_dead_letter_that_is_too_large_is_written_without_what_the_message_brought(play, refusal):
    async def poison(bench: Bench) -> None:
        bench.broker.refusals = [refusal]
        bench.take(a_frame(a_stream(), 0), value=None)
        await bench.settled()

    bench = play(poison)
    [letter] = bench.broker.letters
    assert (letter.reason, letter.offset, letter.key) == ("EMPTY", 0, None)
    [(_, headers)] = bench.broker.of(DEAD_LETTERS)
    assert not [name for name in facts_of(headers) if name.startswith("origin_")]


def test_a_poison_whose_letter_is_too_large_even_bare_is_passed_over(play):
    stream = a_stream()

    async def poison(bench: Bench) -> None:
        bench.broker.refusals = [TooLarge("x"), [TooLarge("x")]]
        bench.take(a_frame(stream, 0), value=None)
        bench.take(a_frame(stream, 1))
        await bench.settled()

    bench = play(poison)
    assert bench.broker.letters == []
    assert [record.frame.seq for record in bench.broker.records] == [1]


@pytest.mark.parametrize(
    "refusals",
    [
        [[Undeliverable("no such topic")]],
        [TooLarge("x"), Undeliverable("x")],
        [RuntimeError("bug")],
    ],
    ids=["refused", "refused when bare", "a bug"],
)
def test_whatever_else_keeps_a_dead_letter_from_being_written_ends_the_process(play, refusals):
    async def poison(bench: Bench) -> None:
        bench.broker.refusals = refusals
        bench.take(a_frame(a_stream(), 0), value=None)
        async with asyncio.timeout(5):
            while not bench.detector.ended_by:  # noqa: ASYNC110 -- nobody tells
                await asyncio.sleep(0.001)
        assert bench.detector.positions == {0: 0}

    assert play(poison).broker.letters == []


def test_a_letter_of_a_message_without_a_key_has_one(play):
    async def poison(bench: Bench) -> None:
        bench.take(a_frame(a_stream(), 0), key=None, value=None)
        await bench.settled()

    bench = play(poison)
    [(_, key, *_)] = bench.broker.kept
    assert key == f"{FRAMES.name}/0/0".encode()


async def has_room(bench: Bench) -> bool:
    """Whether the next message would be taken at once."""
    ready = asyncio.create_task(bench.detector.ready())
    await asyncio.sleep(0)
    room = ready.done()
    ready.cancel()
    return room


def some_text(size: int) -> bytes:
    """An object of its own each time."""
    return os.urandom(size // 2).hex().encode()


async def written(bench: Bench, letters: int) -> None:
    async with asyncio.timeout(5):
        while len(bench.broker.letters) < letters:  # noqa: ASYNC110 -- nobody tells
            await asyncio.sleep(0.001)


def test_a_message_is_let_go_of_while_its_letter_waits_for_the_broker(play):
    async def leaderless(bench: Bench) -> None:
        bench.broker.led.clear()
        values = [some_text(50_000), some_text(300_000)]
        before = [sys.getrefcount(value) for value in values]
        for at in range(len(values)):  # no name for a value that would count
            bench.take(a_frame(a_stream(), 0), value=values[at], headers=[])
        await written(bench, len(values))
        async with asyncio.timeout(5):
            while [sys.getrefcount(value) for value in values] != before:  # noqa: ASYNC110 -- nobody tells when the thread that made it has let go
                await asyncio.sleep(0.001)
        bench.broker.led.set()
        await bench.settled()

    play(leaderless)


@pytest.mark.parametrize("size", [50_000, 900_000], ids=["letters", "messages"])
def test_no_more_is_read_while_so_many_bytes_are_to_become_letters(play, size):
    async def leaderless(bench: Bench) -> None:
        bench.broker.led.clear()
        taken, value = 0, some_text(size)
        while await has_room(bench) and taken < LIMITS.unaccounted_frames - 1:
            bench.take(a_frame(a_stream(), 0), value=value, headers=[])
            taken += 1
        if size < LARGEST_DEAD_PAYLOAD:  # a larger message is let go as soon as its letter is made
            assert taken <= LIMITS.waiting_bytes / size + 1
        ready = asyncio.create_task(bench.detector.ready())
        await written(bench, taken)
        await asyncio.sleep(0.05)
        assert ready.done() is (size > LARGEST_DEAD_PAYLOAD)  # of those, letters hold nothing
        bench.broker.led.set()
        async with asyncio.timeout(5):
            await ready
        await bench.settled()

    play(leaderless)


NAMES = st.sampled_from([*facts_of(headers_of(a_frame("S" * 26, 0))), "model", "labels"])
VALUES = st.one_of(
    st.binary(max_size=40),
    st.text(max_size=40).map(str.encode),
    st.integers().map(lambda number: str(number).encode()),
    st.floats().map(lambda number: repr(number).encode()),
    st.sampled_from([b"9" * 5000, b"1e999", b"0001-01-01T00:00:00+23:59", b"source;1e999;nan"]),
)
HEADERS = st.lists(st.tuples(st.one_of(NAMES, st.text(max_size=9)), st.none() | VALUES), max_size=8)


@given(
    st.lists(
        st.tuples(HEADERS, st.none() | st.binary(max_size=9), st.none() | st.binary(max_size=9)),
        min_size=1,
        max_size=9,
    )
)
@settings(max_examples=200, deadline=None)
def test_whatever_is_sent_in_place_of_a_frame_has_one_outcome_or_one_letter(messages):
    async def poison(bench: Bench) -> None:
        for forged, key, value in messages:
            frame = a_frame("S" * 26, 0, jpeg=b"x" if value is None else value)
            headers = [*headers_of(frame), *forged]
            if key is None:
                bench.take(frame, headers=headers)
            else:
                bench.take(frame, headers=headers, key=key, value=value)
        await bench.settled()

    bench = played(poison)
    undetected = sum("detect" in dict(forged) for forged, _, _ in messages)
    assert len(messages) - undetected <= len(bench.broker.kept) <= len(messages)


LONG = b"x" * 100_000
FORGED = {
    "an age beyond arithmetic": ("agems", b"9" * 400),
    "an age of centuries": ("maxagems", b"9" * 15),
    "a model longer than a URL": ("model", LONG),
    "a clock longer than a record": ("clock", LONG),
    "a picture wider than a JPEG": ("width", b"65536"),
}


@pytest.mark.parametrize("forged", FORGED)
def test_what_no_owner_says_of_a_frame_makes_it_poison(play, forged):
    frame = a_frame(a_stream(), 0)

    async def poison(bench: Bench) -> None:
        bench.take(frame, headers=[*headers_of(frame), FORGED[forged]])
        bench.take(a_frame(a_stream(), 0), timestamp_ms=8 * 10**12)
        bench.take(a_frame("S" * 1_000, 0))
        await bench.settled()

    bench = play(poison)
    assert [letter.reason for letter in bench.broker.letters] == ["WRONG_SHAPE"] * 3
    assert bench.seer.seen == []


@pytest.mark.parametrize("takes", [LARGEST_MESSAGE, 100_000], ids=["nobody", "not the broker"])
def test_a_record_that_is_too_large_says_only_that_it_failed_and_in_its_place(play, takes):
    streams = [a_stream(), a_stream()]
    box = Box(x=0, y=0, width=1, height=1)
    seen = Detection(
        id=detection_id("frame", 0),
        label="person",
        confidence=0.5,
        bounding_box=box,
        normalized_box=box,
        attributes={"text": "x" * takes},
    )

    async def talkative(bench: Bench) -> None:
        bench.broker.takes = takes
        bench.seer.answers = {f"{streams[0]}/1000/1": Finding(Outcome.OK, detections=(seen,))}
        for seq in range(3):
            for stream in streams:
                bench.take(a_frame(stream, seq))
            await asyncio.sleep(0)
        await bench.settled()

    bench = play(talkative)
    records = [record for record in bench.broker.records if record.stream_id == streams[0]]
    assert [record.frame.seq for record in records] == [0, 1, 2]
    large = records[1]
    assert (large.outcome, large.reason) == (Outcome.FAILED, "RECORD_TOO_LARGE")
    assert (large.record_id, large.detections) == (f"{streams[0]}/1000/1", ())
