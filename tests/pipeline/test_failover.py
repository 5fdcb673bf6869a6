"""Thirty cameras on three ingestors, one of which dies, freezes or is replaced, again and again."""

import os
import signal
import time
from collections.abc import Collection, Iterator, Mapping
from fractions import Fraction
from itertools import islice, pairwise
from pathlib import Path
from statistics import quantiles

import av
import pytest

from deploy.local.child import Warden
from schemas.messages import DetectionRecord, Outcome
from tests.deploy.camera_process import BIKES
from tests.faults.site import health
from tests.pipeline.flow import Flow, Seen
from tests.pipeline.seen import all_ready, all_running, await_running, judge, streams_of
from tests.stack import RunningStack, eventually

CAMERAS, INGESTORS, KILLS = 30, 3, 10
STREAMS = CAMERAS + 1  # a clip, too
WIDTH, HEIGHT, RATE = 640, 360, 5
ELSEWHERE_BAR_S = 15.0
GAP_BAR_S = 3.0
SESSION_S = 10.0  # of a group's member, as the local broker has it
SETTLED_S = 90.0
SETTINGS = ("--scale", f"ingestor={INGESTORS}", "--fps", "2", "--env", "GATEWAY_AUTH=off")

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def stack(warden: Warden, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    folder = tmp_path_factory.mktemp("failover")
    clip = sub_stream(folder / "street.mp4")
    options = ("--cameras", str(CAMERAS), "--clip", str(clip), "--auto-create", *SETTINGS)
    running = RunningStack(folder / "data", options, warden)
    yield running
    running.stop()


def sub_stream(path: Path) -> Path:
    """The street as a camera's sub-stream: 640x360, five pictures and a key frame a second."""
    with av.open(BIKES) as street, av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"bf": "0", "g": str(RATE)})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        every_fifth = islice(street.decode(video=0), 0, None, 25 // RATE)
        for number, picture in enumerate(every_fifth):
            small = picture.reformat(WIDTH, HEIGHT, "yuv420p")
            small.pts, small.time_base = number, Fraction(1, RATE)
            container.mux(stream.encode(small))
        container.mux(stream.encode(None))
    return path


@pytest.fixture(scope="module")
def flow(stack: RunningStack) -> Iterator[Flow]:
    await_running(stack, 120)
    with Flow(stack["kafkaBootstrapServers"], stack["topicPrefix"]) as flow:
        assert eventually(lambda: len(flow.streams()) == STREAMS, 60)
        yield flow


def cameras_of(stack: RunningStack, replica: int) -> set[str]:
    """The streams whose cameras an ingestor reads."""
    said = health(stack.service("ingestor", replica)["httpPort"])
    return {camera["streamId"] for camera in said.get("cameras", ())}


def settle(stack: RunningStack) -> None:
    """Everyone is back and has a share of the cameras."""

    def is_settled() -> bool:
        shares = [cameras_of(stack, replica) for replica in range(1, INGESTORS + 1)]
        return all(shares) and sum(map(len, shares)) == STREAMS

    await_running(stack, SETTLED_S)
    assert eventually(lambda: is_settled() and all_ready(stack) and all_running(stack), SETTLED_S)


def spread(what: str, figures: Collection[float], bar: float) -> None:
    low, *_, high = sorted(figures)
    tenths = quantiles(figures, n=10)
    shares = f"median {tenths[4]:.1f}, nine in ten {tenths[8]:.1f}"
    print(f"{what}: {len(figures)}, {low:.1f} to {high:.1f}, {shares} (bar {bar})")


def taken_over(flow: Flow, epochs: Mapping[str, int]) -> dict[str, Seen]:
    """Of each stream the first frame of a higher epoch than that; only once all have one."""

    def found() -> dict[str, Seen]:
        return {
            stream: frame
            for stream, epoch in epochs.items()
            if (frame := flow.first_above(stream, epoch)) is not None
        }

    assert eventually(lambda: len(found()) == len(epochs), 4 * ELSEWHERE_BAR_S), epochs.keys()
    return found()


def assert_whole(flow: Flow) -> None:
    """No epoch of any stream has a hole in its numbers."""
    for stream in flow.streams():
        last: dict[int, Seen] = {}
        for frame in flow.frames(stream):
            before = last.get(frame.epoch)
            assert before is None or frame.seq == before.seq + 1, (stream, before, frame)
            last[frame.epoch] = frame


def test_a_killed_ingestors_cameras_run_elsewhere_within_seconds(
    stack: RunningStack, flow: Flow
) -> None:
    took: list[float] = []
    moved = 0
    for turn in range(KILLS):
        settle(stack)
        replica = turn % INGESTORS + 1
        epochs = {stream: flow.newest(stream).epoch for stream in flow.streams()}
        its = cameras_of(stack, replica)
        killed_at = time.time()
        os.kill(stack.service("ingestor", replica)["pid"], signal.SIGKILL)
        firsts = taken_over(flow, {stream: epochs[stream] for stream in its})
        seconds = [frame.appended_ms / 1000 - killed_at for frame in firsts.values()]
        took += seconds
        spread(f"kill {turn + 1}, cameras run elsewhere after, s", seconds, ELSEWHERE_BAR_S)
        settle(stack)
        others = flow.streams() - its
        moved += sum(flow.newest(stream).epoch > epochs[stream] for stream in others)
    spread("all kills, s", took, ELSEWHERE_BAR_S)
    print(f"{moved} cameras of others moved to the one that came back, handed over")
    assert max(took) < 4 * ELSEWHERE_BAR_S
    assert_whole(flow)
    judge(stack)


def test_who_slept_through_its_session_is_fenced_and_gives_up_by_itself(
    stack: RunningStack, flow: Flow
) -> None:
    settle(stack)
    sleeper = stack.service("ingestor", 1)
    its = cameras_of(stack, 1)
    epochs = {stream: flow.newest(stream).epoch for stream in its}
    stopped_at = time.time()
    os.kill(sleeper["pid"], signal.SIGSTOP)
    try:
        assert eventually(lambda: time.time() - stopped_at > 2 * SESSION_S, 3 * SESSION_S)
    finally:
        os.kill(sleeper["pid"], signal.SIGCONT)
    firsts = taken_over(flow, epochs)
    answered = {stream: first_ok(flow, stream, epochs[stream]) for stream in its}
    spread(
        "frames elsewhere after, s",
        [frame.appended_ms / 1000 - stopped_at for frame in firsts.values()],
        ELSEWHERE_BAR_S,
    )
    spread(
        "answered ok after, s",
        [record.detected_at.timestamp() - stopped_at for record in answered.values()],
        ELSEWHERE_BAR_S,
    )
    settle(stack)
    assert stack.service("ingestor", 1)["pid"] == sleeper["pid"], "it gave up without dying"
    late = [
        record
        for stream in its
        for record in flow.records(stream)
        if record.frame.epoch <= epochs[stream]
        and record.frame.captured_at.timestamp() > stopped_at
    ]
    fenced = sum(record.outcome is Outcome.FENCED for record in late)
    print(f"frames of the old owner, captured while it slept: {len(late)}, fenced {fenced}")
    assert_whole(flow)
    judge(stack)


def first_ok(flow: Flow, stream: str, above: int) -> DetectionRecord:
    def found() -> list[DetectionRecord]:
        records = flow.records(stream)
        return [r for r in records if r.frame.epoch > above and r.outcome is Outcome.OK]

    assert eventually(lambda: bool(found()), 4 * ELSEWHERE_BAR_S), stream
    return found()[0]


def test_cameras_are_handed_over_within_moments_when_ingestors_are_replaced(
    stack: RunningStack, flow: Flow
) -> None:
    gaps: list[float] = []
    for replica in range(1, INGESTORS + 1):
        settle(stack)
        since_s = time.time()
        before = stack.service("ingestor", replica)
        os.kill(before["pid"], signal.SIGTERM)
        assert eventually(lambda one=replica, old=before: is_anew(stack, one, old["pid"]), 60)  # type: ignore[misc]  # bound at once
        settle(stack)
        turn = [gap for stream in flow.streams() for gap in hand_overs(flow, stream, since_s)]
        spread(f"ingestor {replica} replaced: without a frame for, s", turn, GAP_BAR_S)
        gaps += turn
    spread("all, s", gaps, GAP_BAR_S)
    assert quantiles(gaps, n=10)[8] < 4 * GAP_BAR_S
    assert len(streams_of(stack)) == STREAMS
    assert_whole(flow)
    judge(stack)


def is_anew(stack: RunningStack, replica: int, pid: int) -> bool:
    return stack.service("ingestor", replica)["pid"] not in (None, pid)


def hand_overs(flow: Flow, stream: str, since_s: float) -> Iterator[float]:
    """Seconds between the last picture of an epoch and the first of the next."""
    for before, after in pairwise(flow.frames(stream)):
        if after.epoch != before.epoch and after.captured_us / 1e6 > since_s:
            yield (after.captured_us - before.captured_us) / 1e6
