"""A camera's password works on the camera, and is nowhere else: whatever is done to the stack."""

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from confluent_kafka import Producer
from msgspec.structs import replace
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from deploy.local.camera_list import read_cameras, write_cameras
from deploy.local.environment import minimal_environment
from deploy.local.service import says_ready
from schemas.topics import DETECTIONS, PRODUCER_OF_FACTS, STREAMS
from tests.pipeline import canary as search
from tests.pipeline.canary import Canary
from tests.stack import RunningStack, eventually

CANARY = Canary("viewer", "p@:/#?%ü$(x)")
WRONG = Canary("viewer", "wr0ng@:/#?%ß$(y)")
POISON = Canary("feeder", "p0is0n@:/#?%ö$(z)")
PATIENCE_S = 90.0
COME_BACK_S = 20.0

pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def stack_options() -> list[str]:
    return ["--env", "INGESTOR_RETRY_CAP_S=2"]


class Teller:
    """A client of the gateway that keeps every answer, head and all."""

    def __init__(self, stack: RunningStack) -> None:
        self._key = {"Authorization": f"Bearer {stack['apiKey']}"}
        self._address = f"{stack['wsUrl']}?empty=true"
        self._client = httpx.Client(base_url=stack["gatewayUrl"], headers=self._key, timeout=10)
        self._closing = threading.Event()
        self.heard: list[str] = []
        self._listener = threading.Thread(target=self._listen)
        self._listener.start()

    def _listen(self) -> None:
        """Until the end, or that of the gateway."""
        with (
            suppress(ConnectionClosed, OSError),
            connect(self._address, additional_headers=self._key, max_size=None) as socket,
        ):
            while not self._closing.is_set():
                with suppress(TimeoutError):
                    self.heard.append(str(socket.recv(timeout=0.2)))

    def ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        """Comes back where it is told to, for a while: nothing was done then."""
        until_s = time.monotonic() + COME_BACK_S
        while True:
            answer = self._client.request(method, path, **more)
            self.heard.append(f"{answer.status_code} {answer.headers}")
            if not answer.headers.get("content-type", "").startswith("image/"):
                self.heard.append(answer.text)
            if "Retry-After" not in answer.headers or time.monotonic() > until_s:
                return answer
            time.sleep(0.5)

    def create(self, name: str, url: str, **more: Any) -> str:
        body = {"name": name, "rtspUrl": url, "running": True, "fps": 2} | more
        answer = self.ask("POST", "/streams", json=body)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def state(self, id: str) -> str:
        try:
            shown = self.ask("GET", f"/streams/{id}").json()
        except httpx.TransportError:
            return "AWAY"
        return str(shown.get("reason") or shown["status"])

    def awaits(self, state: str, *ids: str) -> bool:
        return eventually(lambda: all(self.state(id) == state for id in ids), PATIENCE_S)

    def close(self) -> None:
        self._closing.set()
        self._listener.join(5)
        self._client.close()


@pytest.fixture(scope="module")
def teller(stack: RunningStack) -> Iterator[Teller]:
    teller = Teller(stack)
    yield teller
    teller.close()


@pytest.fixture(scope="module")
def cameras(stack: RunningStack) -> tuple[str, str]:
    """Where they are: one for Digest only, one for Basic only."""
    words = ("--count", "2", "--username", CANARY.username, "--password-env", "PW")
    added = stack.run("cameras", "add", *words, PW=CANARY.password)
    assert added.returncode == 0, added.stderr
    listed = stack.folder / "cameras.json"
    digest, basic = read_cameras(listed)
    write_cameras(
        listed, [replace(digest, schemes=("digest",)), replace(basic, schemes=("basic",))]
    )
    one, other = added.stdout.split()
    return one, other


@pytest.fixture(scope="module")
def streams(teller: Teller, cameras: tuple[str, str]) -> tuple[str, str]:
    """Created both ways, for both kinds of proof."""
    digest, basic = cameras
    fields = {"username": CANARY.username, "password": CANARY.password}
    one = teller.create("by fields", digest, **fields)
    other = teller.create("by url", basic.replace("//", f"//{CANARY.in_url}@"))
    return one, other


def test_the_password_works_over_digest_and_basic_given_in_fields_or_in_the_url(
    teller: Teller, streams: tuple[str, str]
) -> None:
    assert teller.awaits("RUNNING", *streams), [teller.state(id) for id in streams]
    for id in streams:
        assert teller.ask("GET", f"/streams/{id}/frame").status_code == 200
        shown = teller.ask("GET", f"/streams/{id}").json()
        assert shown["hasCredentials"]
        assert "@" not in shown["rtspUrl"]


def test_it_is_nowhere_after_all_that_can_go_wrong(
    stack: RunningStack, teller: Teller, cameras: tuple[str, str], streams: tuple[str, str]
) -> None:
    assert teller.awaits("RUNNING", *streams)
    try_wrong_passwords(teller, cameras)
    probe(teller, cameras)
    crash_cameras(stack, streams)
    assert redirected(stack, teller, streams[0]) == []
    assert eventually(lambda: set(streams) <= cameras_of(stack).keys(), PATIENCE_S)
    fail(teller, streams[0])
    feed_poison(stack)
    assert eventually(lambda: dead_letters(stack) >= 4, PATIENCE_S)
    os.kill(stack.service("ingestor")["pid"], signal.SIGKILL)
    assert eventually(lambda: stack.service("ingestor")["restarts"] == 1, PATIENCE_S)
    assert eventually(lambda: set(streams) <= cameras_of(stack).keys(), PATIENCE_S)
    assert teller.awaits("RUNNING", *streams), [teller.state(id) for id in streams]
    look_at_everything(stack, teller)
    assert any('"event":"stream:status"' in text for text in teller.heard)
    for canary in (CANARY, WRONG):
        assert search.everywhere(canary, stack) == []
        assert not canary.is_in("\n".join(teller.heard))
    planted = [STREAMS.name, DETECTIONS.name]
    assert search.everywhere(POISON, stack, but_topics=planted) == []
    assert not POISON.is_in("\n".join(teller.heard))


def test_a_new_key_is_put_before_the_old_one_until_all_is_sealed_with_it(
    stack: RunningStack, teller: Teller, streams: tuple[str, str]
) -> None:
    """As docs/security.md says it."""
    secrets = stack.folder / "secrets"
    old = (secrets / "seal-private-keys").read_text().strip()
    public, new = new_key_pair()

    (secrets / "seal-private-keys").write_text(f"{new},{old}\n")
    restart(stack, "ingestor")
    (secrets / "seal-public-key").write_text(f"{public}\n")
    restart(stack, "gateway")
    assert teller.awaits("RUNNING", *streams)
    log = Path(stack.service("ingestor")["logFile"])
    assert eventually(lambda: outdated(log) >= set(streams), PATIENCE_S)

    saved = {"username": CANARY.username, "password": CANARY.password}
    assert teller.ask("PATCH", f"/streams/{streams[0]}", json=saved).status_code == 200
    (secrets / "seal-private-keys").write_text(f"{new}\n")
    restart(stack, "ingestor")
    assert teller.awaits("RUNNING", streams[0])
    assert teller.awaits("AUTH_FAILED", streams[1])
    shown = teller.ask("GET", f"/streams/{streams[1]}").json()
    assert "sealed with a key" in shown["message"]


def try_wrong_passwords(teller: Teller, cameras: tuple[str, str]) -> None:
    digest, basic = cameras
    wrong = {"username": WRONG.username, "password": WRONG.password}
    ids = [
        teller.create("wrong by fields", digest, **wrong),
        teller.create("wrong by url", basic.replace("//", f"//{WRONG.in_url}@")),
        teller.create("wrong path", f"{digest}-no", **wrong),
    ]
    assert teller.awaits("AUTH_FAILED", *ids[:2]), [teller.state(id) for id in ids]
    assert teller.awaits("NOT_FOUND", ids[2])


def probe(teller: Teller, cameras: tuple[str, str]) -> None:
    """What nobody has saved, with the right password and a wrong one, both ways."""
    digest, basic = cameras

    def seen(url: str, canary: Canary | None = None) -> tuple[bool, str | None]:
        fields = {"username": canary.username, "password": canary.password} if canary else {}
        answer = teller.ask("POST", "/streams/probe", json={"rtspUrl": url} | fields)
        assert answer.status_code == 200, answer.text
        return answer.json()["ok"], answer.json()["reason"]

    assert seen(digest, CANARY) == (True, None)
    assert seen(basic.replace("//", f"//{CANARY.in_url}@")) == (True, None)
    assert seen(digest, WRONG) == (False, "AUTH_FAILED")
    assert seen(basic.replace("//", f"//{WRONG.in_url}@")) == (False, "AUTH_FAILED")
    assert seen(digest) == (False, "AUTH_FAILED")  # though the stream's own is stored
    assert seen(f"{digest}-no", CANARY) == (False, "NOT_FOUND")


def cameras_of(stack: RunningStack) -> dict[str, int]:
    """The process of each stream that has one."""
    port = stack.service("ingestor")["httpPort"]
    try:
        ready = httpx.get(f"http://127.0.0.1:{port}/health/ready", timeout=10).json()
    except httpx.TransportError:
        return {}
    return {camera["streamId"]: camera["pid"] for camera in ready["cameras"]}


def crash_cameras(stack: RunningStack, ids: Collection[str]) -> None:
    assert eventually(lambda: set(ids) <= cameras_of(stack).keys(), PATIENCE_S)
    running = cameras_of(stack)
    for id in ids:
        with suppress(ProcessLookupError):  # it crashes by itself
            os.kill(running[id], signal.SIGKILL)


def redirected(stack: RunningStack, teller: Teller, id: str) -> list[bytes]:
    """What a host gets to hear to which a camera sends its visitors."""
    name = stack["cameras"][0]["name"]
    with listening() as (port, heard):
        url = f"rtsp://127.0.0.1:{port}/{name}"
        assert stack.run("cameras", "fault", name, f"redirect={url}").returncode == 0
        crash_cameras(stack, [id])
        assert eventually(lambda: teller.state(id) == "SOURCE_FORBIDDEN", PATIENCE_S)
        assert stack.run("cameras", "fault", name, "none").returncode == 0
        return [data for data in heard if CANARY.is_in(data)]


@contextmanager
def listening() -> Iterator[tuple[int, list[bytes]]]:
    """Asks everybody for a password by Basic, which is the password itself."""
    heard: list[bytes] = []
    challenge = (
        b'RTSP/1.0 401 Unauthorized\r\nCSeq: %d\r\nWWW-Authenticate: Basic realm="x"\r\n\r\n'
    )
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as thread:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.settimeout(2)
                    for number in (1, 2, 3):
                        heard.append(connection.recv(4096))
                        connection.sendall(challenge % number)

        thread.submit(serve)
        yield server.getsockname()[1], heard
        server.shutdown(socket.SHUT_RDWR)


def fail(teller: Teller, id: str) -> None:
    """Requests that are refused, each with the password somewhere."""
    raw = f"rtsp://{CANARY.username}:{CANARY.password}@127.0.0.1:1/x"
    bodies: list[dict[str, Any]] = [
        {"rtspUrl": raw},
        {"rtspUrl": f"http://{CANARY.in_url}@127.0.0.1/"},
        {"password": CANARY.password},
        {"username": CANARY.username, "password": CANARY.password, "fps": 99},
        {"username": CANARY.username, "password": [CANARY.password]},
        {"name": "\n" + CANARY.password},
        {CANARY.password: 1},
        {"model": CANARY.password},
        {"sources": [{"url": raw}]},
        {"username": "u", "password": CANARY.password * 30},
    ]
    for body in bodies:
        assert teller.ask("PATCH", f"/streams/{id}", json=body).status_code == 422, body
        assert teller.ask("POST", "/streams", json={"name": "x"} | body).status_code == 422, body
        assert teller.ask("POST", "/streams/probe", json=body).status_code == 422, body
    broken = f'{{"username": "u", "password": "{CANARY.password}"'
    as_json = {"Content-Type": "application/json"}
    for method, path in (
        ("PATCH", f"/streams/{id}"),
        ("POST", "/streams"),
        ("POST", "/streams/probe"),
    ):
        assert teller.ask(method, path, content=broken, headers=as_json).status_code == 400
    stale = {"If-Match": '"0"'}
    saved = {"username": CANARY.username, "password": CANARY.password}
    refused = teller.ask("PATCH", f"/streams/{id}", json=saved, headers=stale)
    assert refused.status_code == 412
    nowhere = "/streams/01AAAAAAAAAAAAAAAAAAAAAAAA"
    assert teller.ask("PATCH", nowhere, json=saved).status_code == 404


def feed_poison(stack: RunningStack) -> None:
    """What is no spec and no record, with a password in each of its parts."""
    producer = Producer(PRODUCER_OF_FACTS | {"bootstrap.servers": stack["kafkaBootstrapServers"]})
    raw = f"rtsp://{POISON.username}:{POISON.password}@camera/door"
    encoded = f"rtsp://{POISON.in_url}@camera/door"
    headers = [
        ("source", encoded.encode()),
        ("authorization", b"Basic " + base64.b64encode(POISON.in_url.encode())),
        ("password", POISON.password.encode()),
    ]
    spec = {"streamId": "S", "slot": 0, "generation": "x", "url": encoded, "name": 5}
    values = [
        json.dumps(spec).encode(),
        json.dumps(spec | {"url": raw}, ensure_ascii=False).encode()[:-20],
        json.dumps({"password": POISON.password, "outcome": encoded}).encode(),
        b"\xff\xfe" + raw.encode() + b"\x00\xff",
        f"{POISON.username}:{POISON.password}@camera".encode(),
    ]
    for topic in (STREAMS, DETECTIONS):
        for number, value in enumerate(values):
            producer.produce(
                topic.named(stack["topicPrefix"]),
                key=f"{number} {raw}".encode(),
                value=value,
                headers=[*headers],
            )
    assert producer.flush(10) == 0


def dead_letters(stack: RunningStack) -> int:
    letters = stack["topicPrefix"] + "dead-letters.v1"
    return search.count(stack["kafkaBootstrapServers"], letters)


def look_at_everything(stack: RunningStack, teller: Teller) -> None:
    for stream in teller.ask("GET", "/streams").json():
        for more in ("", "/history", "/frame", "/ledger"):
            teller.ask("GET", f"/streams/{stream['id']}{more}")
    for path in ("/streams/health", "/detections", "/openapi.json", "/metrics", "/health/ready"):
        teller.ask("GET", path)
    for service in stack["services"]:
        for path in ("metrics", "health/ready"):
            answer = httpx.get(f"http://127.0.0.1:{service['httpPort']}/{path}", timeout=10)
            teller.heard.append(answer.text)
    teller.heard.append(stack.run("status", "--json").stdout)


def new_key_pair() -> tuple[str, str]:
    made = subprocess.run(
        [sys.executable, "-m", "services.ingestor", "keys"],
        check=True,
        env=minimal_environment(),
        capture_output=True,
        text=True,
        timeout=30,
    )
    public, private = (line.partition("=")[2] for line in made.stdout.splitlines())
    return public, private


def restart(stack: RunningStack, kind: str) -> None:
    """As a person would: it hands over what it has, and is started anew."""
    before = stack.service(kind)
    os.kill(before["pid"], signal.SIGTERM)

    def is_back() -> bool:
        now = stack.service(kind)
        return now["restarts"] > before["restarts"] and says_ready(kind, now["httpPort"])

    assert eventually(is_back, PATIENCE_S)


def outdated(log: Path) -> set[str]:
    """The streams whose credentials an older key opened."""
    whole = [line for line in log.read_text().splitlines(keepends=True) if line.endswith("}\n")]
    lines = [json.loads(line) for line in whole if line.startswith("{")]
    return {line["stream"] for line in lines if line["event"] == "seal.outdated"}
