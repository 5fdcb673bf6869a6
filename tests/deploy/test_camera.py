"""Simulated cameras, watched as the ingestor watches real ones: by PyAV."""

import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice, pairwise
from urllib.parse import quote

import av
import numpy as np
import pytest

from deploy.local.camera_list import Camera
from deploy.local.rtsp_auth import digest_ha1
from tests.certificate import write_certificate
from tests.deploy.camera_process import BIKES, WALK, Client, awaited, running

AWKWARD = "p@:/#?%ü$(x)"
PROBE_NOTHING = {"fpsprobesize": "0", "analyzeduration": "0", "probesize": "32"}


def encode_clip(path, encoder, options):
    """Ten pictures of noise in a second, a key frame every five."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(encoder, rate=10, options=options)
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
        noise = np.random.default_rng(0)
        for number in range(10):
            pixels = noise.integers(0, 255, (96, 160, 3), np.uint8)
            picture = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            picture.pts = number
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cameras")
    h265 = {"x265-params": "keyint=5:bframes=2:log-level=error"}
    encode_clip(folder / "h265.mp4", "libx265", h265)
    encode_clip(folder / "h264.mkv", "libx264", {"g": "5", "bf": "2"})
    return folder


@pytest.fixture(scope="module")
def cameras():
    return [
        Camera("open", WALK),
        Camera("bikes", BIKES),
        Camera("both", WALK, username="anna", ha1=digest_ha1("anna", "secret")),
        Camera("awkward", WALK, username="jörg", ha1=digest_ha1("jörg", AWKWARD)),
        Camera("basic", WALK, username="a", ha1=digest_ha1("a", "b"), schemes=("basic",)),
        Camera("fast", WALK, fps=100),
        Camera("h264", "h264.mkv", fps=50),
        Camera("h265", "h265.mp4", fps=50),
        Camera("gone", "missing.mp4"),
    ]


@pytest.fixture(scope="module")
def process(folder, cameras):
    with running(folder, *cameras) as process:
        yield process


@contextmanager
def opened(url: str) -> Iterator[av.container.InputContainer]:
    options = {"rtsp_transport": "tcp", **PROBE_NOTHING}
    with av.open(url, options=options, timeout=(5, 5)) as container:
        yield container


def pictures(url: str, count: int) -> list[av.VideoFrame]:
    with opened(url) as container:
        return list(islice(container.decode(video=0), count))


def step(shown: list[av.VideoFrame]) -> int:
    """How far the pictures are apart, in ticks: a camera that is late by a second leaves some out.
    FFmpeg gives the first ones no time."""
    times = [picture.pts for picture in shown if picture.pts is not None]
    assert len(times) > len(shown) - 5
    steps = Counter(later - sooner for sooner, later in pairwise(times))
    [(usual, _)] = steps.most_common(1)
    assert all(each > 0 and each % usual == 0 for each in steps), steps
    return usual


def test_a_reader_has_its_first_picture_within_a_second(process):
    started = time.monotonic()
    [picture] = pictures(process.url("open"), 1)
    assert (picture.width, picture.height, picture.key_frame) == (768, 576, True)
    took_s = time.monotonic() - started
    print(f"first picture after {took_s:.2f} s, bar 1 s")
    assert took_s < 4.0


@pytest.mark.parametrize(
    ("name", "user", "password"),
    [("both", "anna", "secret"), ("awkward", "jörg", AWKWARD), ("basic", "a", "b")],
)
def test_a_protected_camera_shows_itself_to_who_knows_the_password(process, name, user, password):
    userinfo = f"{quote(user, safe='')}:{quote(password, safe='')}@"
    assert len(pictures(process.url(name, userinfo), 2)) == 2


@pytest.mark.parametrize("name", ["both", "basic"])
@pytest.mark.parametrize("userinfo", ["", "anna:wrong@", "a:wrong@", "who:secret@"])
def test_a_protected_camera_refuses_everyone_else(process, name, userinfo):
    with pytest.raises(av.HTTPUnauthorizedError):
        pictures(process.url(name, userinfo), 1)


def test_an_unknown_name_is_not_found(process):
    with pytest.raises(av.HTTPNotFoundError):
        pictures(process.url("nobody"), 1)


def test_a_camera_without_its_clip_is_unavailable_and_the_others_play(process):
    process.logged("clip.unreadable", camera="gone")
    with pytest.raises(av.HTTPServerError):
        pictures(process.url("gone"), 1)


@pytest.mark.parametrize(("name", "ticks"), [("fast", 900), ("h264", 1800), ("h265", 1800)])
def test_time_goes_on_evenly_where_the_clip_begins_again(process, name, ticks):
    assert step(pictures(process.url(name), 135)) == ticks


def test_a_clip_with_pictures_sent_ahead_keeps_its_own_times(process):
    assert step(pictures(process.url("bikes"), 40)) == 3600


def test_pictures_come_in_real_time(process):
    started = time.monotonic()
    with opened(process.url("open")) as container:
        list(islice(container.decode(video=0), 16))
    assert 1.45 < time.monotonic() - started < 10.0  # however late we read, none is sent early


def test_each_picture_says_when_it_was_taken(process):
    before = time.time()
    with opened(process.url("open")) as container:
        packets = list(islice(container.demux(video=0), 12))
        after = time.time()
        began = (container.start_time_realtime or 0) / 1e6
        assert before - 0.1 < began < after - 1.0
    [taken] = [
        struct.unpack_from("<q", bytes(side))[0] / 1e6
        for side in packets[-1].iter_sidedata()
        if side.data_type == "prft"
    ]
    assert began + 1.0 < taken < after + 0.1


def test_a_camera_can_be_added_and_removed_while_others_play(process, cameras):
    with Client(process.port) as reader:
        reader.play("fast")
        media = reader.media()
        first = next(media)
        process.show(*cameras, Camera("new", WALK))
        process.logged("camera.added", camera="new")
        assert len(pictures(process.url("new"), 1)) == 1
        process.show(*cameras)
        process.logged("camera.removed", camera="new")
        numbers = [struct.unpack_from(">H", packet, 2)[0] for packet in islice(media, 200)]
    started = struct.unpack_from(">H", first, 2)[0]
    assert numbers == [(started + n) % 65536 for n in range(1, 201)]


def test_a_changed_camera_is_another_one_for_its_readers(process, cameras):
    process.show(*cameras, Camera("changing", WALK, fps=50))
    process.logged("camera.added", camera="changing")
    with Client(process.port) as reader:
        reader.play("changing")
        process.show(*cameras, Camera("changing", WALK, fps=25))
        with pytest.raises((EOFError, ConnectionResetError)):
            list(reader.media())
    process.logged("camera.added", camera="changing", fps=25.0)
    assert step(pictures(process.url("changing"), 6)) == 3600
    process.show(*cameras)


def test_a_broken_list_leaves_everything_as_it_was(process, cameras):
    process.file.write_text('{"cameras": [{"name": "x"}]}')
    assert "clip" in process.logged("cameras.unreadable")["error"]
    assert len(pictures(process.url("open"), 1)) == 1
    process.show(*cameras)


def test_a_reader_that_does_not_read_loses_pictures_and_slows_no_one(folder):
    with running(folder, Camera("quick", WALK, fps=240)) as process:
        with Client(process.port, receive_buffer=65_536) as sleeper, Client(process.port) as reader:
            sleeper.play("quick")
            reader.play("quick")
            ends = (packet for packet in reader.media() if packet[1] & 0x80)
            started = time.monotonic()
            list(islice(ends, 480))
            assert time.monotonic() - started < 8.0
        left = awaited(lambda: [e for e in process.log if e["event"] == "reader.left"][1:] or None)
        lost = sorted(e["lost"] for e in process.log if e["event"] == "reader.left")
        assert left
        assert lost[0] == 0
        assert lost[1] > 0


def test_sigterm_ends_it_at_once_also_with_readers(folder):
    with running(folder, Camera("open", WALK)) as process, Client(process.port) as reader:
        reader.play("open")
        reader.packet()
        started = time.monotonic()
        assert process.stop() == 0
        took_s = time.monotonic() - started
        print(f"ended after {took_s:.2f} s, bar 1 s")
        assert took_s < 4.0


def test_it_is_served_over_tls_where_it_is_given_a_certificate(tmp_path):
    pem = write_certificate(tmp_path / "camera.pem", "127.0.0.1")
    with running(tmp_path, Camera("door", WALK), options=["--certificate", str(pem)]) as process:
        url = f"rtsps://127.0.0.1:{process.port}/door"
        with av.open(url, options=PROBE_NOTHING | {"rtsp_transport": "tcp"}) as container:
            pictures = islice(container.decode(video=0), 5)
            assert {picture.width for picture in pictures} == {768}


def test_a_certificate_that_is_none_is_named(tmp_path):
    command = [sys.executable, "-m", "deploy.local.camera", "--port", "0", "--cameras", "none.json"]
    wrong = tmp_path / "camera.pem"
    wrong.write_text("none")
    command += ["--certificate", str(wrong)]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, timeout=30)
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)
    assert str(wrong) in ended.stderr
