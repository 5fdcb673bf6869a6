"""An ingestor that is full."""

import os
import re
import signal
import socket
from itertools import pairwise

import pytest
from msgspec.structs import replace

from schemas.messages import Reason, StreamSpec
from services.ingestor.statuses import TEXTS
from tests.ingestor.conftest import eventually, free_port

CLIP = "file:bikes.mp4?loop=1"


def spec(stream_id, slot, url=CLIP):
    return StreamSpec(
        stream_id=stream_id, slot=slot, generation=1, running=True, name="a camera", url=url
    )


@pytest.fixture
def ingestor(start_ingestor):
    return start_ingestor(INGESTOR_CAPACITY="2").wait_ready()


@pytest.fixture
def door():
    """A camera's address, and how many came to it."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        yield listening


def comers(door):
    came = 0
    while True:
        try:
            door.accept()[0].close()
        except BlockingIOError:
            return came
        came += 1


def running(ingestor):
    return {each["streamId"] for each in ingestor.state.get("cameras", ())}


def attempts(ingestor):
    """How often a camera could not be reached."""
    metrics = ingestor.ask("/metrics")[2].decode()
    return sum(float(count) for count in re.findall(r'cameras_failed_total{\S*"} (\S+)', metrics))


def test_a_full_ingestor_says_so_and_starts_who_waits_longest_once_another_leaves(
    ingestor, topics, door
):
    clip = topics.want(spec("CLIP", 0))
    flapping = topics.want(spec("FLAPPING", 1, f"rtsp://127.0.0.1:{free_port()}/"))
    topics.wait_frames("CLIP", 1)
    topics.wait_status("FLAPPING", "ERROR", Reason.UNREACHABLE)
    first = topics.want(spec("FIRST", 2, f"rtsp://127.0.0.1:{door.getsockname()[1]}/"))
    said = topics.wait_status("FIRST", "ERROR", Reason.CAPACITY)
    assert (said.message, said.hint) == TEXTS[Reason.CAPACITY]
    assert (said.attempt, said.next_retry_at) == (0, None)
    assert said.epoch
    topics.want(spec("SECOND", 0))
    topics.wait_status("SECOND", "ERROR", Reason.CAPACITY)

    # who has room keeps it: a camera's process dies, another camera is tried again and again
    epoch, pid = topics.frames("CLIP")[-1].epoch, ingestor.camera("CLIP")
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: ingestor.camera("CLIP") not in {None, pid})
    before = attempts(ingestor)
    eventually(lambda: attempts(ingestor) >= before + 3)
    assert {each.reason for each in topics.statuses("FIRST")} == {Reason.CAPACITY}
    assert comers(door) == 0

    instance = topics.instances()[-1]
    assert (instance.capacity, instance.slots) == (2, (0, 1, 2, 3))
    topics.want(replace(flapping, generation=2, running=False))
    eventually(lambda: comers(door))
    assert topics.statuses("SECOND")[-1].reason is Reason.CAPACITY
    topics.delete(first)
    topics.wait_frames("SECOND", 1)
    assert running(ingestor) == {"CLIP", "SECOND"}
    frames = topics.frames("CLIP")
    assert {frame.epoch for frame in frames} == {epoch}
    assert all(b.seq == a.seq + 1 for a, b in pairwise(frames))
    topics.want(replace(clip, generation=2, running=False))
    topics.wait_status("CLIP", "STOPPED")
