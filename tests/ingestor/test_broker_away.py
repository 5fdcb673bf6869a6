"""The broker goes away for a while: by SIGKILL, by SIGTERM, and by hanging."""

import json
import os
import random
import signal
import time
from collections import Counter
from functools import partial
from itertools import cycle, groupby, islice, pairwise

import psutil
import pytest
from msgspec.structs import replace

from schemas.messages import Reason, Status, StreamSpec
from services.ingestor.publish import MOST_IN_FLIGHT
from tests.ingestor.broker import OwnBroker
from tests.ingestor.conftest import assert_near_bar, eventually, is_alive

BUFFER_BYTES = 1 << 18
BACK_WITHIN_S = 15.0
MOST_MORE_MB = 16.0  # of memory; the queues of all streams, and the producer's own
SAID_AFTER_S = 5.0
STOPPED_WITHIN_S = 10.0
LOST_AFTER_S = 10.0  # the time-out of a frame
RATES = (1, 5, 20)  # frames a second


@pytest.fixture(scope="module")
def broker(tmp_path_factory, warden):
    broker = OwnBroker(tmp_path_factory.mktemp("broker"), warden)
    yield broker
    broker.end()


@pytest.fixture(scope="module")
def kafka(broker):
    return broker.bootstrap_servers


def clip(stream_id, slot, fps):
    return StreamSpec(
        stream_id=stream_id,
        slot=slot,
        generation=1,
        running=True,
        name="a clip",
        url="file:bikes.mp4?loop=1",
        fps=fps,
    )


@pytest.fixture(scope="module")
def streams(topics):
    specs = [clip(f"S{fps}", slot, fps) for slot, fps in enumerate(RATES)]
    return [topics.want(spec).stream_id for spec in specs]


@pytest.fixture(scope="module")
def ingestor(start_ingestor, streams, topics):
    ingestor = start_ingestor(INGESTOR_BUFFER_BYTES=str(BUFFER_BYTES)).wait_ready()
    for stream_id in streams:
        topics.wait_status(stream_id, "RUNNING")
    return ingestor


class Outage:
    """What an ingestor does meanwhile."""

    def __init__(self, ingestor):
        self._ingestor = ingestor
        self._log_begin = len(ingestor.log.read_text())
        self._before_mb = self._memory_mb
        self.reasons = set()
        self.cameras = set()
        self._peak_mb = 0.0

    @property
    def _memory_mb(self):
        return psutil.Process(self._ingestor.process.pid).memory_info().rss / 1e6

    def watch(self, seconds):
        until_s = time.monotonic() + seconds
        while time.monotonic() < until_s:
            state = self._ingestor.state
            self.reasons.add(state["reason"])
            self.cameras.add(tuple(sorted(each["pid"] for each in state["cameras"])))
            self._peak_mb = max(self._peak_mb, self._memory_mb)
            time.sleep(0.2)

    @property
    def more_mb(self):
        return self._peak_mb - self._before_mb

    def complaints(self):
        lines = self._ingestor.log.read_text()[self._log_begin :].splitlines()
        return [line for line in map(json.loads, lines) if line["level"] != "info"]


def is_right_again(topics, stream_id, since):
    """Running, without complaint, with frames that were captured since then."""
    said, newest = topics.statuses(stream_id)[-1], topics.frames(stream_id)[-1]
    is_well = (said.status, said.reason) == (Status.RUNNING, None)
    return is_well and newest.epoch == said.epoch and newest.captured_at.timestamp() > since


def assert_frames_are_whole(frames):
    """Epochs in order, each gapless from 0, and each frame's totals true."""
    epochs = [list(group) for _, group in groupby(frames, lambda frame: frame.epoch)]
    assert [each[0].epoch for each in epochs] == sorted({frame.epoch for frame in frames})
    for epoch in epochs:
        assert [frame.seq for frame in epoch] == list(range(len(epoch)))
        assert all(a.captured_at < b.captured_at for a, b in pairwise(epoch))
        assert all(a.dropped <= b.dropped for a, b in pairwise(epoch))
    assert all(frame.captured == frame.dropped + frame.seq + 1 for frame in frames)


def assert_books_balance(topics, stream_id):
    """At every heartbeat; and what an epoch says at its end is what is there of it. A frame that
    was under way when the broker hung may have arrived unacknowledged."""
    frames = topics.frames(stream_id)
    assert_frames_are_whole(frames)
    heartbeats = topics.heartbeats(stream_id)
    assert all(each.ledger.balances and each.totals.balances for each in heartbeats)
    published = Counter(frame.epoch for frame in frames)
    finals = {each.epoch: each.totals for each in heartbeats}
    for epoch, totals in finals.items():
        if epoch != frames[-1].epoch:
            assert totals.pending == 0
            assert 0 <= published[epoch] - totals.published <= MOST_IN_FLIGHT
    return finals


def captured(topics, stream_id):
    """Since the first frame, as the heartbeats tell."""
    finals = assert_books_balance(topics, stream_id)
    return sum(totals.captured for totals in finals.values())


def has_gone_on(topics, stream_id, beyond):
    """As the heartbeats tell, which waited for the broker, too."""
    return captured(topics, stream_id) > beyond


def go_through(broker, ingestor, topics, streams, how, seconds):
    """The outage, with all that must hold during and after any."""
    before = {stream_id: captured(topics, stream_id) for stream_id in streams}
    outage = Outage(ingestor)
    broker.go(how)
    outage.watch(seconds)
    complaints = len(outage.complaints())
    broker.come_back()
    back_at, back_s = time.time(), time.monotonic()
    for stream_id in streams:
        eventually(partial(is_right_again, topics, stream_id, back_at), 60)
    assert_near_bar("statuses right after, s", time.monotonic() - back_s, BACK_WITHIN_S)
    print(how.name, seconds, "complaints", complaints, "more MB", round(outage.more_mb, 1))
    assert complaints <= 1.1 * seconds + 8  # about one a second
    assert outage.more_mb < MOST_MORE_MB
    assert len(outage.cameras) == 1
    assert seconds < SAID_AFTER_S or Reason.BROKER_DOWN in outage.reasons
    assert ingestor.state["reason"] is None
    for stream_id, known in before.items():
        eventually(partial(has_gone_on, topics, stream_id, known + 25 * seconds / 2))
    return outage


def test_a_broker_that_hangs_for_a_while_costs_what_finds_no_room_and_no_epoch(
    broker, ingestor, topics, streams
):
    epochs = {stream_id: topics.wait_frames(stream_id, 1)[-1].epoch for stream_id in streams}
    go_through(broker, ingestor, topics, streams, signal.SIGSTOP, 4.5)
    assert {stream_id: topics.frames(stream_id)[-1].epoch for stream_id in streams} == epochs
    assert topics.frames("S20")[-1].dropped > topics.frames("S20")[0].dropped
    said = [(each.status, each.reason) for each in topics.statuses("S5")]
    assert said[-2:] == [(Status.RUNNING, Reason.BROKER_DOWN), (Status.RUNNING, None)]
    down = topics.statuses("S5")[-2]
    assert down.message
    assert down.hint


def test_a_killed_broker_is_outlived_and_a_frame_that_it_never_took_ends_its_epoch(
    broker, ingestor, topics, streams
):
    before = topics.frames("S5")[-1].epoch
    go_through(broker, ingestor, topics, streams, signal.SIGKILL, LOST_AFTER_S + 1)
    assert topics.frames("S5")[-1].epoch > before


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_ten_minutes_without_a_broker_one_by_one_are_outlived(broker, ingestor, topics, streams):
    kinds = cycle([signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP])
    for how in islice(kinds, 10):
        go_through(broker, ingestor, topics, streams, how, 60)


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_ten_outages_of_any_kind_and_length_are_outlived(broker, ingestor, topics, streams):
    chance = random.Random(1)
    for _ in range(10):
        how = chance.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP])
        go_through(broker, ingestor, topics, streams, how, chance.uniform(1, 14))


def stop_with_a_hung_child(ingestor, topics, streams, stop_within_s):
    """One camera's process hangs, one camera is in back-off; all are gone when it ends."""
    family = psutil.Process(ingestor.process.pid).children(recursive=True)
    os.kill(ingestor.camera("S5"), signal.SIGSTOP)
    asked_s = time.monotonic()
    assert ingestor.stop() == 0
    took_s = time.monotonic() - asked_s
    assert_near_bar("stopped after, s", took_s, stop_within_s)
    eventually(lambda: not any(is_alive(each.pid) for each in family), 4 * 3)
    lines = [json.loads(line) for line in ingestor.log.read_text().splitlines()]
    assert lines[-1]["event"] == "ingestor.stopped"
    assert not [line for line in lines if "exception" in line]


def test_it_stops_in_order_though_a_camera_hangs_and_another_fails(
    broker, ingestor, topics, streams
):
    topics.want(replace(clip("S0", 3, 5), url="file:nothing.mp4"))
    topics.want(clip("S10", 3, 10))
    topics.wait_status("S0", "ERROR", Reason.NOT_FOUND)
    topics.wait_frames("S10", 1)
    stop_with_a_hung_child(ingestor, topics, streams, STOPPED_WITHIN_S)
    for stream_id in (*streams, "S0", "S10"):
        topics.wait_status(stream_id, "STOPPED", seconds=5)
    for stream_id in (*streams, "S10"):
        finals = assert_books_balance(topics, stream_id)
        newest = topics.frames(stream_id)[-1]
        assert finals[newest.epoch].pending == 0
        assert finals[newest.epoch].published == newest.seq + 1


@pytest.mark.parametrize(
    "how", [signal.SIGKILL, pytest.param(signal.SIGSTOP, marks=pytest.mark.soak)]
)
def test_it_stops_in_order_while_the_broker_is_away(broker, start_ingestor, topics, streams, how):
    ingestor = start_ingestor().wait_ready()
    eventually(lambda: ingestor.camera("S5") and len(ingestor.cameras) == 4)
    broker.go(how)
    stop_with_a_hung_child(ingestor, topics, streams, STOPPED_WITHIN_S)
    broker.come_back()
    for stream_id in streams:
        assert_frames_are_whole(topics.frames(stream_id))
