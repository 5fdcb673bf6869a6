"""Sources looked at without a stream, by a real ingestor."""

import asyncio
import json
import signal
import socket
import threading
import time
from base64 import b64decode, b64encode
from collections import Counter
from contextlib import ExitStack, contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil
import pytest
import simplejpeg
from nacl.public import PublicKey, SealedBox

from schemas.messages import StreamSpec
from services.ingestor.probe import MOST_AT_ONCE, Probe
from services.process.token import sign
from tests.ingestor.conftest import (
    INTERNAL_KEY,
    PASSWORD,
    PUBLIC_KEY,
    assert_near_bar,
    eventually,
    is_alive,
)
from tests.ingestor.world import FakeChild, FakeTime, World

SERVERS = 2  # the fork server and its resource tracker: what an idle ingestor has of children
numbers = count(1)


@pytest.fixture(scope="module")
def ingestor(start_ingestor):
    return start_ingestor().wait_ready()


def sealed(probe_id, url, password=PASSWORD):
    parts = urlsplit(url)
    content = {
        **{"streamId": probe_id, "scheme": parts.scheme, "host": parts.hostname},
        **{"port": parts.port, "username": "viewer", "password": password},
    }
    box = SealedBox(PublicKey(b64decode(PUBLIC_KEY)))
    return b64encode(box.encrypt(json.dumps(content).encode())).decode()


def request_of(ingestor, probe_id, url, **more):
    token = sign(INTERNAL_KEY, probe_id)
    return {
        "url": f"http://127.0.0.1:{ingestor.port}/internal/probes/{probe_id}",
        "headers": {"Authorization": f"Bearer {token}"},
        "json": {"url": url, "withinS": 8, **more},
    }


def look(ingestor, url, password=None, **more):
    probe_id = f"P{next(numbers)}"
    if password is not None:
        more["sealedCredentials"] = sealed(probe_id, url, password)
    answer = httpx.post(**request_of(ingestor, probe_id, url, **more), timeout=20)
    assert answer.status_code == 200, answer.text
    return answer.json()


def look_patiently(ingestor, url):
    """Those before it count until they have ended, which is after their answers."""
    probe_id = f"P{next(numbers)}"
    asked = request_of(ingestor, probe_id, url)

    def answered():
        answer = httpx.post(**asked, timeout=20)
        return None if answer.status_code == 429 else answer

    return eventually(answered).json()


@contextmanager
def looking(ingestor, url, **more):
    """Under way: its head has come."""
    with httpx.Client(timeout=20) as client:
        asked = request_of(ingestor, f"P{next(numbers)}", url, **more)
        with client.stream("POST", **asked) as answer:
            yield answer


def children(ingestor):
    family = psutil.Process(ingestor.process.pid).children(recursive=True)
    return [each.pid for each in family if is_alive(each.pid)]


def probing(ingestor):
    """Processes of probes: this ingestor has no streams."""
    return len(children(ingestor)) - SERVERS


def test_a_camera_shows_what_it_is_and_a_picture(ingestor, cameras):
    began_s = time.monotonic()
    found = look(ingestor, f"{cameras}walk")
    assert_near_bar("a look, s", time.monotonic() - began_s, 1.5)
    assert found["source"] == {"codec": "h264", "width": 768, "height": 576, "fps": 10.0}
    assert simplejpeg.decode_jpeg_header(b64decode(found["jpeg"]))[:2] == (480, 640)
    assert (found["reason"], found["message"], found["hint"]) == (None, None, None)


def test_a_file_is_looked_at_like_a_camera(ingestor):
    found = look(ingestor, "file:bikes.mp4")
    assert found["source"]["codec"] == "h264"
    assert simplejpeg.decode_jpeg_header(b64decode(found["jpeg"]))[:2] == (272, 640)


def test_a_password_is_used_for_the_probe_it_was_sealed_for(ingestor, cameras):
    url = f"{cameras}locked"
    assert look(ingestor, url, PASSWORD)["reason"] is None
    foreign = look(ingestor, url, sealedCredentials=sealed("another", url))
    assert foreign["reason"] == "AUTH_FAILED"
    assert "another stream" in foreign["message"]


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("{cameras}locked", "AUTH_FAILED"),
        ("{cameras}nothing", "NOT_FOUND"),
        ("rtsp://127.0.0.1:1/x", "UNREACHABLE"),
        ("rtsp://169.254.169.254/x", "SOURCE_FORBIDDEN"),
        ("file:nothing.mp4", "NOT_FOUND"),
        ("file:../../LICENSE", "SOURCE_FORBIDDEN"),
        ("pipe:0", "SOURCE_FORBIDDEN"),
    ],
)
def test_what_can_not_be_opened_is_told_with_its_reason_and_a_hint(
    ingestor, cameras, place, reason
):
    found = look(ingestor, place.format(cameras=cameras), "" if "locked" in place else None)
    assert (found["reason"], found["source"], found["jpeg"]) == (reason, None, "")
    assert found["message"]
    assert found["hint"]


def test_a_silent_camera_is_given_up_in_time(ingestor, cameras):
    began_s = time.monotonic()
    found = look(ingestor, f"{cameras}hole", withinS=0.5)
    assert_near_bar("given up after, s", time.monotonic() - began_s, 1.5)
    assert found["reason"] == "TIMEOUT"
    eventually(lambda: probing(ingestor) == 0)


def test_only_gateways_may_ask_and_only_for_a_probe(ingestor):
    asked = request_of(ingestor, "P", "file:bikes.mp4")
    stranger = {"Authorization": f"Bearer {sign(INTERNAL_KEY, 'another')}"}
    for headers in ({}, stranger):
        assert httpx.post(**asked | {"headers": headers}).status_code == 401
    bodies: list[Any] = [{}, [], {"url": 5, "withinS": 1}, "x" * 70_000]
    for body in bodies:
        assert httpx.post(**asked | {"json": body}).status_code in {400, 413}
    assert probing(ingestor) == 0


def test_probes_are_bounded_and_one_that_nobody_waits_for_is_ended(ingestor, cameras):
    with ExitStack() as open_ones:
        for _ in range(MOST_AT_ONCE):
            open_ones.enter_context(looking(ingestor, f"{cameras}hole"))
        with looking(ingestor, f"{cameras}walk") as refused:
            assert refused.status_code == 429
            assert refused.headers["retry-after"]
        eventually(lambda: probing(ingestor) == MOST_AT_ONCE)
        left_s = time.monotonic()
    eventually(lambda: probing(ingestor) == 0)
    assert_near_bar("ended after, s", time.monotonic() - left_s, 1)
    assert look_patiently(ingestor, f"{cameras}walk")["reason"] is None


def test_a_probe_is_no_stream(ingestor, topics, cameras):
    look(ingestor, f"{cameras}walk")
    eventually(topics.instances)
    assert topics.instances()[-1].load == 0
    assert ingestor.state["cameras"] == []
    last = f"P{next(numbers) - 1}"
    assert [*topics.frames(last), *topics.statuses(last), *topics.heartbeats(last)] == []


def tasks(ingestor):
    """Its threads, by name and how many."""
    found: Counter[str] = Counter()
    for name in Path(f"/proc/{ingestor.process.pid}/task").glob("*/comm"):
        with suppress(FileNotFoundError, ProcessLookupError):  # it ends just now
            found[name.read_text().strip()] += 1
    return found


def test_many_probes_beside_each_other_leave_nothing(ingestor, cameras):
    before = tasks(ingestor)
    found: list[str | None] = []

    def some():
        found.extend(look_patiently(ingestor, f"{cameras}walk")["reason"] for _ in range(3))

    threads = [threading.Thread(target=some) for _ in range(MOST_AT_ONCE - 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == [None] * 3 * len(threads)
    eventually(lambda: probing(ingestor) == 0)
    eventually(lambda: not tasks(ingestor) - before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_probe_ends_with_its_ingestor(start_ingestor, cameras, number):
    ingestor = start_ingestor().wait_ready()
    with looking(ingestor, f"{cameras}hole"):
        eventually(lambda: probing(ingestor) == 1)
        left = children(ingestor)
        began_s = time.monotonic()
        ingestor.process.send_signal(number)
        assert ingestor.process.wait(40) == (0 if number is signal.SIGTERM else -number)
        assert_near_bar("stopped after, s", time.monotonic() - began_s, 8)
        eventually(lambda: not any(map(is_alive, left)), 4 * 3)


def test_a_hung_probe_is_killed_at_its_deadline(ingestor):
    """It is stopped where it hangs in C: no thread of it notices anything any more."""
    servers = {each.pid for each in psutil.Process(ingestor.process.pid).children()}
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"rtsp://127.0.0.1:{silent.getsockname()[1]}/x"
        silent.settimeout(30)
        with looking(ingestor, url, withinS=6) as answer, silent.accept()[0]:
            (pid,) = set(children(ingestor)) - servers
            psutil.Process(pid).send_signal(signal.SIGSTOP)
            assert json.loads(answer.read())["reason"] == "TIMEOUT"
        eventually(lambda: not is_alive(pid))


def begun(start):
    spec = StreamSpec(
        stream_id="P", slot=0, generation=1, running=True, name="probe", url="rtsp://x/"
    )
    return Probe(spec, 0.1, start, World().surroundings().order)


@pytest.mark.parametrize("error", [OSError, EOFError, RuntimeError])
def test_a_probe_without_a_process_says_so_and_ends_nothing_else(error):
    def start():
        raise error

    probe = begun(start)
    assert asyncio.run(probe.answer())["reason"] == "DECODER_CRASHED"
    probe.thread.join(5)


def test_a_process_that_can_not_be_read_from_is_ended(monkeypatch):
    """No thread is left for it; the probe's own was one of the last."""
    child, begin = FakeChild(FakeTime()), threading.Thread.start

    def start(thread):
        if thread.name == f"camera-{child.pid}":
            raise RuntimeError("can't start new thread")
        begin(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    probe = begun(lambda: child)
    assert asyncio.run(probe.answer())["reason"] == "DECODER_CRASHED"
    probe.thread.join(5)
    assert child.is_over
    assert child.link.fileno() == -1
