"""Ingestors that come, go, are killed and share."""

import os
import random
import signal
import sys
import time
from contextlib import suppress
from functools import partial
from itertools import pairwise

import psutil
import pytest
from msgspec.structs import replace

from schemas.messages import StreamSpec
from tests.ingestor.conftest import assert_near_bar, eventually, is_alive

SLOTS = 4
ORPHANS_GONE_S = 3.0
KILLS = 20


@pytest.fixture(scope="module")
def specs(topics):
    wanted = [
        StreamSpec(
            stream_id=f"S{slot}",
            slot=slot,
            generation=1,
            running=True,
            name="a clip",
            url="file:bikes.mp4?loop=1",
            fps=5,
        )
        for slot in range(SLOTS)
    ]
    for slot in range(SLOTS):
        topics.say_nonsense(slot)
    return [topics.want(spec) for spec in wanted]


@pytest.fixture(scope="module")
def streams(specs):
    return [spec.stream_id for spec in specs]


def assert_epochs_are_whole(topics, stream_id):
    frames = topics.frames(stream_id)
    epochs = [frame.epoch for frame in frames]
    assert epochs == sorted(epochs)
    for epoch in set(epochs):
        seqs = [frame.seq for frame in frames if frame.epoch == epoch]
        assert seqs == list(range(len(seqs)))


def assert_books_balance(topics, stream_id):
    frames, heartbeats = topics.frames(stream_id), topics.heartbeats(stream_id)
    assert all(each.captured == each.dropped + each.seq + 1 for each in frames)
    assert all(each.ledger.balances and each.totals.balances for each in heartbeats)


def kill(ingestor):
    """With all that it has started gone soon after."""
    family = psutil.Process(ingestor.process.pid).children(recursive=True)
    os.kill(ingestor.process.pid, signal.SIGKILL)
    killed_at = time.monotonic()
    eventually(lambda: not any(is_alive(each.pid) for each in family), 4 * ORPHANS_GONE_S)
    assert_near_bar("orphans gone after, s", time.monotonic() - killed_at, ORPHANS_GONE_S)


def wait_for_higher(topics, stream_id, epoch, seconds):
    eventually(lambda: any(f.epoch > epoch for f in topics.frames(stream_id)), seconds)


def test_ingestors_come_and_go_and_every_stream_goes_on(
    start_ingestor, topics, specs, streams, cameras
):
    one = start_ingestor().wait_ready()
    first = {stream_id: topics.wait_frames(stream_id, 1)[-1].epoch for stream_id in streams}

    two = start_ingestor().wait_ready()  # takes its share
    eventually(lambda: len(two.cameras) == 2 and len(one.cameras) == 2, 40)
    moved = list(two.cameras)
    for stream_id in moved:
        wait_for_higher(topics, stream_id, first[stream_id], 40)
    for stream_id in set(streams) - set(moved):
        assert topics.frames(stream_id)[-1].epoch == first[stream_id]

    (fenced, *_), (elsewhere, *_) = set(streams) - set(moved), moved
    running = topics.wait_status(fenced, "RUNNING")
    forged = replace(running, owner="nobody", epoch=time.time_ns() // 1_000_000 + 1000)
    topics.say_status(forged, specs[streams.index(elsewhere)].slot)  # which is not its owner's
    wait_for_higher(topics, fenced, forged.epoch, 10)

    asked_at = time.monotonic()  # hands over
    assert one.stop() == 0
    assert_near_bar("stopped after, s", time.monotonic() - asked_at, 8)
    eventually(lambda: len(two.cameras) == 4, 40)
    for stream_id in streams:
        topics.wait_status(stream_id, "RUNNING")
        assert_epochs_are_whole(topics, stream_id)

    # is killed, and leaves no orphan: not one that waits for a camera in C, nor one that is stopped
    hung = topics.want(replace(specs[0], stream_id="S9", url=f"{cameras}hole"))
    eventually(lambda: two.camera("S9"))
    os.kill(two.camera("S0"), signal.SIGSTOP)
    kill(two)
    before = {stream_id: topics.frames(stream_id)[-1].epoch for stream_id in streams}

    topics.delete(hung)
    three = start_ingestor().wait_ready()  # takes over once the session of the dead one is over
    for stream_id in streams:
        wait_for_higher(topics, stream_id, before[stream_id], 60)
        assert_epochs_are_whole(topics, stream_id)
        frames = topics.frames(stream_id)
        assert all(a.captured_at <= b.captured_at for a, b in pairwise(frames))
    assert three.stop() == 0


def test_it_dies_between_its_claim_and_its_first_frame_and_the_next_one_goes_higher(
    start_ingestor, topics, streams
):
    before = newest_claim(topics, streams).epoch
    dying = start_ingestor(SIGHTLOG_CRASH_AT="ingestor.after_claim")
    assert dying.process.wait(60) == -signal.SIGKILL
    eventually(lambda: newest_claim(topics, streams).epoch > before)
    claimed = newest_claim(topics, streams)
    assert claimed.status == "STARTING"
    assert all(frame.epoch < claimed.epoch for frame in topics.frames(claimed.stream_id))
    heir = start_ingestor()
    wait_for_higher(topics, claimed.stream_id, claimed.epoch, 60)
    assert heir.stop() == 0


def newest_claim(topics, streams):
    said = [status for stream_id in streams for status in topics.statuses(stream_id)]
    return max(said, key=lambda status: status.epoch)


def test_what_is_no_spec_was_buried_once_by_all_that_read_it(topics, specs):
    """Or again under its id, where the machine stood still as a reader asked for the commits."""
    letters = {(each.partition, each.offset) for each in topics.dead_letters()}
    assert sorted(letters) == [(slot, 0) for slot in range(SLOTS)]


@pytest.fixture
def leftovers():
    """Processes that a failed test would leave behind, stopped or burning."""
    left: list[psutil.Process] = []
    yield left
    for each in left:
        with suppress(psutil.NoSuchProcess):
            each.kill()


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_cameras_that_outlive_their_ingestor_are_ended_by_the_next_one(
    start_ingestor, specs, leftovers
):
    dying = start_ingestor().wait_ready()
    eventually(lambda: len(dying.cameras) == SLOTS, 60)
    family = psutil.Process(dying.process.pid).children(recursive=True)
    leftovers += family
    for each in family:
        each.suspend()  # the fork server, too: nothing can end its cameras
    dying.end()
    assert all(is_alive(each.pid) for each in family)
    heir = start_ingestor()
    eventually(lambda: not any(is_alive(each.pid) for each in family))
    eventually(lambda: heir.state)
    ended = f"sightlog_ingestor_orphans_killed_total {len(family)}.0"
    assert ended in heir.ask("/metrics")[2].decode()
    assert heir.stop() == 0


def is_burning(pid):
    used = psutil.Process(pid).cpu_times()
    return used.user + used.system > 0.3


def test_cameras_that_burn_in_c_and_let_no_thread_run_end_with_their_ingestor(
    start_ingestor, streams, leftovers
):
    dying = start_ingestor(["tests.ingestor.rigged", "burn"]).wait_ready()
    pids = [eventually(partial(dying.camera, stream_id)) for stream_id in streams]
    leftovers += map(psutil.Process, pids)
    eventually(lambda: all(is_burning(pid) for pid in pids))
    kill(dying)


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_epochs_stay_whole_and_no_orphan_stays_whenever_ingestors_are_killed(
    start_ingestor, topics, streams
):
    chance = random.Random(1)
    running = [start_ingestor(), start_ingestor()]
    for number in range(KILLS):
        time.sleep(chance.uniform(0, 15))  # whatever they are at
        dying = running.pop(chance.randrange(2))
        if dying.process.poll() is None:  # it has not come to its own crash point
            kill(dying)
        crashes = {"SIGHTLOG_CRASH_AT": f"ingestor.after_claim:{chance.randint(1, 4)}"}
        running.append(start_ingestor(**(crashes if number % 4 == 0 else {})))
        for stream_id in streams:
            assert_epochs_are_whole(topics, stream_id)
    heir = start_ingestor()
    highest = {stream_id: topics.frames(stream_id)[-1].epoch for stream_id in streams}
    for each in running:
        each.end()
    for stream_id in streams:
        wait_for_higher(topics, stream_id, highest[stream_id], 60)
        assert_epochs_are_whole(topics, stream_id)
        assert_books_balance(topics, stream_id)
    assert heir.stop() == 0
