"""The gateway as a process of its own."""

import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from tests.gateway.topic import wait_until
from tests.ports import free_port

START_S = 60.0


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


@contextmanager
def running(environment: Mapping[str, str], folder: Path) -> Iterator[Gateway]:
    """Starts a gateway and waits until it is ready; at the end none is left."""
    port = free_port()
    log = folder / f"{port}.log"
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "services.gateway"],
            env={**environment, "GATEWAY_HTTP_PORT": str(port)},
            stderr=stderr,
        )
    gateway = Gateway(process, f"http://127.0.0.1:{port}", log)
    try:
        wait_until(lambda: has_died(gateway) or is_ready(gateway), START_S)
        yield gateway
    finally:
        process.kill()
        process.wait(5)


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


def create(gateway: Gateway, **more: object) -> str:
    body = {"name": "door", "rtspUrl": "rtsp://10.0.0.9/"} | more
    created = httpx.post(f"{gateway.url}/streams", json=body).raise_for_status()
    id: str = created.json()["id"]
    return id
