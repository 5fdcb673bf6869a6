"""A camera that is killed and comes back, while its owner dies: what is told of it."""

import pytest
from msgspec.structs import replace

from deploy.local.camera import Camera
from schemas.messages import Down, Reason, Status, StreamSpec, StreamStatus, down_event_id, now
from schemas.topics import MOVED_TO, STREAMS
from tests.ingestor.conftest import CLIPS, CameraServer, assert_near_bar, eventually
from tests.ports import free_port

DOOR = Camera("door", str(CLIPS / "vtest_12s.mp4"))


@pytest.fixture(scope="module")
def camera(tmp_path_factory):
    server = CameraServer(tmp_path_factory.mktemp("camera"), [DOOR])
    yield server
    server.stop()


def spec(stream_id, slot, url):
    return StreamSpec(
        stream_id=stream_id, slot=slot, generation=1, running=True, name="a camera", url=url
    )


def story(events):
    """Without what was told again."""
    return list(dict.fromkeys((each.revision, each.phase, each.reason) for each in events))


def wait_story(topics, stream_id, *expected):
    def told():
        return story(topics.events(stream_id)) == list(expected)

    eventually(told, 4 * 15)


def test_a_camera_is_down_once_from_its_failure_to_its_return_whoever_owns_it(
    start_ingestor, topics, camera
):
    topics.want(spec("door", 0, f"{camera.url}door"))
    gate = topics.want(spec("gate", 1, f"rtsp://127.0.0.1:{free_port()}/gate"))
    first = start_ingestor().wait_ready()
    topics.wait_frames("door", 3)

    camera.kill()
    new = (0, "new", "UNREACHABLE")
    wait_story(topics, "gate", new)
    topics.delete(gate)
    wait_story(topics, "gate", new, (1, "end", "UNREACHABLE"))
    wait_story(topics, "door", new)
    first.end()

    camera.serve([])
    camera.start()
    second = start_ingestor()
    update = (1, "update", "NOT_FOUND")
    wait_story(topics, "door", new, update)
    camera.serve([DOOR])
    wait_story(topics, "door", new, update, (2, "end", "NOT_FOUND"))

    events = topics.events("door")
    began = events[0].started_at
    assert {(each.event_id, each.started_at) for each in events} == {
        (down_event_id("door", began), began)
    }
    frames = topics.frames("door")
    last = [each.captured_at for each in frames if each.captured_at < began][-1]
    assert_near_bar("down after its last frame, s", (began - last).total_seconds(), 3)
    resumed = next(each for each in frames if each.captured_at > began)
    apart_s = (events[-1].ended_at - resumed.captured_at).total_seconds()
    assert_near_bar("its end from the first frame, s", abs(apart_s), 1)
    assert second.stop() == 0
    assert story(topics.events("gate")) == [new, (1, "end", "UNREACHABLE")]


def test_an_event_of_a_stream_that_moved_is_ended_by_its_new_owner_alone(start_ingestor, topics):
    """Whoever reads the old slot leaves it, be it the same process; not so of what is deleted."""
    down = Down(started_at=now(), reason=Reason.CAPACITY)
    for stream_id in ("moved", "gone"):
        stopped = StreamStatus(stream_id=stream_id, status=Status.STOPPED, since=now(), epoch=7)
        topics.say_status(replace(stopped, down=down), 2)
    topics.say_raw(STREAMS, 2, "moved", None, {MOVED_TO: b"3"})
    ingestor = start_ingestor()
    wait_story(topics, "gone", (1, "end", "CAPACITY"))
    assert topics.events("moved") == []
    topics.want(replace(spec("moved", 3, "file:bikes.mp4?loop=1"), begun=down))
    wait_story(topics, "moved", (0, "new", "CAPACITY"), (1, "end", "CAPACITY"))
    ended = topics.events("moved")[-1]
    assert ended.event_id == down_event_id("moved", down.started_at)
    assert ended.ended_at > topics.frames("moved")[0].captured_at
    assert ingestor.stop() == 0
