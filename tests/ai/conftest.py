"""One service process for the area, and pictures for it."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from services.ai.detect import Detector
from services.ai.settings import BUNDLED
from tests.ai.walk import Frame, walk
from tests.ports import free_port

START_TIMEOUT_S = 30


@dataclass(frozen=True)
class Service:
    process: subprocess.Popen[bytes]
    port: int
    log: Path
    client: httpx.Client

    def metric(self, name: str) -> float:
        lines = self.client.get("/metrics").text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(name))


StartService = Callable[..., Service]


def until(claim: Callable[[], bool], seconds: float = 10) -> None:
    """Waits for it to be true."""
    deadline = time.monotonic() + seconds
    while not claim():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.02)


@contextmanager
def served(log: Path, **settings: str) -> Iterator[Service]:
    port = free_port()
    environment = os.environ | {"AI_HTTP_PORT": str(port), "LOG_LEVEL": "DEBUG"} | settings
    with (
        log.open("wb") as lines,
        subprocess.Popen(
            [sys.executable, "-m", "services.ai"], env=environment, stderr=lines
        ) as process,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client,
    ):
        service = Service(process, port, log, client)
        try:
            until(lambda: is_ready(service), START_TIMEOUT_S)
            yield service
        finally:
            process.kill()


def is_ready(service: Service) -> bool:
    assert service.process.poll() is None, service.log.read_text()
    with suppress(httpx.TransportError):
        return service.client.get("/health/ready").is_success
    return False


@pytest.fixture(scope="package")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with served(tmp_path_factory.mktemp("ai") / "log") as service:
        yield service


@pytest.fixture
def start_service(tmp_path: Path) -> Iterator[StartService]:
    """Starts another one, with these settings."""
    with ExitStack() as stack:

        def start(**settings: str) -> Service:
            return stack.enter_context(served(tmp_path / "log", **settings))

        yield start


@pytest.fixture(scope="package")
def detector() -> Detector:
    return Detector.load(BUNDLED, "cpu", 1, 2**25)


@pytest.fixture(scope="package")
def frames() -> list[Frame]:
    """Every tenth frame of the walk."""
    return walk(10)


@pytest.fixture(scope="package")
def jpeg(frames: list[Frame]) -> bytes:
    """640x480, with three persons and two vehicles."""
    return frames[0].jpeg
