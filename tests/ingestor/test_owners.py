"""Ingestors that come, go, are killed and share."""

import os
import signal
import time
from itertools import pairwise

import pytest
from msgspec.structs import replace

from schemas.messages import StreamSpec
from tests.ingestor.conftest import assert_near_bar, eventually, is_alive


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
        for slot in range(4)
    ]
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


def wait_for_higher(topics, stream_id, epoch, seconds):
    eventually(lambda: any(f.epoch > epoch for f in topics.frames(stream_id)), seconds)


def test_ingestors_come_and_go_and_every_stream_goes_on(
    start_ingestor, topics, specs, streams, cameras
):
    one = start_ingestor().wait_ready()
    first = {stream_id: topics.wait_frames(stream_id, 1)[-1].epoch for stream_id in streams}

    two = start_ingestor().wait_ready()  # takes its share
    eventually(lambda: len(two.state["cameras"]) == 2 and len(one.state["cameras"]) == 2, 40)
    moved = [each["streamId"] for each in two.state["cameras"]]
    for stream_id in moved:
        wait_for_higher(topics, stream_id, first[stream_id], 40)
    for stream_id in set(streams) - set(moved):
        assert topics.frames(stream_id)[-1].epoch == first[stream_id]

    asked_at = time.monotonic()  # hands over
    assert one.stop() == 0
    assert_near_bar("stopped after, s", time.monotonic() - asked_at, 8)
    eventually(lambda: len(two.state["cameras"]) == 4, 40)
    for stream_id in streams:
        topics.wait_status(stream_id, "RUNNING")
        assert_epochs_are_whole(topics, stream_id)

    # is killed, and leaves no orphan, not even one that waits for a camera in C
    hung = topics.want(replace(specs[0], stream_id="S9", url=f"{cameras}hole"))
    pids = eventually(lambda: two.camera("S9") and [c["pid"] for c in two.state["cameras"]])
    os.kill(two.process.pid, signal.SIGKILL)
    eventually(lambda: not any(is_alive(pid) for pid in pids), 4 * 3)
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
    dying = start_ingestor(SIGHTLOG_CRASH_AT="ingestor.after_claim")
    assert dying.process.wait(60) == -signal.SIGKILL
    said = [status for stream_id in streams for status in topics.statuses(stream_id)]
    claimed = max(said, key=lambda status: status.epoch)
    assert claimed.status == "STARTING"
    assert all(frame.epoch < claimed.epoch for frame in topics.frames(claimed.stream_id))
    heir = start_ingestor()
    wait_for_higher(topics, claimed.stream_id, claimed.epoch, 60)
    assert heir.stop() == 0
