"""One ingestor, a real Kafka, simulated cameras: what comes out."""

import json
import os
import re
import signal
import socket
import time
from base64 import b64encode
from functools import partial
from itertools import count, groupby, pairwise
from statistics import median

import msgspec
import psutil
import pytest
import simplejpeg
from nacl.public import PrivateKey, SealedBox

from schemas.messages import Reason, Status, StreamSpec
from schemas.topics import STREAM_STATUS, STREAMS
from services.ingestor.down import BLIP_S
from services.process.token import sign
from tests.ingestor.conftest import (
    INTERNAL_KEY,
    PASSWORD,
    assert_near_bar,
    eventually,
    is_alive,
    sealed,
)
from tests.ports import free_port

_numbers = count()


def spec(url, **more):
    number = next(_numbers)
    plain = StreamSpec(
        stream_id=f"S{number:02}",
        slot=number % 4,
        generation=1,
        running=True,
        name="a camera",
        url=url,
    )
    return msgspec.structs.replace(plain, **more)


def later(before, **changes):
    return msgspec.structs.replace(before, generation=before.generation + 1, **changes)


@pytest.fixture(scope="module")
def clip(topics):
    """Begins before everything else, and is looked at last."""
    return topics.want(spec("file:bikes.mp4", fps=10))


@pytest.fixture(scope="module")
def silent(topics, cameras):
    """Likewise: a time-out takes its time."""
    return topics.want(spec(f"{cameras}hole"))


@pytest.fixture(scope="module")
def ingestor(start_ingestor, clip, silent):
    others = {"DATABASE_URL": "postgresql://u:secret@h/d"}  # of a file that services share
    return start_ingestor(**others).wait_ready()


def assert_whole(frames):
    """Gapless from 0, with books that balance at every frame and a time that never goes back."""
    assert [frame.seq for frame in frames] == list(range(len(frames)))
    assert len({frame.epoch for frame in frames}) == 1
    assert all(frame.captured == frame.dropped + frame.seq + 1 for frame in frames)
    assert all(a.captured_at <= b.captured_at for a, b in pairwise(frames))


def test_a_camera_is_published_at_the_wanted_rate(ingestor, topics, cameras):
    camera = topics.want(spec(f"{cameras}walk", fps=5, labels=("person",), min_confidence=0.5))
    frames = topics.wait_frames(camera.stream_id, 16)[:16]
    assert_whole(frames)
    gaps = [(b.captured_at - a.captured_at).total_seconds() for a, b in pairwise(frames[1:])]
    assert_near_bar("error of the usual gap, s", abs(median(gaps) - 0.2), 0.02)
    assert_near_bar("mean gap shorter by, s", 0.2 - sum(gaps) / len(gaps), 0.02)
    assert frames[0].labels == ("person",)
    assert frames[0].min_confidence == 0.5
    assert_near_bar("age, ms", frames[-1].age_ms, 1500)
    assert frames[-1].clock.source == "arrival"
    assert_near_bar("offset, ms", abs(frames[-1].clock.offset_ms), 2000)
    status = topics.wait_status(camera.stream_id, "RUNNING")
    assert (status.source.codec, status.source.width) == ("h264", 768)
    assert status.endpoint == f"http://127.0.0.1:{ingestor.port}"
    topics.delete(camera)
    stopped = topics.wait_status(camera.stream_id, "STOPPED")
    assert stopped.endpoint is None
    eventually(lambda: ingestor.camera(camera.stream_id) is None)


def test_a_change_of_rate_and_labels_needs_no_new_connection(ingestor, topics, cameras):
    camera = topics.want(spec(f"{cameras}walk", fps=10))
    topics.wait_frames(camera.stream_id, 5)
    pid = ingestor.camera(camera.stream_id)
    changed = later(camera, fps=2, labels=("car",), detection_enabled=False)
    topics.want(changed)

    def slow():
        frames = [each for each in topics.frames(camera.stream_id) if each.labels == ("car",)]
        return frames if len(frames) >= 8 else None

    frames = eventually(slow)
    gaps = [(b.captured_at - a.captured_at).total_seconds() for a, b in pairwise(frames[1:])]
    assert_near_bar("error of the usual gap, s", abs(median(gaps) - 0.5), 0.03)
    assert_near_bar("mean gap shorter by, s", 0.5 - sum(gaps) / len(gaps), 0.03)
    assert not frames[0].detect
    assert ingestor.camera(camera.stream_id) == pid
    assert topics.wait_status(camera.stream_id, "RUNNING").observed_generation == 2
    assert_whole(topics.frames(camera.stream_id))
    narrow = topics.want(later(changed, frame_width=320))
    eventually(lambda: topics.frames(camera.stream_id)[-1].width == 320)
    assert ingestor.camera(camera.stream_id) != pid
    assert_whole(topics.frames(camera.stream_id))
    topics.want(msgspec.structs.replace(camera, generation=1))  # a late, stale word
    topics.want(later(narrow, running=False))
    assert topics.wait_status(camera.stream_id, "STOPPED").observed_generation == 4
    final = eventually(lambda: _last_heartbeat_balances(topics, camera.stream_id))
    assert final.ledger.balances


def _last_heartbeat_balances(topics, stream_id):
    published = len(topics.frames(stream_id))
    found = [each for each in topics.heartbeats(stream_id) if each.totals.published == published]
    return found[-1] if found else None


def test_a_killed_camera_process_is_back_within_two_seconds_in_the_same_epoch(
    ingestor, topics, cameras
):
    camera = topics.want(spec(f"{cameras}walk", fps=10))
    topics.wait_frames(camera.stream_id, 5)
    pid = eventually(lambda: ingestor.camera(camera.stream_id))
    os.kill(pid, signal.SIGKILL)
    killed_at = time.monotonic()
    seen = len(topics.frames(camera.stream_id))
    topics.wait_frames(camera.stream_id, seen + 8)
    took_s = time.monotonic() - killed_at - 0.8  # of frames, once they come again
    assert_near_bar("back after, s", took_s, 2)
    assert ingestor.camera(camera.stream_id) != pid
    assert_whole(topics.frames(camera.stream_id))
    said = [(each.status, each.reason) for each in topics.statuses(camera.stream_id)]
    assert (Status.ERROR, Reason.DECODER_CRASHED) in said
    topics.delete(camera)
    topics.wait_status(camera.stream_id, "STOPPED")
    if took_s < BLIP_S - 1:
        assert topics.events(camera.stream_id) == []


@pytest.mark.parametrize(
    ("where", "reason"),
    [
        ("locked", Reason.AUTH_FAILED),
        ("nowhere", Reason.NOT_FOUND),
    ],
)
def test_a_camera_that_fails_says_why(ingestor, topics, cameras, where, reason):
    camera = topics.want(spec(f"{cameras}{where}"))
    status = topics.wait_status(camera.stream_id, "ERROR", reason, 4 * 5)
    assert status.message
    assert status.hint
    assert status.attempt >= 1
    assert status.next_retry_at >= status.since
    topics.delete(camera)
    topics.wait_status(camera.stream_id, "STOPPED")


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("file:nothing.mp4", Reason.NOT_FOUND),
        ("file:../pyproject.toml", Reason.SOURCE_FORBIDDEN),
        ("file:vtest_12s.boxes.json", Reason.NO_VIDEO),
        ("rtsp://169.254.169.254/latest", Reason.SOURCE_FORBIDDEN),
        ("http://127.0.0.1/x", Reason.SOURCE_FORBIDDEN),
        ("rtsps://127.0.0.1:{closed}/x", Reason.UNREACHABLE),
        ("rtsp://127.0.0.1:{closed}/x", Reason.UNREACHABLE),
    ],
)
def test_an_address_that_leads_nowhere_is_told_from_one_that_is_forbidden(
    ingestor, topics, url, reason
):
    camera = topics.want(spec(url.format(closed=free_port())))
    topics.wait_status(camera.stream_id, "ERROR", reason, 4 * 5)
    topics.delete(camera)


def foreign_boxes(camera):
    """For another stream, for another address, for another key."""
    yield sealed("another", camera.url, PASSWORD)
    yield sealed(camera.stream_id, "rtsp://192.0.2.1:554/x", PASSWORD)
    yield b64encode(SealedBox(PrivateKey.generate()).encrypt(b"{}")).decode()


def is_refused(topics, camera, generation):
    said = topics.statuses(camera.stream_id)[-1]
    return (said.observed_generation, said.reason) == (generation, Reason.AUTH_FAILED)


def test_sealed_credentials_open_a_camera_and_show_nowhere(ingestor, topics, cameras):
    camera = spec(f"{cameras}locked")
    seal = sealed(camera.stream_id, camera.url, PASSWORD)
    topics.want(msgspec.structs.replace(camera, sealed_credentials=seal))
    topics.wait_frames(camera.stream_id, 2)
    process = psutil.Process(eventually(lambda: ingestor.camera(camera.stream_id)))
    shown = json.dumps([process.cmdline(), process.environ()])
    assert "viewer" not in shown
    assert "PATH" in process.environ()
    assert not {"DATABASE_URL", "SIGHTLOG_SEAL_PRIVATE_KEYS"} & set(process.environ())
    wrong = sealed(camera.stream_id, camera.url, "not " + PASSWORD)
    topics.want(later(camera, sealed_credentials=wrong))
    status = topics.wait_status(camera.stream_id, "ERROR", Reason.AUTH_FAILED)
    assert PASSWORD not in repr(status)
    topics.want(msgspec.structs.replace(camera, generation=3, sealed_credentials="broken"))
    eventually(partial(is_damaged, topics, camera, 3))
    for generation, box in enumerate(foreign_boxes(camera), 4):
        topics.want(msgspec.structs.replace(camera, generation=generation, sealed_credentials=box))
        eventually(partial(is_refused, topics, camera, generation))
    topics.delete(camera)


def is_damaged(topics, camera, generation):
    """An attempt that was under way may yet say something else."""
    said = topics.statuses(camera.stream_id)[-1]
    return said.observed_generation == generation and "damaged" in (said.message or "")


def test_the_newest_frame_and_the_live_view_are_for_gateways_only(ingestor, topics):
    clip = topics.want(spec("file:bikes.mp4?loop=1", fps=10))
    topics.wait_frames(clip.stream_id, 3)
    path = f"/internal/streams/{clip.stream_id}"
    assert ingestor.ask(f"{path}/frame")[0] == 401
    strange = f"Bearer {sign(INTERNAL_KEY, 'S99')}"
    assert ingestor.ask(f"{path}/frame", Authorization=strange)[0] == 401
    ours = f"Bearer {sign(INTERNAL_KEY, clip.stream_id)}"
    eventually(lambda: "x-frame-id" in ingestor.ask(f"{path}/frame", Authorization=ours)[1])
    status, headers, jpeg = ingestor.ask(f"{path}/frame", Authorization=ours)
    assert status == 200
    assert headers["x-frame-id"].startswith(f"{clip.stream_id}/")
    assert re.fullmatch(r"\d{4}-.*\.\d{6}Z", headers["x-captured-at"])
    assert simplejpeg.decode_jpeg_header(jpeg)[:2] == (272, 640)
    status, _, body = ingestor.ask(
        "/internal/streams/S99/frame", Authorization=f"Bearer {sign(INTERNAL_KEY, 'S99')}"
    )
    assert (status, json.loads(body)["reason"]) == (404, "NOT_OWNED")
    topics.delete(clip)
    topics.wait_status(clip.stream_id, "STOPPED")
    assert ingestor.ask(f"{path}/frame", Authorization=ours)[0] == 404


def test_a_foreign_epoch_is_answered_by_a_higher_one(ingestor, topics):
    clip = topics.want(spec("file:bikes.mp4?loop=1", fps=5))
    first = topics.wait_frames(clip.stream_id, 2)[-1]
    said = topics.wait_status(clip.stream_id, "RUNNING")
    foreign = msgspec.structs.replace(said, owner="another", epoch=first.epoch + 5_000_000)
    topics.say_status(foreign, clip.slot)
    eventually(lambda: topics.frames(clip.stream_id)[-1].epoch > foreign.epoch)
    newest = topics.wait_status(clip.stream_id, "RUNNING")
    assert newest.epoch == foreign.epoch + 1
    frames = topics.frames(clip.stream_id)
    assert_whole([frame for frame in frames if frame.epoch == first.epoch])
    assert_whole([frame for frame in frames if frame.epoch == newest.epoch])
    topics.say_status(msgspec.structs.replace(said, owner="another"), clip.slot)
    eventually(lambda: topics.statuses(clip.stream_id)[-1].epoch == newest.epoch)
    topics.delete(clip)


@pytest.mark.parametrize(("owner", "slots_away"), [("another", 1), (None, 0), (None, 1)])
def test_an_epoch_forged_in_another_partition_or_in_our_name_is_gone_beyond(
    ingestor, topics, owner, slots_away
):
    clip = topics.want(spec("file:bikes.mp4?loop=1", fps=5))
    topics.wait_frames(clip.stream_id, 2)
    said = topics.wait_status(clip.stream_id, "RUNNING")
    forged = msgspec.structs.replace(said, owner=owner or said.owner, epoch=said.epoch + 5_000_000)
    topics.say_status(forged, (clip.slot + slots_away) % 4)
    eventually(lambda: topics.frames(clip.stream_id)[-1].epoch == forged.epoch + 1)
    topics.delete(clip)


def test_a_lower_generation_is_taken_after_a_tombstone(ingestor, topics):
    clip = topics.want(spec("file:bikes.mp4?loop=1", fps=5, generation=2**53))
    topics.wait_frames(clip.stream_id, 1)
    topics.delete(clip)
    healed = topics.want(msgspec.structs.replace(clip, generation=7))
    eventually(lambda: topics.statuses(clip.stream_id)[-1].observed_generation == 7)
    topics.wait_status(clip.stream_id, "RUNNING")
    topics.delete(healed)


def test_a_forged_epoch_far_ahead_is_answered_and_moves_nobody(ingestor, topics):
    clip = topics.want(spec("file:bikes.mp4?loop=1", fps=5))
    topics.wait_frames(clip.stream_id, 2)
    said = topics.wait_status(clip.stream_id, "RUNNING")
    forged = msgspec.structs.replace(said, owner="another", epoch=2**53)
    topics.say_status(forged, clip.slot)

    def answered():
        heard = topics.statuses(clip.stream_id)
        return forged in heard and (heard[-1].owner, heard[-1].epoch) == (said.owner, said.epoch)

    eventually(answered)
    seen = len(topics.frames(clip.stream_id))
    frames = topics.wait_frames(clip.stream_id, seen + 3)
    assert {frame.epoch for frame in frames} == {said.epoch}
    assert_whole(frames)
    topics.delete(clip)


def test_the_instance_and_its_metrics_are_there(ingestor, topics):
    instance = eventually(topics.instances)[-1]
    assert (instance.service, instance.endpoint) == (
        "ingestor",
        f"http://127.0.0.1:{ingestor.port}",
    )
    metrics = ingestor.ask("/metrics")[2].decode()
    assert "sightlog_ingestor_frames_published_total" in metrics
    assert ingestor.ask("/health/live")[0] == 200


def test_a_camera_that_accepts_and_stays_silent_is_given_up_after_a_while(ingestor, topics, silent):
    topics.wait_status(silent.stream_id, "ERROR", Reason.TIMEOUT, 4 * 12)
    status = next(each for each in topics.statuses(silent.stream_id) if each.reason)
    assert (status.next_retry_at - status.since).total_seconds() <= 0.5
    topics.delete(silent)
    topics.wait_status(silent.stream_id, "STOPPED")


def test_a_clip_is_published_whole_at_its_own_speed_and_ends(ingestor, topics, clip):
    ended = topics.wait_status(clip.stream_id, "STOPPED", "ENDED", 4 * 12)
    assert ended.source is None
    final = eventually(lambda: _settled(topics, clip.stream_id, 250))
    frames = topics.frames(clip.stream_id)
    assert_whole(frames)
    assert len(frames) == pytest.approx(100, abs=2)
    took_s = (frames[-1].captured_at - frames[0].captured_at).total_seconds()
    assert_near_bar("error of its length, s", abs(took_s - 9.9), 0.3)
    assert simplejpeg.decode_jpeg_header(frames[0].jpeg)[:2] == (272, 640)
    assert final.totals.published == len(frames)
    assert all(
        each.ledger.balances and each.totals.balances for each in topics.heartbeats(clip.stream_id)
    )
    said = [
        status for status, _ in groupby(each.status for each in topics.statuses(clip.stream_id))
    ]
    assert said == [Status.STARTING, Status.RUNNING, Status.STOPPED]


def _settled(topics, stream_id, captured):
    heartbeats = topics.heartbeats(stream_id)
    found = [
        each for each in heartbeats if each.totals.captured == captured and not each.totals.pending
    ]
    return found[-1] if found else None


def poisons(good):
    """What is no spec, and the reason that its dead letter must name."""
    encoded = STREAMS.encode(good)
    return [
        (good.stream_id, b"", "EMPTY"),
        (good.stream_id, b"\xff\xd8\xff", "NOT_JSON"),
        (good.stream_id, encoded[:-20], "NOT_JSON"),
        (good.stream_id, b'{"streamId": 5}', "WRONG_SHAPE"),
        ("another", encoded, "WRONG_KEY"),
        (b"\xff", encoded, "WRONG_KEY"),
        (good.stream_id, STREAMS.encode(later(good, slot=good.slot + 1)), "WRONG_SLOT"),
        (good.stream_id, STREAMS.encode(later(good, fps=-1)), "WRONG_SHAPE"),
        (good.stream_id, STREAMS.encode(later(good, frame_width=10**12)), "WRONG_SHAPE"),
        (good.stream_id, STREAMS.encode(later(good, labels=("x" * 1_900_000,))), "TOO_LARGE"),
    ]


def test_each_poison_gets_one_letter_and_costs_neither_its_stream_nor_the_partition(
    ingestor, topics
):
    clip = topics.want(spec("file:bikes.mp4?loop=1", slot=1))
    first = topics.wait_frames(clip.stream_id, 2)[-1]
    pid = ingestor.camera(clip.stream_id)
    before = len(topics.dead_letters())
    wrong = {"ce_type": b"\xff\x00", "content-type": b"image/jpeg", "epoch": b"x" * 10_000}
    for key, value, _ in poisons(clip):
        topics.say_raw(STREAMS, clip.slot, key, value, wrong)
    said_at = time.monotonic()
    topics.want(later(clip, name="a better name"))  # the partition moves on
    eventually(lambda: topics.statuses(clip.stream_id)[-1].observed_generation == 2)
    assert_near_bar("moved on after, s", time.monotonic() - said_at, 1)
    expected = [reason for *_, reason in poisons(clip)]
    eventually(lambda: len(topics.dead_letters()) >= before + len(expected))
    letters = sorted(topics.dead_letters()[before:], key=lambda letter: letter.offset)
    assert [letter.reason for letter in letters] == expected
    assert {(letter.service, letter.partition) for letter in letters} == {("ingestor", clip.slot)}
    frames = topics.wait_frames(clip.stream_id, len(topics.frames(clip.stream_id)) + 3)
    assert {frame.epoch for frame in frames} == {first.epoch}
    assert ingestor.camera(clip.stream_id) == pid
    assert_whole(frames)
    topics.delete(clip)


def test_what_is_no_status_moves_nobody_and_is_for_others_to_bury(ingestor, topics):
    clip = topics.want(spec("file:bikes.mp4?loop=1", slot=1))
    first = topics.wait_frames(clip.stream_id, 2)[-1]
    topics.wait_status(clip.stream_id, "RUNNING")
    before = len(topics.dead_letters())
    for value in (b"", b"{", b"\xff\xd8", b'{"streamId": "x"}', b"[" * 100_000):
        topics.say_raw(STREAM_STATUS, clip.slot, clip.stream_id, value, {"ce_type": b"\xff"})
    frames = topics.wait_frames(clip.stream_id, len(topics.frames(clip.stream_id)) + 5)
    assert {frame.epoch for frame in frames} == {first.epoch}
    assert len(topics.dead_letters()) == before
    topics.delete(clip)
    topics.wait_status(clip.stream_id, "STOPPED")


def camera_processes(ingestor):
    family = psutil.Process(ingestor.process.pid).children(recursive=True)
    return [each for each in family if is_alive(each.pid)]


def test_nothing_is_left_of_a_deleted_stream(ingestor, topics):
    clip = topics.want(spec("file:bikes.mp4?loop=1", fps=5))
    topics.wait_frames(clip.stream_id, 1)
    pid = ingestor.camera(clip.stream_id)
    path = f"/internal/streams/{clip.stream_id}/frame"
    ours = f"Bearer {sign(INTERNAL_KEY, clip.stream_id)}"
    assert ingestor.ask(path, Authorization=ours)[0] == 200
    topics.delete(clip)
    topics.wait_status(clip.stream_id, "STOPPED")
    assert not is_alive(pid)
    eventually(lambda: b"NOT_OWNED" in ingestor.ask(path, Authorization=ours)[2])
    # The fork server and its resource tracker; other tests' cameras come and go.
    eventually(lambda: len(camera_processes(ingestor)) == 2 + len(ingestor.cameras))


def test_an_ingestor_stops_in_time_though_a_viewer_neither_reads_nor_leaves(ingestor, topics):
    clip = topics.want(spec("file:bikes.mp4?loop=1", fps=20, frame_width=None))
    topics.wait_frames(clip.stream_id, 1)
    token = sign(INTERNAL_KEY, clip.stream_id)
    left = camera_processes(ingestor)
    with socket.create_connection(("127.0.0.1", ingestor.port)) as viewer:
        request = f"GET /internal/streams/{clip.stream_id}/live HTTP/1.1\r\nHost: x\r\n"
        viewer.sendall(f"{request}Authorization: Bearer {token}\r\n\r\n".encode())
        begun = viewer.recv(1000)
        assert b"multipart/x-mixed-replace; boundary=frame" in begun
        topics.wait_frames(clip.stream_id, 40)
        asked_at = time.monotonic()
        assert ingestor.stop() == 0
        assert_near_bar("stopped after, s", time.monotonic() - asked_at, 8)
    said = topics.wait_status(clip.stream_id, "STOPPED")
    assert (said.owner, said.endpoint) == (topics.instances()[-1].instance, None)
    eventually(lambda: not any(is_alive(each.pid) for each in left), 4 * 3)
