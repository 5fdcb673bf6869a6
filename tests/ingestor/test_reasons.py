"""Every reason for a stream not to run, reached by its real cause, said in time and in words."""

import json
import os
import shutil
import signal
from contextlib import ExitStack
from datetime import datetime
from fractions import Fraction
from itertools import count, groupby
from typing import NamedTuple

import av
import numpy as np
import pytest

from deploy.local.camera import Camera, digest_ha1
from schemas.messages import Reason, Status, StreamSpec
from services.ingestor.camera import OUT_OF_MEMORY
from services.ingestor.capture import BLIND_S, READ_TIMEOUT_S
from services.ingestor.relay import TALK_S
from services.ingestor.settings import CAMERA_NEEDS_BYTES
from tests.certificate import write_certificate
from tests.deploy.camera_process import WALK, running
from tests.ingestor.conftest import CLIPS, assert_near_bar, eventually
from tests.ingestor.scripted import Scripted, showing
from tests.ports import free_port

ELSEWHERE = {Reason.BROKER_DOWN, Reason.CAPACITY}  # with a broker, with ingestors of their own
HALF_OPEN_AFTER_S = 2.0
CLIP_S = 10.0


class Row(NamedTuple):
    cause: str
    url: str
    reason: Reason
    timeout_s: float = 0.0  # from the start of its process
    detail: str = ""


ROWS = [
    Row("no password", "rtsp://{plain}/locked", Reason.AUTH_FAILED, detail="none was given"),
    Row("wrong path", "rtsp://{plain}/nowhere", Reason.NOT_FOUND),
    Row("no such file", "file:nothing.mp4", Reason.NOT_FOUND),
    Row("refused port", "rtsp://{closed}/x", Reason.UNREACHABLE, detail="refused"),
    Row("connection reset", "rtsp://{plain}/reset", Reason.UNREACHABLE, detail="closed"),
    Row("too many viewers", "rtsp://{full}/x", Reason.UNREACHABLE, detail="closed"),
    Row("black hole", "rtsp://{plain}/hole", Reason.TIMEOUT, READ_TIMEOUT_S),
    Row("untrusted certificate", "rtsps://{untrusted}/walk", Reason.TLS, detail="self-signed"),
    Row("wrong name", "rtsps://{misnamed}/walk", Reason.TLS, detail="not valid for"),
    Row("no TLS spoken", "rtsps://{plain}/walk", Reason.TLS, TALK_S, "handshake"),
    Row("audio only", "rtsp://{audio}/x", Reason.NO_VIDEO),
    Row("not a video", "file:text.mp4", Reason.NO_VIDEO),
    Row("VP8", "rtsp://{vp8}/x", Reason.CODEC_UNSUPPORTED, detail="vp8"),
    Row("MPEG-4", "rtsp://{mpeg4}/x", Reason.CODEC_UNSUPPORTED, detail="mpeg4"),
    Row("frozen", "rtsp://{plain}/frozen", Reason.STALLED, HALF_OPEN_AFTER_S + READ_TIMEOUT_S),
    Row("garbage", "rtsp://{plain}/garbage", Reason.DECODE_ERRORS, BLIND_S),
    Row("end of a clip", "file:bikes.mp4", Reason.ENDED, CLIP_S),
    Row("out of memory", "file:huge.mp4", Reason.DECODER_CRASHED, 2, OUT_OF_MEMORY),
    Row("forbidden address", "rtsp://169.254.169.254/x", Reason.SOURCE_FORBIDDEN),
    Row("forbidden scheme", "http://127.0.0.1/x", Reason.SOURCE_FORBIDDEN),
    Row("forbidden file", "file:../secret", Reason.SOURCE_FORBIDDEN),
    Row("redirect", "rtsp://{plain}/away", Reason.SOURCE_FORBIDDEN, detail="redirects"),
]
LONGEST_S = max(row.timeout_s for row in ROWS)
_slots = count()


def encode_huge(path):
    """More of a picture than the smallest camera process can hold, and nearly nothing to send."""
    fast = {"preset": "ultrafast", "refs": "4", "rc-lookahead": "0"}
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options=fast)
        stream.width, stream.height, stream.pix_fmt = 7680, 4320, "yuv420p"
        for number in range(5):
            grey = np.full((4320 * 3 // 2, 7680), 128, np.uint8)
            picture = av.VideoFrame.from_ndarray(grey, format="yuv420p")
            picture.pts = number
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))


def key_picture(encoder):
    """Small enough for one packet."""
    context = av.CodecContext.create(encoder, "w")
    context.width, context.height, context.pix_fmt = 64, 64, "yuv420p"
    context.time_base = Fraction(1, 10)
    picture = av.VideoFrame.from_ndarray(np.full((96, 64), 128, np.uint8), format="yuv420p")
    return b"".join(map(bytes, [*context.encode(picture), *context.encode(None)]))


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    folder = tmp_path_factory.mktemp("media")
    shutil.copy(CLIPS / "bikes.mp4", folder)
    (folder / "text.mp4").write_text("no video\n" * 1000)
    encode_huge(folder / "huge.mp4")
    return folder


@pytest.fixture(scope="module")
def trusted(tmp_path_factory):
    """For another address than the camera's."""
    return write_certificate(tmp_path_factory.mktemp("trusted") / "camera.pem", "127.0.0.2")


@pytest.fixture(scope="module")
def places(tmp_path_factory, trusted):
    """Host and port of each camera, by name."""
    locked = Camera("locked", WALK, username="viewer", ha1=digest_ha1("viewer", "secret"))
    faults = {"hole": "blackhole", "reset": "reset", "frozen": "halfopen", "garbage": "garbage"}
    faults["away"] = "redirect=rtsp://127.0.0.1:1/x"
    faulty = [Camera(name, WALK, fault=fault) for name, fault in faults.items()]
    untrusted = write_certificate(tmp_path_factory.mktemp("untrusted") / "camera.pem", "127.0.0.1")
    scripted = {
        "audio": Scripted(showing("audio", "PCMU/8000"), payload=bytes(160)),
        "vp8": Scripted(showing("video", "VP8/90000"), payload=b"\x10" + key_picture("libvpx")),
        "mpeg4": Scripted(showing("video", "MP4V-ES/90000"), payload=key_picture("mpeg4")),
        "full": Scripted(lambda method, _: "" if method == "DESCRIBE" else "200 OK\r\n\r\n"),
    }
    with ExitStack() as stack:

        def port(*cameras, options=()):
            folder = tmp_path_factory.mktemp("cameras")
            return stack.enter_context(running(folder, *cameras, options=options)).port

        ports = {
            "closed": free_port(),
            "plain": port(Camera("walk", WALK), locked, *faulty),
            "untrusted": port(Camera("walk", WALK), options=["--certificate", str(untrusted)]),
            "misnamed": port(Camera("walk", WALK), options=["--certificate", str(trusted)]),
        }
        ports |= {name: camera.port for name, camera in scripted.items()}
        yield {name: f"127.0.0.1:{port}" for name, port in ports.items()}
    for camera in scripted.values():
        camera.close()


def spec(name, url):
    slot = next(_slots)
    return StreamSpec(
        stream_id=f"S{slot:02}",
        slot=slot % 4,
        generation=1,
        running=True,
        name=name,
        url=url,
        frame_width=None,
    )


@pytest.fixture(scope="module")
def streams(topics, places):
    """All at once: most of their time is spent with waiting."""
    wanted = [spec(row.cause, row.url.format(**places)) for row in ROWS]
    return {each.name: topics.want(each).stream_id for each in wanted}


@pytest.fixture(scope="module")
def bystander(topics):
    return topics.want(spec("bystander", "file:bikes.mp4?loop=1")).stream_id


@pytest.fixture(scope="module")
def ingestor(start_ingestor, streams, bystander, media, trusted):
    return start_ingestor(
        INGESTOR_MEDIA_PATH=str(media),
        INGESTOR_CAMERA_MEMORY_BYTES=str(CAMERA_NEEDS_BYTES),
        INGESTOR_RETRY_BASE_S="60",
        INGESTOR_RETRY_CAP_S="60",
        SSL_CERT_FILE=str(trusted),
    )


def complaint(topics, stream_id):
    """The first of the camera: a broker that pauses is told of, too."""
    others = (None, Reason.BROKER_DOWN)
    return next((each for each in topics.statuses(stream_id) if each.reason not in others), None)


def first_start(ingestor, stream_id):
    """When its first process was started."""
    lines = map(json.loads, ingestor.log.read_text().splitlines())
    begun = {"event": "camera.started", "stream": stream_id}.items()
    return datetime.fromisoformat(
        next(line["timestamp"] for line in lines if begun <= line.items())
    )


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.cause)
def test_a_reason_is_said_of_its_cause_in_time_and_in_words(ingestor, topics, streams, row):
    stream_id = streams[row.cause]
    said = eventually(lambda: complaint(topics, stream_id), 4 * (LONGEST_S + 1))
    assert said.reason is row.reason
    assert row.detail in said.message
    assert said.message
    assert said.hint
    took_s = (said.since - first_start(ingestor, stream_id)).total_seconds()
    print(f"{row.reason} ({row.cause}) after {took_s:.3f} s")
    assert_near_bar("which is late by, s", took_s - row.timeout_s, 1)


def test_a_killed_camera_says_so_and_is_back_in_its_epoch(ingestor, topics, bystander):
    victim = topics.want(spec("victim", "file:bikes.mp4?loop=1")).stream_id
    topics.wait_frames(victim, 1)
    os.kill(ingestor.camera(victim), signal.SIGKILL)
    crashed = eventually(lambda: complaint(topics, victim))
    assert crashed.reason is Reason.DECODER_CRASHED
    assert "SIGKILL" in crashed.message
    back = topics.wait_status(victim, Status.RUNNING)
    assert back.epoch == crashed.epoch
    assert_near_bar("back after, s", (back.since - crashed.since).total_seconds(), 2)


def test_no_other_camera_noticed(topics, bystander):
    said = [status for status, _ in groupby(each.status for each in topics.statuses(bystander))]
    assert said == [Status.STARTING, Status.RUNNING]
    frames = topics.frames(bystander)
    assert [each.seq for each in frames] == list(range(len(frames)))


def test_no_reason_is_without_its_test():
    assert {row.reason for row in ROWS} | ELSEWHERE == set(Reason)
