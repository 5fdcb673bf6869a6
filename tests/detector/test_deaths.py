"""Detectors that are killed, crash, are joined by others, or find no broker: nothing is lost."""

import json
import signal
import threading
from collections import defaultdict
from contextlib import ExitStack
from functools import partial
from uuid import uuid4

import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from schemas.messages import DetectionRecord, Outcome
from schemas.provision import Size, provision
from schemas.topics import FRAMES
from tests.detector.fake_ai import FakeAI, Reply
from tests.detector.site import Site, a_frame, a_stream, eventually, running, started
from tests.ports import free_port

PATIENT_SESSION = {"DETECTOR_SESSION_TIMEOUT_S": "8"}  # outlives a machine that stands still
SHORT = {"DETECTOR_SESSION_TIMEOUT_S": "4"}  # until a dead worker's partitions go on
PATIENT = {"DETECTOR_AI_TIMEOUT_S": "30", "DETECTOR_AI_CALLS": "20"}
TAKE_OVER_S = 30


@pytest.fixture
def ai():
    ai = FakeAI()
    yield ai
    ai.close()


@pytest.fixture
def sites(kafka, ai):
    """Makes installations of their own, so that more than one death can be watched at a time."""
    made: list[Site] = []

    def make() -> Site:
        prefix = f"test-{uuid4().hex[:12]}."
        provision({"bootstrap.servers": kafka}, prefix, Size(data=4, slots=2))
        made.append(Site(kafka, prefix, ai))
        return made[-1]

    yield make
    for site in made:
        site.close()


@pytest.fixture(scope="module", autouse=True)
def lonely(tmp_path_factory):
    """A detector without a broker: begins with the first test, so that the last need not wait."""
    where = {"KAFKA_BOOTSTRAP_SERVERS": f"127.0.0.1:{free_port()}"}
    with started(where, tmp_path_factory.mktemp("lonely")) as detector:
        yield detector


def stream_in(site: Site, partition: int) -> str:
    while True:
        stream = a_stream()
        if site.partition_of(stream) == partition:
            return stream


def commit(site: Site, partition: int, offset: int) -> None:
    at = TopicPartition(site.name(FRAMES), partition, offset)
    group = ConsumerGroupTopicPartitions(f"{site.prefix}detector", [at])

    def is_done() -> bool:
        """A client of its own each time: one keeps waiting for a coordinator that was not up."""
        admin = AdminClient({"bootstrap.servers": site.kafka})
        [told] = admin.alter_consumer_group_offsets([group]).values()
        try:
            told.result(2)
        except (KafkaException, TimeoutError):
            return False
        return site.committed().get(partition) == offset

    eventually(is_done, 20)


def first_outcomes(records: list[DetectionRecord]) -> dict[int, Outcome]:
    """By seq, the outcome that counts: the first ok, else the first."""
    counts: dict[int, Outcome] = {}
    for record in records:
        if record.frame.seq not in counts or record.outcome is Outcome.OK:
            counts.setdefault(record.frame.seq, record.outcome)
            if counts[record.frame.seq] is not Outcome.OK:
                counts[record.frame.seq] = record.outcome
    return counts


def test_a_frame_in_flight_at_a_kill_comes_again_whatever_was_committed_before(sites, ai, tmp_path):
    """In one partition nothing is committed and N = 0; in one 0 is, and N = 0; in one N = 10 is."""
    site, let_go = sites(), threading.Event()
    held = [stream_in(site, p) for p in range(3)]
    others = [stream_in(site, p) for p in range(3)]
    commit(site, 1, 0)
    site.publish(*(a_frame(others[2], seq, detect=False) for seq in range(10)))
    commit(site, 2, 10)
    for stream in held:
        ai.behave(stream, lambda _: Reply(held_by=let_go))
    with running(site, tmp_path, **PATIENT_SESSION, **PATIENT) as detector:
        eventually(detector.is_ready, 30)
        site.publish(*(a_frame(stream, 0) for stream in held))
        eventually(lambda: all(ai.called(stream) for stream in held))
        site.publish(*(a_frame(s, seq) for s in (*others, *held) for seq in range(100, 150)))
        for stream in others:
            site.expect(stream, 50)  # N+1 ... N+50 are answered or shed
        eventually(lambda: detector.metric("sightlog_detector_unaccounted_frames") == 303)
        threading.Event().wait(2.2)  # two commits, had there been anything to commit
        detector.kill()
    assert site.committed() == {1: 0, 2: 10}
    assert [site.records(stream) for stream in held] == [[], [], []]
    let_go.set()
    with running(site, tmp_path, DETECTOR_AI_CALLS="64"):  # so that no first frame waits for room
        for stream in held:
            site.expect(stream, 51, TAKE_OVER_S)
            assert site.records(stream)[0].frame.seq == 0
            assert site.records(stream)[0].outcome is Outcome.OK
        eventually(site.is_all_committed)


def test_a_crash_before_a_record_or_before_its_frame_is_committed_loses_nothing(
    sites, ai, tmp_path
):
    points = {"detector.before_record:8": sites(), "detector.before_ack:8": sites()}
    streams = [a_stream() for _ in range(3)]
    with ExitStack() as opened:
        doomed = [
            opened.enter_context(
                running(site, tmp_path, SIGHTLOG_CRASH_AT=point, **PATIENT_SESSION)
            )
            for point, site in points.items()
        ]
        for detector, site in zip(doomed, points.values(), strict=True):
            eventually(detector.is_ready, 30)
            site.publish(*(a_frame(stream, seq) for seq in range(10) for stream in streams))
        assert [detector.process.wait(20) for detector in doomed] == [-9, -9]
    before = {
        point: sum(len(site.records(stream)) for stream in streams)
        for point, site in points.items()
    }
    assert before["detector.before_record:8"] <= 7
    assert before["detector.before_ack:8"] >= 8
    first, second = points.values()
    with running(first, tmp_path) as one, running(second, tmp_path) as two:
        for site in points.values():
            eventually(site.is_all_committed, TAKE_OVER_S)
            for stream in streams:
                assert sorted(first_outcomes(site.records(stream))) == list(range(10))
        one.process.terminate()
        assert (two.terminate()[0], one.process.wait(15)) == (0, 0)


def test_workers_come_and_go_and_every_frame_has_its_record_in_order(sites, ai, tmp_path):
    site, stop = sites(), threading.Event()
    streams = [stream_in(site, p) for p in range(4)]
    sent: dict[str, int] = defaultdict(int)

    def film() -> None:
        while not stop.wait(0.05):
            for stream in streams:
                site.publish(a_frame(stream, sent[stream]))
                sent[stream] += 1

    camera = threading.Thread(target=film)
    with running(site, tmp_path, **PATIENT) as one:
        eventually(one.is_ready, 30)
        camera.start()
        try:
            with running(site, tmp_path, **PATIENT) as two:
                share = "sightlog_detector_assigned_partitions"
                eventually(two.is_ready, 30)
                eventually(lambda: (one.metric(share), two.metric(share)) == (2, 2), 20)
                ended = two.terminate()
            eventually(lambda: one.metric(share) == 4, 20)
        finally:
            stop.set()
            camera.join()
        assert ended[0] == 0 and ended[1] < 10
        eventually(site.is_all_committed, 20)
        log = one.log.read_text()
    for stream in streams:
        records = site.records(stream)
        outcomes = first_outcomes(records)
        assert sorted(outcomes) == list(range(sent[stream]))
        assert set(outcomes.values()) <= {Outcome.OK, Outcome.SHED}
        fresh = [r.frame.seq for i, r in enumerate(records) if is_first(records, i)]
        assert fresh == sorted(fresh)
        assert len(records) - len(fresh) < len(fresh) / 4, "few are done twice"
    assert "Traceback" not in log


def is_first(records: list[DetectionRecord], at: int) -> bool:
    return all(record.record_id != records[at].record_id for record in records[:at])


def test_one_that_was_stopped_for_a_session_ends_instead_of_finishing_what_it_had_begun(
    sites, ai, tmp_path
):
    site, let_go, stream = sites(), threading.Event(), a_stream()
    ai.behave(stream, lambda _: Reply(held_by=let_go))
    with running(site, tmp_path, **SHORT, **PATIENT) as detector:
        eventually(detector.is_ready, 30)
        site.publish(a_frame(stream, 0))
        eventually(lambda: ai.called(stream))
        detector.process.send_signal(signal.SIGSTOP)
        let_go.set()
        threading.Event().wait(3.6)  # from four fifths of it on another may hold its partitions
        detector.process.send_signal(signal.SIGCONT)
        assert detector.process.wait(10) == 1
    assert "slept through the session" in detector.log.read_text()
    assert site.records(stream) == []


@pytest.mark.soak
def test_one_that_stands_still_while_frames_wait_ends_itself_and_one_that_hangs_ends_at_sigterm(
    sites, ai, tmp_path
):
    site, stuck, let_go = sites(), sites(), threading.Event()
    streams = [a_stream(), a_stream()]
    for stream in streams:
        ai.behave(stream, lambda _: Reply(held_by=let_go))
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    patient = PATIENT | {"TMPDIR": str(scratch)}
    with (
        running(site, tmp_path, **patient) as hanging,
        running(stuck, tmp_path, DETECTOR_STALL_S="5", **patient) as still,
    ):
        for detector, its, stream in ((hanging, site, streams[0]), (still, stuck, streams[1])):
            eventually(detector.is_ready, 60)
            its.publish(a_frame(stream, 0))
            eventually(partial(ai.called, stream))
        status, seconds = hanging.terminate()
        assert (status, seconds < 10) == (0, True), hanging.log.read_text()
        assert "Traceback" not in hanging.log.read_text()
        assert still.process.wait(40) == 1
        [said] = [line for line in still.log.read_text().splitlines() if "detector.stuck" in line]
        assert (
            json.loads(said)["reason"] == "frames wait, the broker answers, and nothing has moved"
        )
    assert list(scratch.iterdir()) == []
    let_go.set()
    with running(site, tmp_path):
        [record] = site.expect(streams[0], 1, TAKE_OVER_S)
        assert record.outcome is Outcome.OK


@pytest.mark.soak
def test_sigterm_ends_one_that_still_waits_to_join_its_group(sites, ai, tmp_path):
    site = sites()
    with running(site, tmp_path) as first:
        eventually(first.is_ready, 30)
        first.kill()
    with running(site, tmp_path) as second:
        eventually(site.is_joining)  # and waits for the dead one's session to end
        assert not second.is_ready()
        status, seconds = second.terminate()
        assert (status, seconds < 10) == (0, True), second.log.read_text()
        assert "Traceback" not in second.log.read_text()


def test_without_a_broker_it_waits_and_sigterm_ends_it_with_status_0(lonely):
    eventually(lambda: "fence.waiting" in lonely.log.read_text(), 30)
    assert not lonely.is_ready()
    status, seconds = lonely.terminate()
    assert status == 0
    assert seconds < 10
    assert "Traceback" not in lonely.log.read_text()


def test_a_wrong_setting_ends_it_with_its_name(sites, ai, tmp_path):
    with running(sites(), tmp_path, AI_SERVICE_URL="nonsense") as detector:
        assert detector.process.wait(20) == 2
        assert detector.log.read_text() == (
            "setting AI_SERVICE_URL: expected an http or https address\n"
        )
