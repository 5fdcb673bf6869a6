"""A camera that drops every connection costs its ingestor nothing that stays."""

import re
import time
from itertools import count, pairwise

import pytest

from deploy.local.camera import Camera
from schemas.messages import Reason, Status, StreamSpec
from tests.deploy.camera_process import BIKES, running
from tests.ingestor.flapping import Flapping, Household, slope

LOOK_EVERY_S = 0.05
MOST_KIB = 0.5  # per reconnect
COUNTED = ("descriptors", "threads", "children")
FAILED = re.compile(r'^sightlog_ingestor_cameras_failed_total\{reason="(\w+)"\} (\d+)', re.M)
_numbers = count()


@pytest.fixture
def start(start_ingestor):
    """An ingestor that waits so long at most between two attempts."""

    def start(cap_s):
        retries = {"INGESTOR_RETRY_BASE_S": "0.05", "INGESTOR_RETRY_CAP_S": str(cap_s)}
        return start_ingestor(**retries).wait_ready()

    return start


@pytest.fixture(scope="module")
def camera(tmp_path_factory):
    """One that is well, and quick."""
    with running(tmp_path_factory.mktemp("camera"), Camera("bikes", BIKES, fps=100)) as camera:
        yield camera


@pytest.fixture
def flapping(camera):
    flapping = Flapping(camera.port)
    yield flapping
    flapping.close()


def failures(ingestor):
    """By reason, since its start."""
    metrics = ingestor.ask("/metrics")[2].decode()
    return {reason: int(number) for reason, number in FAILED.findall(metrics)}


def follow(ingestor, reconnects, run):
    """What it holds until it has reconnected so often: the least over each run of them."""
    household, before = Household(ingestor.process.pid), sum(failures(ingestor).values())
    done = 0
    while done < reconnects:
        done = sum(failures(ingestor).values()) - before
        household.look(done)
        time.sleep(LOOK_EVERY_S)
    return household.least(run)[:-1]


def flap(ingestor, topics, flapping, reconnects, run):
    """What so many reconnects of one camera cost."""
    spec = StreamSpec(
        stream_id=f"S{next(_numbers)}",
        slot=0,
        generation=1,
        running=True,
        name="a camera",
        url=f"rtsp://127.0.0.1:{flapping.port}/bikes",
        fps=10,
    )
    topics.want(spec)
    held = follow(ingestor, reconnects, run)
    frames = topics.frames(spec.stream_id)
    assert [frame.seq for frame in frames] == list(range(len(frames)))
    assert len({frame.epoch for frame in frames}) == 1
    assert all(a.captured_at < b.captured_at for a, b in pairwise(frames))
    topics.delete(spec)
    topics.wait_status(spec.stream_id, Status.STOPPED)
    said = {status.reason for status in topics.statuses(spec.stream_id)}
    assert said >= {None, Reason.UNREACHABLE}
    return held


def test_forty_reconnects_leave_no_descriptor_thread_or_child(start, topics, flapping):
    _, first, *_, last = flap(start(cap_s=0.1), topics, flapping, reconnects=40, run=10)
    assert [getattr(last, name) for name in COUNTED] == [getattr(first, name) for name in COUNTED]


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_a_thousand_reconnects_leave_no_memory_either(start, topics, flapping):
    ingestor, begun = start(cap_s=0.5), time.monotonic()
    held = flap(ingestor, topics, flapping, reconnects=1000, run=20)[10:]
    print(f"1000 reconnects in {time.monotonic() - begun:.0f} s: {failures(ingestor)}")
    grown = slope(held, "memory_kib")
    print(f"KiB per reconnect: {grown:.3f}, bar {MOST_KIB}; from {held[0]} to {held[-1]}")
    assert [slope(held, name) for name in COUNTED] == [0] * len(COUNTED)
    assert grown <= MOST_KIB
