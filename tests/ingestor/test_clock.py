"""Our own clock is set while cameras run."""

import json
from functools import partial

from schemas.messages import StreamSpec
from tests.ingestor.conftest import eventually


def test_a_step_of_our_clock_ends_every_epoch_and_the_books_stay_true(
    start_ingestor, topics, tmp_path
):
    ahead = tmp_path / "ahead"
    ahead.write_text("0")
    ingestor = start_ingestor(words=("tests.ingestor.stepped", str(ahead))).wait_ready()
    streams = [f"S{slot}" for slot in range(2)]
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
    ahead.write_text("-3600")
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
    assert step["by_s"] == -3600


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
