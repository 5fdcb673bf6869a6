"""The persister as a process, and what it says of itself."""

import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from deploy.local.environment import minimal_environment
from tests.ports import free_port


def eventually(holds: Callable[[], object], within_s: float = 30.0) -> None:
    """Wait until it does. AssertionError with what it said last."""
    deadline = time.monotonic() + within_s
    while not (said := holds()):
        assert time.monotonic() < deadline, f"not within {within_s} s: {said!r}"
        time.sleep(0.05)


class PersisterProcess:
    def __init__(self, settings: dict[str, str], log: Path) -> None:
        self.port = free_port()
        self.log = log
        environment = minimal_environment() | settings | {"PERSISTER_HTTP_PORT": str(self.port)}
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "services.persister"],
                env=environment,
                stdout=output,
                stderr=output,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health/ready", timeout=5):
                return True
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False

    def metric(self, sample: str) -> float:
        """The value of one sample, as `name{label="x"}`; 0 where nothing was counted yet, -1
        where nobody answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=5) as page:
                lines = page.read().decode().splitlines()
        except OSError:
            return -1.0
        values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        return float(values.get(sample, 0))

    def said(self, event: str) -> bool:
        return f'"event": "{event}"' in self.log.read_text(errors="replace")

    def poll(self) -> int | None:
        return self._process.poll()

    def wait(self, timeout_s: float = 30.0) -> int:
        return self._process.wait(timeout_s)

    def terminate(self) -> None:
        self._process.terminate()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
