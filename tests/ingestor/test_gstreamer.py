"""Cameras by somebody else's RTSP server, where it is installed: Debian's GStreamer."""

import subprocess
from itertools import count
from pathlib import Path

import pytest

from schemas.messages import Reason, Status, StreamSpec
from tests.ingestor.conftest import PASSWORD, assert_near_bar, sealed

SYSTEM_PYTHON = Path("/usr/bin/python3")
FRAMES = 10
_slots = count()


@pytest.fixture(scope="module")
def server():
    """Its process and its port."""
    if not SYSTEM_PYTHON.exists():
        pytest.skip("needs Debian's Python, with gir1.2-gst-rtsp-server-1.0")
    command = [SYSTEM_PYTHON, Path(__file__).with_name("gstreamer.py")]
    environment = {"PASSWORD": PASSWORD, "PATH": "/usr/bin", "LC_ALL": "C.UTF-8"}
    with subprocess.Popen(
        command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout
        assert process.stderr
        port = process.stdout.readline().strip()
        if not port:
            pytest.skip(f"needs GStreamer's RTSP server: {process.stderr.read().splitlines()[-1:]}")
        yield process, port
        process.kill()


@pytest.fixture(scope="module")
def ingestor(server, start_ingestor):
    return start_ingestor(INGESTOR_RETRY_BASE_S="60").wait_ready()


@pytest.fixture(scope="module")
def want(topics, ingestor, server):
    """Wants one of the server's cameras, as `viewer`; its id."""

    def want(path, password=PASSWORD):
        slot, url = next(_slots), f"rtsp://127.0.0.1:{server[1]}/{path}"
        stream_id = f"S{slot}"
        plain = {"generation": 1, "running": True, "name": path, "url": url}
        seal = sealed(stream_id, url, password)
        spec = StreamSpec(stream_id=stream_id, slot=slot % 4, sealed_credentials=seal, **plain)
        return topics.want(spec).stream_id

    return want


@pytest.mark.parametrize(
    ("path", "password", "reason"),
    [
        ("h264", "not the password", Reason.AUTH_FAILED),
        ("nowhere", PASSWORD, Reason.NOT_FOUND),
        ("audio", PASSWORD, Reason.NO_VIDEO),
        ("vp8", PASSWORD, Reason.CODEC_UNSUPPORTED),
    ],
)
def test_what_can_not_be_shown_says_why(topics, want, path, password, reason):
    said = topics.wait_status(want(path, password), Status.ERROR, reason)
    assert said.message
    assert said.hint


def test_a_camera_is_read_with_its_password_and_its_loss_is_told(topics, want, server):
    camera = want("h264")
    frames = topics.wait_frames(camera, FRAMES)
    assert [frame.seq for frame in frames] == list(range(len(frames)))
    assert (frames[0].width, frames[0].height) == (640, 360)
    running = topics.wait_status(camera, Status.RUNNING)
    assert running.source.codec == "h264"
    server[0].kill()
    lost = topics.wait_status(camera, Status.ERROR, Reason.UNREACHABLE)
    assert lost.epoch == running.epoch
    last = topics.frames(camera)[-1].captured_at
    assert_near_bar("loss told after, s", (lost.since - last).total_seconds(), 2)
