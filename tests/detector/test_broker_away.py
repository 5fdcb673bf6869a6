"""The broker goes away for a while, with frames in flight; and stays away while one is to end."""

import json
import signal
import threading
import time
from collections import Counter
from functools import partial
from uuid import uuid4

import pytest

from schemas.messages import Outcome
from schemas.provision import Size, provision
from tests.detector.fake_ai import FakeAI, Reply
from tests.detector.site import Site, a_frame, a_stream, eventually, running
from tests.ingestor.broker import OwnBroker

LINES_PER_S = 1.5  # "about one a second in all"
FIRST_SECOND = 12  # each of the clients says once that it has lost its broker
BACK_S = 15.0


@pytest.fixture(scope="module")
def broker(tmp_path_factory, warden):
    broker = OwnBroker(tmp_path_factory.mktemp("broker"), warden)
    yield broker
    broker.end()


@pytest.fixture
def site(broker):
    prefix = f"test-{uuid4().hex[:12]}."
    provision({"bootstrap.servers": broker.bootstrap_servers}, prefix, Size(data=4, slots=2))
    ai = FakeAI()
    site = Site(broker.bootstrap_servers, prefix, ai)
    yield site
    site.close()
    ai.close()


def lines_by_second(log: str) -> Counter[str]:
    """Each line is one JSON object with the time of its writing."""
    return Counter(json.loads(line)["timestamp"][:19] for line in log.splitlines())


@pytest.mark.parametrize(
    "away_s",
    [2, pytest.param(60, marks=[pytest.mark.soak, pytest.mark.timeout(600)])],
    ids=["short", "long"],
)
def test_it_goes_on_by_itself_after_the_broker_was_away_and_says_little_meanwhile(
    broker, site, tmp_path, away_s
):
    held, others, let_go = a_stream(), [a_stream() for _ in range(4)], threading.Event()
    site.ai.behave(held, lambda _: Reply(held_by=let_go))
    with running(site, tmp_path, DETECTOR_AI_TIMEOUT_S="30") as detector:
        eventually(detector.is_ready, 30)
        site.publish(*(a_frame(stream, 0) for stream in (held, *others)))
        eventually(lambda: site.ai.called(held))
        for stream in others:
            site.expect(stream, 1)
        said_before = len(detector.log.read_text())
        broker.go(signal.SIGKILL)
        let_go.set()  # its record finds no broker
        threading.Event().wait(away_s)
        said = detector.log.read_text()[said_before:]
        broker.come_back()
        came_back = time.monotonic()
        site.publish(*(a_frame(stream, 1) for stream in (held, *others)))
        for stream in (held, *others):
            eventually(partial(has_records_of, site, stream, 2), 60)
            assert {record.outcome for record in site.records(stream)} == {Outcome.OK}
        seconds = time.monotonic() - came_back
        eventually(site.is_all_committed, 30)
        assert detector.process.poll() is None
        counts = lines_by_second(said)
        most = max(counts.values(), default=0)
        print(
            f"away {away_s} s: {counts.total()} lines, at most {most} in a second;"
            f" going on {seconds:.1f} s after it was back, the bar is {BACK_S:.0f}"
        )
        assert seconds < 4 * BACK_S
        assert counts.total() <= FIRST_SECOND + LINES_PER_S * away_s, said
        assert "Traceback" not in detector.log.read_text(), detector.log.read_text()


def has_records_of(site: Site, stream: str, frames: int) -> bool:
    return len({record.record_id for record in site.records(stream)}) == frames


@pytest.mark.soak
def test_sigterm_ends_it_also_while_the_broker_is_away_and_the_ai_service_hangs(
    broker, site, tmp_path
):
    stream, let_go = a_stream(), threading.Event()
    site.ai.behave(stream, lambda _: Reply(held_by=let_go))
    with running(site, tmp_path, DETECTOR_AI_TIMEOUT_S="30") as detector:
        eventually(detector.is_ready, 30)
        site.publish(a_frame(stream, 0))
        eventually(lambda: site.ai.called(stream))
        broker.go(signal.SIGKILL)
        try:
            threading.Event().wait(2)  # until all clients have noticed
            status, seconds = detector.terminate()
        finally:
            broker.come_back()
        print(f"ended {seconds:.1f} s after SIGTERM, the bar is 10")
        assert (status, seconds < 40) == (0, True), detector.log.read_text()
        assert "Traceback" not in detector.log.read_text(), detector.log.read_text()
    let_go.set()
    with running(site, tmp_path):
        [record] = site.expect(stream, 1, 40)
        assert record.outcome is Outcome.OK
