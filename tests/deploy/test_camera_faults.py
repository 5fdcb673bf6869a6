"""Each fault as its victim sees it, and that it ends."""

import time
from itertools import islice

import pytest

from deploy.local.camera_fault import parse_fault
from deploy.local.camera_list import Camera
from deploy.local.rtsp_packet import CLOCK_HZ
from tests.deploy.camera_process import WALK, Client, awaited, running, wall_clock


@pytest.fixture(scope="module")
def process(tmp_path_factory):
    with running(tmp_path_factory.mktemp("faults"), Camera("door", WALK, fps=100)) as process:
        yield process


@pytest.fixture
def inflict(process):
    """Puts a fault on the camera `door`, and takes it away after the test."""
    suffered = ["none"]

    def inflict(fault: str) -> None:
        seen = len(process.log)
        process.show(Camera("door", WALK, fps=100, fault=fault))
        awaited(
            lambda: next((e for e in process.log[seen:] if e["event"] == "camera.faulted"), None)
        )
        suffered.append(fault)

    yield inflict
    if suffered[-1] != "none":
        inflict("none")


@pytest.fixture
def reader(process):
    with Client(process.port) as reader:
        reader.play("door")
        reader.packet()
        yield reader


def drain(reader):
    """All that comes until nothing does for half a second."""
    reader.socket.settimeout(0.5)
    with pytest.raises(TimeoutError):
        while reader.socket.recv(65_536):
            pass


def test_a_black_hole_freezes_readers_and_answers_nobody_until_it_ends(process, inflict, reader):
    inflict("blackhole")
    drain(reader)
    with Client(process.port) as other:
        other.socket.settimeout(0.5)
        with pytest.raises(TimeoutError):
            other.ask("OPTIONS", "door")
    inflict("none")
    reader.socket.settimeout(10)
    assert reader.socket.recv(1)


def test_a_reset_ends_readers_and_every_new_connection(process, inflict, reader):
    inflict("reset")
    with pytest.raises(ConnectionResetError):
        while reader.socket.recv(65_536):
            pass
    with Client(process.port) as other, pytest.raises(ConnectionResetError):
        other.ask("OPTIONS", "door")


def test_a_half_open_reader_gets_nothing_any_more_even_after_the_fault(process, inflict):
    inflict("halfopen")
    with Client(process.port) as reader:
        reader.play("door")
        times = timestamps(reader)
        first = next(times)
        assert any((each - first) % 2**32 > CLOCK_HZ for each in times)  # a second of its own
        drain(reader)
        inflict("none")
        drain(reader)


def test_garbage_keeps_the_headers_and_spoils_what_they_carry(inflict, reader):
    sound = list(islice(reader.media(), 200))
    inflict("garbage")
    spoilt = list(islice(reader.media(), 1500))[-200:]
    assert {packet[:2] for packet in sound} == {packet[:2] for packet in spoilt}
    assert {packet[8:12] for packet in sound} == {packet[8:12] for packet in spoilt}
    assert len({packet[12] for packet in sound}) < 10 < len({packet[12] for packet in spoilt})


def test_a_redirect_is_answered_with_its_address(process, inflict):
    inflict("redirect=rtsp://127.0.0.1:1/trap")
    with Client(process.port) as client:
        status, headers, _ = client.ask("DESCRIBE", "door")
    assert (status, headers["Location"]) == (302, "rtsp://127.0.0.1:1/trap")


def test_a_wrong_clock_shows_at_once_to_a_playing_reader(inflict, reader):
    before = time.time()
    inflict("clock=-7200")
    report = next(packet for channel, packet in iter(reader.packet, None) if channel == 1)
    assert before < wall_clock(report) + 7200 < time.time() + 0.1


def timestamps(reader):
    """Of RTP packets, as they come."""
    return (int.from_bytes(packet[4:8], "big") for packet in reader.media())


def test_timestamps_jump_for_as_long_as_they_should(inflict, reader):
    before = next(timestamps(reader))
    inflict("jump=-60")
    shifted = next(time for time in timestamps(reader) if 0 < (before - time) % 2**32 < 2**31)
    assert (shifted - before + 60 * CLOCK_HZ) % 2**32 < 10 * CLOCK_HZ
    inflict("none")
    assert any((time - before) % 2**32 < 10 * CLOCK_HZ for time in islice(timestamps(reader), 3000))


def test_timestamps_wrap_a_few_seconds_later(inflict, reader):
    inflict("wrap")
    last = next(time for time in timestamps(reader) if time > 2**32 - 4 * CLOCK_HZ)
    first = next(time for time in timestamps(reader) if time < last)
    assert first < 10 * CLOCK_HZ


@pytest.mark.parametrize(
    "text",
    [
        "",
        "fire",
        "jump=up",
        "none=1",
        "reset=",
        "clock",
        "clock=soon",
        "clock=nan",
        "redirect=http://x",
    ],
)
def test_a_fault_that_is_none_is_refused(text):
    with pytest.raises(ValueError, match="expected"):
        parse_fault(text)
