"""Detectors that die over and over at the two worst moments, each time with frames in flight."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import chain, count
from pathlib import Path
from random import Random
from uuid import uuid4

import pytest
from confluent_kafka import Message

from schemas.messages import DetectionRecord, Outcome, frame_id
from schemas.provision import Size, provision
from schemas.topics import DETECTIONS, FRAMES, facts_of
from tests.detector.fake_ai import PERSON, Call, FakeAI, Reply, saw
from tests.detector.site import Running, Site, a_frame, a_stream, eventually, headers_on, running
from tests.faults.books import Verdict
from tests.faults.check import check
from tests.faults.gather import Stack
from tests.faults.retention import keep_frames
from tests.persister.persister_process import PersisterProcess

POINTS = ("detector.before_record", "detector.before_ack")
STREAMS = 3
UNANSWERED = 3  # frames of each stream, so that few are shed and all of them are in flight
FRAME_EVERY_S = 0.1  # of each stream
LONG_MS = 3_600_000  # however often its detector dies, no frame grows too old
LIFE = 60  # records at most, so that some die before their first commit and some after it
OKS = 0.3  # of all outcomes, at least: what comes again at a start comes at once, and much is shed
PATIENCE_S = 60.0
SHORT = {"DETECTOR_SESSION_TIMEOUT_S": "3"}  # until a dead one's partitions go on


def seq_of(call: Call) -> int:
    return int(call.frame_id.rpartition("/")[2])


def behaviour(random: Random):
    """Answers that depend on the frame alone, and come in any order."""

    def reply(call: Call) -> Reply:
        return Reply(saw(*[PERSON] * (seq_of(call) % 3)), delay_s=random.uniform(0, 0.15))

    return reply


def id_of(message: Message) -> str:
    """Of the frame that it is, or is about."""
    return facts_of(headers_on(message))["ce_id"]


class Doomed:
    """An installation whose one detector dies, and is started again, at one point of its work."""

    def __init__(self, kafka: str, database: str, point: str, folder: Path) -> None:
        self.point = point
        self.folder = folder
        self.prefix = f"test-{uuid4().hex[:12]}."
        provision({"bootstrap.servers": kafka}, self.prefix, Size(data=2, slots=2))
        self.ai = FakeAI()
        self.site = Site(kafka, self.prefix, self.ai)
        self.frames = self.site.tail(FRAMES)
        self.stack = Stack(kafka, self.prefix, database)
        keep_frames(self.stack)
        self.streams = [a_stream() for _ in range(STREAMS)]
        self.random = Random(point)
        for stream in self.streams:
            self.ai.behave(stream, behaviour(self.random))
        self.persister = PersisterProcess(
            {
                "KAFKA_BOOTSTRAP_SERVERS": kafka,
                "DATABASE_URL": database,
                "SIGHTLOG_TOPIC_PREFIX": self.prefix,
                "FRAME_STORAGE_PATH": str(folder / "frames"),
            },
            folder / "persister.log",
        )
        eventually(self.persister.is_ready, PATIENCE_S)

    def close(self) -> None:
        self.persister.kill()
        self.frames.close()
        self.site.close()
        self.ai.close()

    @contextmanager
    def filming(self) -> Iterator[None]:
        """Frames all the while, a tenth of them not to be looked at."""
        stop = threading.Event()
        camera = threading.Thread(target=self.film, args=[stop])
        camera.start()
        try:
            yield
        finally:
            stop.set()
            camera.join()

    def film(self, stop: threading.Event) -> None:
        """The next of a stream once few are unanswered: what a camera sends regardless would all be
        too much for a detector that has just begun."""
        answers = self.site.tail(DETECTIONS)
        unanswered: dict[str, set[str]] = {stream: set() for stream in self.streams}
        seqs = {stream: count() for stream in self.streams}
        while not stop.wait(FRAME_EVERY_S):
            answers.read()
            told = {id_of(message) for message in chain.from_iterable(answers.messages.values())}
            answers.messages.clear()
            for stream, waiting in unanswered.items():
                waiting.difference_update(told)
                if len(waiting) < UNANSWERED:
                    seq = next(seqs[stream])
                    frame = a_frame(stream, seq, detect=seq % 10 != 9, max_age_ms=LONG_MS)
                    self.site.publish(frame)
                    waiting.update([frame.id] if frame.detect else [])
        answers.close()

    def die(self, times: int) -> Verdict:
        """So often; then one detector lives to finish the work."""
        with self.filming():
            for _ in range(times):
                point = f"{self.point}:{self.random.randint(1, LIFE)}"
                with running(self.site, self.folder, SIGHTLOG_CRASH_AT=point, **SHORT) as detector:
                    assert detector.process.wait(PATIENCE_S) == -9, detector.log.read_text()
                self.assert_nothing_committed_is_unanswered()
        with running(self.site, self.folder) as detector:
            eventually(lambda: self.has_finished(detector), 2 * PATIENCE_S)
            assert detector.terminate()[0] == 0
        return check(self.stack, grace_s=PATIENCE_S)

    def has_finished(self, detector: Running) -> bool:
        assert detector.process.poll() is None, detector.log.read_text()
        return self.site.is_all_committed()

    def assert_nothing_committed_is_unanswered(self) -> None:
        committed = self.site.committed()
        answered = {record.frame.id for record in self.records()}
        self.frames.read()
        for message in chain.from_iterable(self.frames.messages.values()):
            told = facts_of(headers_on(message))
            if (message.offset() or 0) < committed.get(message.partition() or 0, 0):
                assert told["detect"] == "0" or told["ce_id"] in answered

    def records(self) -> list[DetectionRecord]:
        return [record for stream in self.streams for record in self.site.records(stream)]


@pytest.fixture
def doomed(kafka, postgres, migrated_template, tmp_path):
    made: list[Doomed] = []

    def make(point: str) -> Doomed:
        database = postgres(f"test_{uuid4().hex[:12]}", template=migrated_template)
        folder = tmp_path / point
        folder.mkdir()
        made.append(Doomed(kafka, database, point, folder))
        return made[-1]

    yield make
    for one in made:
        one.close()


def assert_repeats_are_alike(records: list[DetectionRecord]) -> None:
    first: dict[str, DetectionRecord] = {}
    for record in records:
        assert record.record_id == frame_id(record.stream_id, record.frame.epoch, record.frame.seq)
        if record.outcome is Outcome.OK:
            told = first.setdefault(record.record_id, record)
            assert [d.id for d in record.detections] == [d.id for d in told.detections]
            assert len(record.detections) == record.frame.seq % 3


def die_and_tell(doomed: Doomed, times: int) -> str:
    verdict = doomed.die(times)
    assert verdict.violations == []
    assert_repeats_are_alike(doomed.records())
    assert verdict.outcomes[Outcome.OK] > max(times, OKS * sum(verdict.outcomes.values()))
    assert verdict.rows == sum(
        len(record.detections) for record in first_oks(doomed.records()).values()
    )
    return (
        f"{doomed.point}: {times} kills, published {verdict.published},"
        f" outcomes {verdict.outcomes}, repeats {verdict.repeats}, unread {verdict.unread},"
        f" rows {verdict.rows}"
    )


def first_oks(records: list[DetectionRecord]) -> dict[str, DetectionRecord]:
    oks: dict[str, DetectionRecord] = {}
    for record in records:
        if record.outcome is Outcome.OK:
            oks.setdefault(record.record_id, record)
    return oks


@pytest.mark.parametrize(
    "times",
    [5, 50],
    ids=["short", "long"],
)
@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_a_detector_killed_over_and_over_in_the_middle_of_its_work_loses_and_doubles_nothing(
    doomed, times
):
    installations = [doomed(point) for point in POINTS]
    with ThreadPoolExecutor(len(POINTS)) as pool:
        for told in pool.map(lambda one: die_and_tell(one, times), installations):
            print(told)
