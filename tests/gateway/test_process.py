"""The gateway as a process: what it needs, how it dies, how it ends."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from sqlalchemy import Engine, select
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from deploy.local.environment import minimal_environment
from schemas.messages import Status
from schemas.tables import streams
from services.gateway.settings import Settings
from services.process.settings import load
from tests.gateway.parts import INTERNAL_KEY, said
from tests.gateway.serving import serving
from tests.gateway.test_pictures import Owner
from tests.gateway.topic import last_values, messages, say_status, wait_until

START_S = 60.0
KEY = "the-key-of-an-administrator"


@dataclass
class Gateway:
    process: "subprocess.Popen[bytes]"
    url: str
    log: Path

    @property
    def ws(self) -> str:
        return f"ws://{urlsplit(self.url).netloc}"

    def wait(self, within_s: float = 15) -> int:
        return self.process.wait(within_s)


@pytest.fixture
def environment(database_url, kafka, topic_prefix, tmp_path) -> dict[str, str]:
    return minimal_environment() | {
        "DATABASE_URL": database_url,
        "KAFKA_BOOTSTRAP_SERVERS": kafka,
        "SIGHTLOG_TOPIC_PREFIX": topic_prefix,
        "SIGHTLOG_INTERNAL_KEY": INTERNAL_KEY,
        "FRAME_STORAGE_PATH": str(tmp_path / "frames"),
        "GATEWAY_AUTH": "off",
    }


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.fixture
def run(environment, tmp_path):
    """Starts a gateway and waits until it is ready; at the end none is left."""

    @contextmanager
    def running(**more: str) -> Iterator[Gateway]:
        port = free_port()
        log = tmp_path / f"{port}.log"
        with log.open("wb") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-m", "services.gateway"],
                env=environment | {"GATEWAY_HTTP_PORT": str(port)} | more,
                stderr=stderr,
            )
        gateway = Gateway(process, f"http://127.0.0.1:{port}", log)
        try:
            wait_until(lambda: has_died(gateway) or is_ready(gateway), START_S)
            yield gateway
        finally:
            process.kill()
            process.wait(5)

    return running


def has_died(gateway: Gateway) -> bool:
    """As it was told to; any other end is an error."""
    status = gateway.process.poll()
    assert status in {None, -signal.SIGKILL}, gateway.log.read_text()
    return status is not None


def is_ready(gateway: Gateway) -> bool:
    try:
        return httpx.get(f"{gateway.url}/health/ready", timeout=2).status_code == 200
    except httpx.TransportError:
        return False


def create(gateway: Gateway, **more) -> str:
    body = {"name": "door", "rtspUrl": "rtsp://10.0.0.9/"} | more
    id: str = httpx.post(f"{gateway.url}/streams", json=body).json()["id"]
    return id


def slot_of(engine: Engine, id: str) -> int:
    with engine.connect() as connection:
        slot: int = connection.execute(
            select(streams.c.slot).where(streams.c.id == id)
        ).scalar_one()
        return slot


def test_a_gateway_killed_around_a_publish_leaves_nothing_half_said(
    run, kafka, topic_prefix, engine: Engine
):
    with run(SIGHTLOG_CRASH_AT="reconciler.before_publish") as gateway:
        id = create(gateway)
        assert gateway.wait() == -signal.SIGKILL
    place = slot_of(engine, id), id
    assert place not in last_values(kafka, topic_prefix)
    with run(SIGHTLOG_CRASH_AT="reconciler.after_publish") as gateway:
        assert gateway.wait() == -signal.SIGKILL
    assert place in last_values(kafka, topic_prefix)
    with run() as gateway:
        httpx.delete(f"{gateway.url}/streams/{id}")
        wait_until(lambda: place not in last_values(kafka, topic_prefix))
    ours = [value for _, key, value in messages(kafka, topic_prefix) if key == id]
    assert [value is None for value in ours] == [False, True], "once said, once taken back"


def test_it_ends_within_ten_seconds_although_people_look_and_listen(
    run, kafka, topic_prefix, engine: Engine
):
    owner = Owner()
    with serving(owner.app, timeout_graceful_shutdown=1) as endpoint, run() as gateway:
        id = create(gateway, running=True)
        status = said(id, Status.RUNNING, 1, endpoint=f"http://{endpoint}")
        say_status(kafka, topic_prefix, slot_of(engine, id), status)
        url = f"{gateway.url}/streams/{id}"
        wait_until(lambda: httpx.get(url).json()["status"] == "RUNNING")
        with (
            httpx.stream("GET", f"{url}/live") as live,
            connect(f"{gateway.ws}/ws") as listener,
        ):
            assert live.status_code == 200
            next(live.iter_raw())
            assert '"snapshot"' in str(listener.recv(5))
            begun = time.monotonic()
            gateway.process.send_signal(signal.SIGTERM)
            assert gateway.wait() == 0, gateway.log.read_text()
            assert time.monotonic() - begun < 10
        assert "Traceback" not in gateway.log.read_text()


def test_with_keys_nobody_else_gets_in(run):
    with run(GATEWAY_AUTH="on", GATEWAY_API_KEYS=f"admin:{KEY}") as gateway:
        assert httpx.get(f"{gateway.url}/streams").status_code == 401
        headers = {"Authorization": f"Bearer {KEY}"}
        assert httpx.get(f"{gateway.url}/streams", headers=headers).status_code == 200
        assert httpx.get(f"{gateway.url}/health/live").status_code == 200
        for refused in (gateway.ws, f"{gateway.ws}/ws?access_token=wrong"):
            with pytest.raises(InvalidStatus, match="401"):
                connect(refused)
        with connect(gateway.ws, additional_headers=headers) as listener:
            assert '"snapshot"' in str(listener.recv(5))
        with connect(f"{gateway.ws}/ws?access_token={KEY}") as listener:
            assert '"snapshot"' in str(listener.recv(5))
        assert KEY not in gateway.log.read_text()


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"DATABASE_URL": None}, "DATABASE_URL"),
        ({"DATABASE_URL": "canary"}, "DATABASE_URL"),
        ({"SIGHTLOG_INTERNAL_KEY": None}, "SIGHTLOG_INTERNAL_KEY"),
        ({"SIGHTLOG_INTERNAL_KEY": "canary"}, "SIGHTLOG_INTERNAL_KEY"),
        ({"GATEWAY_HTTP_HOST": "0.0.0.0"}, "GATEWAY_AUTH"),  # noqa: S104 -- refused
        ({"GATEWAY_AUTH": "maybe"}, "GATEWAY_AUTH"),
        ({"GATEWAY_AUTH": None}, "GATEWAY_API_KEYS"),
        ({"GATEWAY_AUTH": "on", "GATEWAY_API_KEYS": "canary"}, "GATEWAY_API_KEYS"),
        ({"GATEWAY_AUTH": "on", "GATEWAY_API_KEYS": "root:canary"}, "GATEWAY_API_KEYS"),
        ({"GATEWAY_HTTP_PORT": "canary"}, "GATEWAY_HTTP_PORT"),
        ({"MAX_FPS": "0"}, "MAX_FPS"),
        ({"SIGHTLOG_SEAL_PUBLIC_KEY": "canary"}, "SIGHTLOG_SEAL_PUBLIC_KEY"),
        ({"SIGHTLOG_SOURCE_NETWORKS_DENIED": "canary"}, "SIGHTLOG_SOURCE_NETWORKS_DENIED"),
    ],
)
def test_a_wrong_setting_is_named_and_ends_the_process(
    environment, settings, name, monkeypatch, capsys
):
    monkeypatch.setattr(os, "environ", {})
    for variable, value in (environment | settings).items():
        if value is not None:
            monkeypatch.setitem(os.environ, variable, value)
    with pytest.raises(SystemExit) as ended:
        load(Settings)
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith(f"setting {name}: expected ")
    assert told.count("\n") == 1
    assert "canary" not in told
