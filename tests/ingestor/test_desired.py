"""What is wanted changes while a camera runs, fails, or is about to stop."""

import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from itertools import count, pairwise

import psutil
import pytest
from msgspec.structs import replace

from schemas.messages import Frame, StreamSpec
from tests.ingestor.conftest import PASSWORD, assert_near_bar, eventually, is_alive, sealed
from tests.ingestor.test_streams import later

RETRY_CAP_S = 0.5  # as the ingestors of these tests have it
STOPPED_WITHIN_S = 2.0
_numbers = count()


@pytest.fixture(scope="module")
def ingestor(start_ingestor):
    return start_ingestor().wait_ready()


def spec(url, **more):
    number = next(_numbers)
    plain = StreamSpec(
        stream_id=f"D{number}",
        slot=number % 4,
        generation=1,
        running=True,
        name="a camera",
        url=url,
        fps=10,
    )
    return replace(plain, **more)


def assert_one_epoch(frames):
    assert len({frame.epoch for frame in frames}) == 1
    assert [frame.seq for frame in frames] == list(range(len(frames)))
    assert all(a.captured_at < b.captured_at for a, b in pairwise(frames))


def is_taken_over(topics, wanted):
    return topics.statuses(wanted.stream_id)[-1].observed_generation == wanted.generation


def newest_shows(topics, id, shows):
    return shows(topics.frames(id)[-1])


def has_another(ingestor, id, pid):
    """Another camera process than that one."""
    return ingestor.camera(id) not in {pid, None}


LIVE: list[tuple[dict[str, object], Callable[[Frame], bool]]] = [
    ({"labels": ("car", "dog")}, lambda frame: frame.labels == ("car", "dog")),
    ({"min_confidence": 0.75}, lambda frame: frame.min_confidence == 0.75),
    ({"max_frame_age_ms": 700}, lambda frame: frame.max_age_ms == 700),
    ({"detection_enabled": False}, lambda frame: not frame.detect),
    ({"model": "another"}, lambda frame: frame.model == "another"),
    ({"trust_source_clock": True}, lambda frame: frame.clock.source == "source"),
    ({"fps": 5}, lambda frame: True),
    ({"name": "gate"}, lambda frame: True),
    ({"tags": ("yard",)}, lambda frame: True),
    ({"idle_gate": True}, lambda frame: True),
]


def test_what_needs_no_new_connection_is_changed_live(ingestor, topics, cameras):
    wanted = topics.want(spec(f"{cameras}walk"))
    id = wanted.stream_id
    topics.wait_frames(id, 3)
    pid = ingestor.camera(id)
    for change, shows in LIVE:
        wanted = topics.want(later(wanted, **change))
        eventually(partial(is_taken_over, topics, wanted))
        eventually(partial(newest_shows, topics, id, shows))
    topics.wait_frames(id, len(topics.frames(id)) + 3)
    assert ingestor.camera(id) == pid
    assert all(shows(topics.frames(id)[-1]) for _, shows in LIVE)
    assert_one_epoch(topics.frames(id))
    assert [each.status for each in topics.statuses(id)].count("STARTING") == 1
    topics.delete(wanted)


def test_what_needs_a_new_connection_gets_one_in_the_same_epoch(ingestor, topics, cameras):
    wanted = topics.want(spec(f"{cameras}walk"))
    id, url = wanted.stream_id, f"{cameras}locked"
    for change in (
        {"frame_width": 320},
        {"verify_tls": False},
        {"sealed_credentials": sealed(id, url, PASSWORD)},
        {"url": url},
    ):
        seen = len(topics.wait_frames(id, len(topics.frames(id)) + 3))
        pid = ingestor.camera(id)
        wanted = topics.want(later(wanted, **change))
        eventually(partial(has_another, ingestor, id, pid))
        eventually(partial(is_taken_over, topics, wanted))
        topics.wait_status(id, "RUNNING")
    assert topics.wait_frames(id, seen + 3)[-1].width == 320
    assert_one_epoch(topics.frames(id))
    topics.delete(wanted)


class Door:
    """A real listening socket that shuts out everybody, and counts them."""

    def __init__(self):
        self.knocks = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"rtsp://127.0.0.1:{self._listener.getsockname()[1]}/x"
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self):
        with suppress(OSError):
            while True:
                self._listener.accept()[0].close()
                self.knocks += 1

    def close(self):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


@pytest.fixture
def doors():
    doors = [Door() for _ in range(3)]
    yield doors
    for door in doors:
        door.close()


def test_nobody_dials_any_more_once_a_stream_that_retries_is_deleted_or_stopped(
    ingestor, topics, doors
):
    deleted, stopped, kept = (topics.want(spec(door.url)) for door in doors)
    eventually(lambda: all(door.knocks >= 3 for door in doors))
    topics.delete(deleted)
    stopped = topics.want(later(stopped, running=False))
    for each in (deleted, stopped):
        topics.wait_status(each.stream_id, "STOPPED")
    before, others = [door.knocks for door in doors[:2]], doors[2].knocks
    eventually(lambda: doors[2].knocks >= others + 6)  # who is kept tells the time
    assert [door.knocks for door in doors[:2]] == before
    topics.want(later(stopped))
    topics.want(later(stopped, running=True))
    eventually(lambda: doors[1].knocks > before[1])
    assert doors[0].knocks == before[0]
    for each in (stopped, kept):
        topics.delete(each)
        topics.wait_status(each.stream_id, "STOPPED")


def test_a_stream_started_again_while_it_stops_runs_on_with_one_camera(ingestor, topics, cameras):
    wanted = topics.want(spec(f"{cameras}walk"))
    id = wanted.stream_id
    topics.wait_frames(id, 3)
    for _ in range(5):
        wanted = topics.want(later(wanted, running=False))
        wanted = topics.want(later(wanted, running=True))
    eventually(partial(is_taken_over, topics, wanted))
    topics.wait_status(id, "RUNNING")
    frames = topics.wait_frames(id, len(topics.frames(id)) + 3)
    assert_one_epoch(frames)
    eventually(lambda: camera_pids(ingestor) == set(ingestor.cameras.values()))
    topics.delete(wanted)


def camera_pids(ingestor):
    """Of all that run: children of the fork server."""
    process = psutil.Process(ingestor.process.pid)
    family, kept = process.children(recursive=True), process.children()
    return {each.pid for each in family if is_alive(each.pid)} - {each.pid for each in kept}


def test_a_stream_whose_camera_is_silent_stops_at_once(ingestor, topics, cameras):
    wanted = topics.want(spec(f"{cameras}hole"))
    eventually(lambda: ingestor.camera(wanted.stream_id))
    asked_at = time.monotonic()
    topics.want(later(wanted, running=False))
    topics.wait_status(wanted.stream_id, "STOPPED")
    assert_near_bar("stopped after, s", time.monotonic() - asked_at, STOPPED_WITHIN_S)
    assert ingestor.camera(wanted.stream_id) is None
