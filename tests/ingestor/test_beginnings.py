"""Few cameras start at a time, and each gets its turn."""

import socket
import threading
import time

import pytest
from msgspec.structs import replace

from schemas.messages import Reason, SourceFacts, Status, StreamSpec, StreamStatus, now
from services.ingestor import cameras, link
from services.ingestor.cameras import Beginnings
from services.ingestor.newest import Newest
from services.ingestor.room import Room
from services.ingestor.supervise import Stream, Surroundings
from tests.ingestor.conftest import eventually
from tests.ingestor.world import shot

SPEC = StreamSpec(
    stream_id="S0", slot=0, generation=1, running=True, name="a camera", url="rtsp://h/x"
)
ORDER = link.Order(
    stream_id="S0",
    url="rtsp://h/x",
    username=None,
    password=None,
    frame_width=640,
    fps=5,
    trust_source_clock=False,
    verify_tls=True,
    media_path="",
    allowed=(),
    denied=(),
)
SOURCE = SourceFacts(codec="h264", width=640, height=360, fps=5)


class Child:
    """A camera's process as its ingestor sees it; the other end of the link is the test's."""

    pid = 1
    is_ending = is_over = False

    def __init__(self):
        self.link, self.theirs = socket.socketpair()

    def memory_bytes(self):
        return None


@pytest.fixture
def children():
    started: list[Child] = []
    yield started
    for child in started:
        child.theirs.close()
    for thread in threading.enumerate():
        if thread.name == f"camera-{Child.pid}":
            thread.join()
    for child in started:
        child.link.close()


class Wall:
    """The clocks, as `shot` asks for them."""

    monotonic = staticmethod(time.monotonic)
    now = staticmethod(now)


def take(status, slot, acknowledged, lost):
    """The broker that has everything at once."""
    acknowledged()
    return True


@pytest.fixture
def streams(children):
    """Three, of one ingestor that starts two at once."""

    def start():
        children.append(Child())
        return children[-1]

    world = Surroundings(
        instance="me",
        endpoint="http://x",
        newest=Newest(),
        room=Room(100),
        start=start,
        order=lambda spec: ORDER,
        send=lambda frame, delivered: True,
        say=take,
        beat=lambda heartbeat: True,
        tell=lambda event, acknowledged, lost: True,
        buffer_bytes=1_000_000,
        heartbeat_s=10,
        retry_base_s=1,
        retry_cap_s=1,
        beginnings=Beginnings(at_once=2),
    )
    streams = [Stream(replace(SPEC, stream_id=f"S{n}"), 0, None, world) for n in range(3)]
    for stream in streams:
        stream.claim(2)
    return streams


@pytest.fixture
def taken_over(streams):
    """It ran until its owner died."""
    known = StreamStatus(stream_id="S3", status=Status.RUNNING, since=now(), epoch=1, source=SOURCE)
    stream = Stream(replace(SPEC, stream_id="S3"), 0, known, streams[0]._world)
    stream.claim(2)
    return stream


def started(streams):
    for stream in streams:
        stream.tick()
    return [stream.camera is not None for stream in streams]


@pytest.mark.parametrize("word", [link.Opened(SOURCE), link.Failed(Reason.UNREACHABLE)])
def test_the_next_one_starts_once_another_shows_its_first_picture_or_fails(
    streams, children, word, monkeypatch
):
    monkeypatch.setattr(cameras, "BEGINNING_S", 3600.0)
    assert started(streams) == [True, True, False]
    assert started(streams) == [True, True, False]
    link.send(children[1].theirs, word)
    if isinstance(word, link.Failed):
        children[1].theirs.shutdown(socket.SHUT_RDWR)
    eventually(lambda: started(streams) == [True, True, True])


def test_a_silent_camera_keeps_others_waiting_for_a_moment_only(streams, monkeypatch):
    monkeypatch.setattr(cameras, "BEGINNING_S", 3600.0)
    assert started(streams) == [True, True, False]
    monkeypatch.setattr(cameras, "BEGINNING_S", 0.0)
    assert started(streams) == [True, True, True]


def by_turn(streams):
    return [stream.spec.stream_id for stream in sorted(streams, key=lambda each: each.turn)]


def test_who_ran_until_its_owner_died_starts_before_those_that_are_new(streams, taken_over):
    assert by_turn([*streams, taken_over]) == ["S3", "S0", "S1", "S2"]
    taken_over._fail(Reason.UNREACHABLE, None)
    assert by_turn([*streams, taken_over])[0] == "S3"


def test_who_fails_again_and_again_waits_like_the_others(streams, taken_over):
    for _ in range(2):
        taken_over._fail(Reason.UNREACHABLE, None)
    assert by_turn([*streams, taken_over]) == ["S0", "S1", "S2", "S3"]


def test_who_has_shown_itself_to_this_owner_ran_too(streams, children):
    streams[2].tick()
    link.send(children[0].theirs, link.Opened(SOURCE))
    link.send(children[0].theirs, shot(Wall), b"jpeg")

    def is_running():
        streams[2].tick()
        return streams[2].is_running

    eventually(is_running)
    streams[2]._fail(Reason.UNREACHABLE, None)
    assert by_turn(streams) == ["S2", "S0", "S1"]
