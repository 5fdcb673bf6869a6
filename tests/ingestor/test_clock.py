"""Clocks that are wrong: ours is set, or a camera's is far off, jumps or wraps."""

import json
import time
from functools import partial
from itertools import pairwise
from statistics import median

import pytest

from deploy.local.camera_list import Camera
from deploy.local.files import write_whole
from schemas.messages import StreamSpec, unix_us
from tests.deploy.camera_process import WALK, running
from tests.ingestor.conftest import eventually

FPS, WATCHED = 5, 50
HOUR_S = 3600
SINCE_1970_S = round(time.time())
FAULTS = {
    "ahead": f"clock=+{3 * HOUR_S}",
    "at-1970": f"clock=-{SINCE_1970_S}",
    "back": "jump=-100",
    "forth": "jump=+100",
    "wrap": "wrap",
}


@pytest.mark.parametrize("step_s", [-HOUR_S, HOUR_S])
def test_a_step_of_our_clock_ends_every_epoch_and_the_books_stay_true(
    start_ingestor, topics, tmp_path, step_s
):
    ahead = tmp_path / "ahead"
    ahead.write_text("0")
    ingestor = start_ingestor(words=("tests.ingestor.stepped", str(ahead))).wait_ready()
    streams = [f"S{slot}{step_s}" for slot in range(2)]
    for slot, stream_id in enumerate(streams):
        topics.want(
            StreamSpec(
                stream_id=stream_id,
                slot=slot,
                generation=1,
                running=True,
                name="a clip",
                url="file:bikes.mp4?loop=1",
                fps=10,
            )
        )
    before = {stream_id: topics.wait_frames(stream_id, 3)[-1].epoch for stream_id in streams}
    pids = {stream_id: ingestor.camera(stream_id) for stream_id in streams}
    write_whole(ahead, str(step_s))
    for stream_id in streams:
        wait_for_higher(topics, stream_id, before[stream_id])
        topics.wait_status(stream_id, "RUNNING")
        assert ingestor.camera(stream_id) != pids[stream_id]
        assert_whole(topics.frames(stream_id))
    assert ingestor.stop() == 0
    for stream_id in streams:
        eventually(partial(_is_accounted_for, topics, stream_id))
    lines = [json.loads(line) for line in ingestor.log.read_text().splitlines()]
    (step,) = [line for line in lines if line["event"] == "clock.stepped"]
    assert step["by_s"] == pytest.approx(step_s, abs=0.05)


def wait_for_higher(topics, stream_id, epoch):
    eventually(lambda: topics.frames(stream_id)[-1].epoch > epoch)


def assert_whole(frames):
    epochs = {frame.epoch for frame in frames}
    assert len(epochs) == 2
    for epoch in epochs:
        of_it = [frame for frame in frames if frame.epoch == epoch]
        assert [frame.seq for frame in of_it] == list(range(len(of_it)))
        assert all(frame.captured == frame.dropped + frame.seq + 1 for frame in of_it)


def _is_accounted_for(topics, stream_id):
    """Each epoch's last heartbeat names as many frames as there are."""
    finals = {each.epoch: each.totals for each in topics.heartbeats(stream_id)}
    there = [frame.epoch for frame in topics.frames(stream_id)]
    return all(
        totals.balances and totals.pending == 0 and totals.published == there.count(epoch)
        for epoch, totals in finals.items()
    ) and finals.keys() == set(there)


@pytest.fixture(scope="module")
def faulty(tmp_path_factory):
    """A camera for each fault, in order as yet."""
    cameras = [Camera(name, WALK) for name in FAULTS]
    with running(tmp_path_factory.mktemp("faulty"), *cameras) as process:
        yield process


def test_whatever_a_cameras_clock_says_time_goes_on_and_the_limit_of_frames_holds(
    start_ingestor, topics, faulty
):
    """Half of the streams trust it."""
    ingestor = start_ingestor(INGESTOR_HEARTBEAT_S="10").wait_ready()
    for number, name in enumerate(FAULTS):
        spec = StreamSpec(
            stream_id=name,
            slot=number % 4,
            generation=1,
            running=True,
            name=name,
            url=faulty.url(name),
            fps=FPS,
            trust_source_clock=number % 2 == 0,
        )
        topics.want(spec)
    for name in FAULTS:
        topics.wait_frames(name, 5)
    begun = {name: len(topics.frames(name)) for name in FAULTS}
    faulty.show(*(Camera(name, WALK, fault=fault) for name, fault in FAULTS.items()))
    since = time.time()
    for name in FAULTS:
        frames = topics.wait_frames(name, begun[name] + WATCHED)
        assert_time_goes_on(frames)
        assert_limit_holds(name, frames[begun[name] :], since)
    for name, off_ms in (("ahead", 3 * HOUR_S * 1000), ("at-1970", -SINCE_1970_S * 1000)):
        frame = topics.frames(name)[-1]
        assert frame.clock.source == "arrival"
        assert frame.clock.offset_ms == pytest.approx(off_ms, abs=10_000)
    assert ingestor.stop() == 0


def assert_time_goes_on(frames):
    assert len({frame.epoch for frame in frames}) == 1
    assert [frame.seq for frame in frames] == list(range(len(frames)))
    assert all(a.captured_at < b.captured_at for a, b in pairwise(frames))


def assert_limit_holds(name, frames, since):
    """By our clock, as of now, and so that nothing expires."""
    at_s = [unix_us(frame.captured_at) / 1e6 for frame in frames]
    rate = (len(frames) - 1) / (at_s[-1] - at_s[0])
    ages_ms = [frame.age_ms for frame in frames]
    print(f"{name}: {rate:.2f} frames a second, limit {FPS}; at most {max(ages_ms)} ms old")
    assert rate <= FPS * 1.1
    # A machine that stands still loses frames, and hands some over late: most are as they should.
    assert median(b - a for a, b in pairwise(at_s)) == pytest.approx(1 / FPS, rel=0.2)
    assert since - 5 < at_s[0] < at_s[-1] < time.time() + 1
    assert median(ages_ms) < frames[0].max_age_ms
