"""Clips into access units."""

import time
from itertools import islice, pairwise

import av
import pytest
import simplejpeg

from schemas.messages import Reason
from services.ingestor import capture
from services.ingestor.camera import compress
from services.ingestor.capture import BLIND_S, CaptureFailed, Playback, Sight, clip
from services.ingestor.compress import Compressor
from tests.ingestor.conftest import CLIPS

WALK = CLIPS / "vtest_12s.mp4"
PLAYLIST = f"""#EXTM3U
#EXT-X-VERSION:3
#EXT-X-TARGETDURATION:12
#EXTINF:12.0,
file://{WALK}
#EXT-X-ENDLIST
"""


def no_wait(seconds):
    """The clip as fast as it can be read."""


def made(path, codec, pixels="yuv420p", size=(320, 240), rate=10, pictures=12):
    width, height = size
    with av.open(str(path), "w", format="matroska") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = width, height, pixels
        for n in range(pictures):
            picture = av.VideoFrame(width, height, pixels)
            for plane in picture.planes:
                plane.update(bytes([20 * n]) * plane.buffer_size)
            picture.pts = n
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return path


def sound(path):
    with av.open(str(path), "w", format="matroska") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame(format="s16", layout="mono", samples=800)
        frame.rate = 8000
        container.mux(stream.encode(frame))
    return path


def test_every_picture_of_a_clip_is_one_unit_with_its_own_time():
    with clip(WALK) as source:
        units = list(source.units(loops=False, wait=no_wait))
        facts = source.facts(units[0])
    assert len(units) == 120
    assert all(unit.picture is not None for unit in units)
    assert [unit.pts_s for unit in units] == pytest.approx([n / 10 for n in range(120)])
    assert (facts.codec, facts.width, facts.height, facts.fps) == ("h264", 768, 576, 10.0)


@pytest.fixture
def no_lateness(monkeypatch):
    """A machine that stands still delays a clip, and nothing is left out of it."""
    monkeypatch.setattr(capture, "LATEST_S", 60)


def test_a_clip_is_played_at_its_own_speed(no_lateness):
    began = time.monotonic()
    with clip(WALK) as source:
        arrivals = [unit.arrival_s for unit in islice(source.units(False, time.sleep), 11)]
    gaps = [b - a for a, b in pairwise(arrivals)]
    assert gaps == pytest.approx([0.1] * 10, abs=0.001)
    assert time.monotonic() - began >= 0.99


def test_a_repeated_clip_goes_on_without_a_gap(no_lateness, tmp_path):
    short = made(tmp_path / "short.mkv", "libx264", rate=50)
    with clip(short) as source:
        arrivals = [unit.arrival_s for unit in islice(source.units(True, time.sleep), 30)]
    gaps = [b - a for a, b in pairwise(arrivals)]
    assert gaps == pytest.approx([0.02] * 29, abs=0.001)


def test_a_machine_too_slow_for_a_clip_shows_it_late_and_not_faster():
    waits: list[float] = []
    playback = Playback(waits.append)
    began_s = playback.due(100.0)
    behind_s = playback.due(97.0)  # was due three seconds ago
    assert behind_s >= began_s
    assert playback.due(97.1) == pytest.approx(behind_s + 0.1)
    assert max(waits) <= 0.1 + 1e-6


def test_motion_jpeg_passes_through_as_the_camera_made_it(tmp_path):
    path = made(tmp_path / "clip.mkv", "mjpeg", "yuvj420p")
    with av.open(str(path)) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    with clip(path) as source:
        compressor = Compressor(640)
        units = source.units(loops=False, wait=no_wait)
        made_of = [compress(compressor, source, unit)[0] for unit in units]
    assert [compressed and compressed.jpeg for compressed in made_of] == packets


def test_motion_jpeg_that_is_too_wide_is_made_anew(tmp_path):
    with clip(made(tmp_path / "clip.mkv", "mjpeg", "yuvj422p", (1280, 720))) as source:
        unit = next(source.units(loops=False, wait=no_wait))
        compressed, _ = compress(Compressor(640), source, unit)
    assert compressed is not None
    assert (compressed.width, compressed.height) == (640, 360)
    assert simplejpeg.decode_jpeg_header(compressed.jpeg)[:2] == (360, 640)


def test_damaged_pictures_are_counted_and_the_clip_goes_on(tmp_path):
    data = bytearray(WALK.read_bytes())
    data[300_000:302_000] = b"\x55" * 2000
    (tmp_path / "clip.mp4").write_bytes(data)
    with clip(tmp_path / "clip.mp4") as source:
        units = list(source.units(loops=False, wait=no_wait))
    damaged = sum(unit.picture is None for unit in units)
    assert 0 < damaged < 20
    assert len(units) == 120


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: made(path, "mpeg4"), Reason.CODEC_UNSUPPORTED),
        (sound, Reason.NO_VIDEO),
        (lambda path: path.write_bytes(b"nothing that anybody could play" * 100), Reason.NO_VIDEO),
        (lambda path: path.write_bytes(b""), Reason.NO_VIDEO),
        (lambda path: path.write_text(PLAYLIST), Reason.NO_VIDEO),
        (lambda path: path.write_text(f"ffconcat version 1.0\nfile {WALK}\n"), Reason.NO_VIDEO),
    ],
)
def test_a_clip_that_can_not_be_shown_says_why(tmp_path, make, reason):
    make(tmp_path / "clip")
    with pytest.raises(CaptureFailed) as failed, clip(tmp_path / "clip"):
        pass
    assert failed.value.reason is reason
    assert str(tmp_path) not in str(failed.value)


def blind_after(is_good, rate=10, for_s=60):
    """When a camera of so many pictures a second is given up, in seconds."""
    sight = Sight(0.0)
    for number in range(round(for_s * rate)):
        try:
            sight.note(number / rate, is_good=is_good(number))
        except CaptureFailed as failed:
            assert failed.reason is Reason.DECODE_ERRORS
            return number / rate
    return None


@pytest.mark.parametrize("rate", [1, 10, 60, 240])
def test_a_camera_that_shows_nothing_good_is_given_up_in_time(rate):
    assert blind_after(lambda number: False, rate) == pytest.approx(BLIND_S, abs=1 / rate + 0.001)


@pytest.mark.parametrize("at", [[], [0], [60], [60, 80], [99]])
def test_a_picture_that_is_found_in_noise_now_and_then_buys_no_time(at):
    assert blind_after(lambda number: number in at) == pytest.approx(BLIND_S, abs=0.11)


@pytest.mark.parametrize("rate", [1, 10, 60, 240])
def test_a_camera_that_goes_blind_is_given_up_as_soon(rate):
    after_s = blind_after(lambda number: number < 30 * rate, rate)
    assert after_s == pytest.approx(30 + BLIND_S, abs=4 / rate)


@pytest.mark.parametrize("every", [1, 2, 15, 60, 90])
def test_a_camera_is_kept_that_shows_something_every_three_seconds(every):
    assert blind_after(lambda number: number % every == 0, rate=30) is None


def test_a_camera_is_kept_whose_first_key_picture_comes_late():
    assert blind_after(lambda number: number >= 95 and number != 101) is None


@pytest.mark.parametrize(("rate", "bad"), [(1, 4), (0.2, 4)])
def test_a_slow_camera_is_kept_after_one_bad_picture(rate, bad):
    assert blind_after(lambda number: number != bad, rate) is None


def test_a_slow_camera_that_shows_nothing_good_is_given_up_too():
    assert blind_after(lambda number: number < 4, rate=0.2) is not None
