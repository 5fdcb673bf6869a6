"""An ingestor that is full."""

import os
import re
import signal
import socket
import time
from functools import partial
from itertools import pairwise

import pytest
from msgspec.structs import replace
from sqlalchemy import create_engine

from schemas.messages import Phase, Reason, StreamSpec, now
from schemas.tables import engine_url, streams
from services.gateway.observed import Observed
from services.gateway.realtime.follow import Follower
from services.gateway.realtime.hub import Hub
from services.gateway.reconciler.bury import Burial
from services.gateway.reconciler.move import Moves
from services.gateway.reconciler.reconcile import Reconciler
from services.gateway.reconciler.silence import Silences
from services.gateway.reconciler.specs import Specs
from services.ingestor.statuses import TEXTS
from tests.ingestor.conftest import assert_near_bar, eventually
from tests.ports import free_port

CLIP = "file:bikes.mp4?loop=1"


def spec(stream_id, slot, url=CLIP):
    return StreamSpec(
        stream_id=stream_id, slot=slot, generation=1, running=True, name="a camera", url=url
    )


@pytest.fixture
def ingestor(start_ingestor):
    made = start_ingestor(INGESTOR_CAPACITY="2").wait_ready()
    yield made
    made.stop()


@pytest.fixture
def door():
    """A camera's address, and how many came to it."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        yield listening


def comers(door):
    came = 0
    while True:
        try:
            door.accept()[0].close()
        except BlockingIOError:
            return came
        came += 1


def running(ingestor):
    return {each["streamId"] for each in ingestor.state.get("cameras", ())}


def attempts(ingestor):
    """How often a camera could not be reached."""
    metrics = ingestor.ask("/metrics")[2].decode()
    return sum(float(count) for count in re.findall(r'cameras_failed_total{\S*"} (\S+)', metrics))


def test_a_full_ingestor_says_so_and_starts_who_waits_longest_once_another_leaves(
    ingestor, topics, door
):
    clip = topics.want(spec("CLIP", 0))
    flapping = topics.want(spec("FLAPPING", 1, f"rtsp://127.0.0.1:{free_port()}/"))
    topics.wait_frames("CLIP", 1)
    topics.wait_status("FLAPPING", "ERROR", Reason.UNREACHABLE)
    first = topics.want(spec("FIRST", 2, f"rtsp://127.0.0.1:{door.getsockname()[1]}/"))
    said = topics.wait_status("FIRST", "ERROR", Reason.CAPACITY)
    assert (said.message, said.hint) == TEXTS[Reason.CAPACITY]
    assert (said.attempt, said.next_retry_at) == (0, None)
    assert said.epoch
    topics.want(spec("SECOND", 0))
    topics.wait_status("SECOND", "ERROR", Reason.CAPACITY)

    # who has room keeps it: a camera's process dies, another camera is tried again and again
    epoch, pid = topics.frames("CLIP")[-1].epoch, ingestor.camera("CLIP")
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: ingestor.camera("CLIP") not in {None, pid})
    before = attempts(ingestor)
    eventually(lambda: attempts(ingestor) >= before + 3)
    assert {each.reason for each in topics.statuses("FIRST")} == {Reason.CAPACITY}
    assert comers(door) == 0

    instance = topics.instances()[-1]
    assert (instance.capacity, instance.slots) == (2, (0, 1, 2, 3))
    topics.want(replace(flapping, generation=2, running=False))
    eventually(lambda: comers(door))
    assert topics.statuses("SECOND")[-1].reason is Reason.CAPACITY
    topics.delete(first)
    topics.wait_frames("SECOND", 1)
    assert running(ingestor) == {"CLIP", "SECOND"}
    frames = topics.frames("CLIP")
    assert {frame.epoch for frame in frames} == {epoch}
    assert all(b.seq == a.seq + 1 for a, b in pairwise(frames))
    for each in (clip, flapping, spec("SECOND", 0)):
        topics.delete(each)


@pytest.fixture
def reconciler(database_url, kafka, topic_prefix):
    """As a gateway has it."""
    config, observed = {"bootstrap.servers": kafka}, Observed()
    specs = partial(Specs, config, topic_prefix, "sightlog/gateway/test")
    burial, moves = Burial(observed, lambda *_: 0), Moves(observed)
    follower = Follower(config, topic_prefix, observed, Hub())
    reconciler = Reconciler(database_url, specs, burial, moves, Silences(observed))
    follower.start()
    reconciler.start()
    yield observed
    reconciler.stop()
    follower.stop()


@pytest.fixture
def engine(database_url):
    engine = create_engine(engine_url(database_url))
    yield engine
    engine.dispose()


def store(engine, stream_id, slot):
    stream = spec(stream_id, slot)
    row = {
        **{"id": stream_id, "name": stream.name, "url": CLIP, "running": True, "slot": slot},
        **{"generation": 1, "fps": 5, "detection_enabled": True, "max_frame_age_ms": 2000},
        **{"created_at": now(), "updated_at": now()},
    }
    with engine.begin() as connection:
        connection.execute(streams.insert().values(row))


def stop(engine, stream_id):
    with engine.begin() as connection:
        changed = {"running": False, "generation": streams.c.generation + 1}
        connection.execute(streams.update().where(streams.c.id == stream_id).values(**changed))


def test_a_third_stream_of_a_full_ingestor_moves_to_another_and_runs_there(
    ingestor, start_ingestor, topics, engine, reconciler
):
    other = start_ingestor(INGESTOR_CAPACITY="1").wait_ready()
    eventually(lambda: [len(each.partitions) for each in (ingestor, other)] == [2, 2], 40)
    slot, *_ = ingestor.partitions
    for stream_id, at in {"ONE": slot, "TWO": slot, "FULL": other.partitions[0]}.items():
        store(engine, stream_id, at)
        topics.wait_status(stream_id, "RUNNING")
    store(engine, "THREE", slot)
    eventually(lambda: [each.phase for each in topics.events("THREE")] == [Phase.NEW], 30)
    stop(engine, "FULL")
    began = time.monotonic()
    topics.wait_status("THREE", "RUNNING", seconds=60)
    assert_near_bar("moved and running after, s", time.monotonic() - began, 10)
    assert running(ingestor) == {"ONE", "TWO"}
    assert running(other) == {"THREE"}
    reasons = [each.reason for each in topics.statuses("THREE") if each.reason]
    assert set(reasons) == {Reason.CAPACITY}
    for stream_id in ("ONE", "TWO", "THREE"):
        epochs = {frame.epoch for frame in topics.wait_frames(stream_id, 1)}
        assert len(epochs) == 1
    eventually(lambda: reconciler.status_in(slot, "THREE") is None)
    eventually(lambda: topics.events("THREE")[-1].phase is Phase.END, 30)
    assert len({each.event_id for each in topics.events("THREE")}) == 1
    runs_since = next(each.since for each in topics.statuses("THREE") if each.status == "RUNNING")
    assert topics.events("THREE")[-1].ended_at >= runs_since  # not when it left
    assert reconciler.status("THREE").owner == other.state["instance"]
    assert other.stop() == 0
