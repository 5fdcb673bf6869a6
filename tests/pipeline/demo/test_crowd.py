"""Many streams come, change and go; those that run do not notice."""

from contextlib import closing

import httpx
import pytest

from tests.pipeline.crowd import Bystander, Crowd, Watch
from tests.pipeline.seen import await_running, reading, runs, streams_of
from tests.stack import RunningStack

TEN, FPS = 10, 4
FEW, MANY = 20, 200
BAR_S = 1.5
"""Between two frames; missed by chance on a busy machine up to four times of it: a simulated camera
that is late by a second leaves out all up to its next key frame, which is 5 s at this rate."""


@pytest.fixture(scope="module")
def stack_options() -> list[str]:
    cameras = ["--cameras", str(TEN), "--camera-fps", str(FPS)]
    unneeded = ["--scale", "detector=0", "--scale", "ai=0"]
    room = ["--env", f"INGESTOR_CAPACITY={TEN + MANY}"]
    return [*cameras, *unneeded, *room, "--env", "GATEWAY_AUTH=off"]


@pytest.fixture
def ten(stack: RunningStack) -> list[str]:
    """Streams that run, one for each camera."""
    for camera in stack["cameras"]:
        body = {"name": camera["name"], "rtspUrl": camera["url"], "fps": FPS, "running": True}
        body |= {"detectionEnabled": False}
        httpx.post(f"{stack['gatewayUrl']}/streams", json=body).raise_for_status()
    await_running(stack, 60)
    return [stream["id"] for stream in streams_of(stack)]


@pytest.fixture
def camera_url(stack: RunningStack) -> str:
    """One more, that shows a picture a second to the crowd."""
    added = stack.run("cameras", "add", "--camera-fps", "1")
    return added.stdout.split()[-1]


def test_twenty_streams_come_and_go_and_those_that_run_do_not_notice(demo: RunningStack) -> None:
    await_running(demo, 60)
    ids = [stream["id"] for stream in streams_of(demo)]
    with closing(Crowd(demo, FEW, demo["cameras"][0]["url"])) as crowd:
        come_and_go(demo, ids, crowd, rounds=1)


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_two_hundred_streams_come_and_go_and_ten_do_not_notice(
    stack: RunningStack, ten: list[str], camera_url: str
) -> None:
    with closing(Crowd(stack, MANY, camera_url)) as crowd:
        seen = come_and_go(stack, ten, crowd, rounds=3)
    assert sum(each.dropped for each in seen) == 0


def come_and_go(
    stack: RunningStack, bystanders: list[str], crowd: Crowd, rounds: int
) -> list[Bystander]:
    """What was seen of those who stood by."""
    before = runs(stack)
    with reading(stack) as reader:
        watch = Watch(reader, bystanders)
        for _ in range(rounds):
            crowd.come()
            crowd.change()
            crowd.go()
        seen = watch.seen()
        assert not crowd.left(reader)
    gaps = sorted(each.longest_gap_s for each in seen)
    print(f"longest gaps {gaps[0]:.2f} to {gaps[-1]:.2f} s (bar {BAR_S} s)")
    ages = sorted(frame.age_ms for each in seen for frame in each.frames)
    print(f"{len(ages)} frames; age when published {ages[len(ages) // 2]} ms, at most {ages[-1]}")
    assert [each.failures for each in seen] == [[]] * len(seen)
    assert all(each.is_gapless for each in seen)
    assert gaps[-1] <= 4 * BAR_S
    assert runs(stack) == before
    return seen
