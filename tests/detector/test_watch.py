import threading
from uuid import uuid4

import pytest
from confluent_kafka import Consumer

from schemas.topics import FRAMES
from services.detector import watch
from services.detector.watch import Patience, Watch, lagging
from tests.detector.fake_ai import FakeAI
from tests.detector.site import Site, a_frame, a_stream, eventually


def test_patience_ends_with_a_partition_that_lags_and_stands_still():
    patience = Patience(stall_s=30, longest_gap_s=20)
    asked = [patience.is_over(now, {0: now, 1: 17}) for now in range(0, 36, 5)]
    assert asked == [False] * 6 + [True] * 2


def test_patience_starts_anew_when_it_moves_or_has_caught_up():
    patience = Patience(stall_s=30, longest_gap_s=20)
    for now in range(0, 300, 5):
        assert not patience.is_over(now, {0: now // 20})
    for now in range(300, 600, 5):
        assert not patience.is_over(now, {0: 17} if now % 20 else {})


def test_patience_starts_anew_after_the_process_itself_was_stopped():
    patience = Patience(stall_s=30, longest_gap_s=20)
    assert not patience.is_over(0, {0: 17})
    assert not patience.is_over(60, {0: 17})


@pytest.fixture(scope="module")
def site(kafka, topic_prefix):
    ai = FakeAI()
    site = Site(kafka, topic_prefix, ai)
    yield site
    site.close()
    ai.close()


@pytest.fixture
def stuck(site):
    """A member of the group that holds all partitions and does nothing."""
    group = f"{site.prefix}detector-{uuid4().hex[:6]}"
    consumer = Consumer(
        {"bootstrap.servers": site.kafka, "group.id": group, "enable.auto.commit": False}
    )
    consumer.subscribe([site.name(FRAMES)])

    def holds_all() -> bool:
        consumer.poll(0.1)
        return bool(len(consumer.assignment()) == site.partitions)

    eventually(holds_all, 30)
    yield group, {partition: 0 for partition in range(site.partitions)}
    consumer.close()


def test_only_partitions_with_frames_that_nobody_committed_lag(site, stuck):
    group, held = stuck
    kafka = {"bootstrap.servers": site.kafka}
    assert lagging(kafka, group, site.name(FRAMES), held) == {}
    site.publish(a_frame(a_stream(), 0))
    behind = eventually(lambda: lagging(kafka, group, site.name(FRAMES), held))
    assert isinstance(behind, dict)
    assert len(behind) == 1
    others = {partition: 0 for partition in held if partition not in behind}
    assert lagging(kafka, group, site.name(FRAMES), others) == {}


def test_a_broker_that_does_not_answer_is_not_our_fault(monkeypatch):
    monkeypatch.setattr(watch, "BROKER_TIMEOUT_S", 0.2)
    nobody = {"bootstrap.servers": "127.0.0.1:1", "logger": _Silent()}
    assert lagging(nobody, "group", "topic", {0: 0}) == {}


class _Silent:
    def log(self, *_: object) -> None: ...


def test_a_worker_that_stands_still_while_frames_wait_is_given_up(site, stuck):
    group, held = stuck
    site.publish(*(a_frame(a_stream(), 0) for _ in range(8)))
    given_up: list[str] = []
    done = threading.Event()

    def give_up(why: str) -> None:
        given_up.append(why)
        done.set()

    kafka = {"bootstrap.servers": site.kafka}
    watching = Watch(lambda: lagging(kafka, group, site.name(FRAMES), held), stall_s=1)
    watching.start(give_up)
    assert done.wait(15)
    watching.end()
    assert given_up == ["frames wait, the broker answers, and nothing has moved"]
