"""The stack under fault, as the suite sees it from outside."""

import json
import os
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import closing, suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

from deploy.local.commands import is_healthy, name_of
from deploy.local.place import Place
from deploy.local.streams import exchange
from tests.faults.gather import Stack

POLL_S = 0.1
PATIENCE_S = 90.0  # the longest outage of what it stands on, and a start
Process = dict[str, Any]


class NotThere(Exception):
    """Nobody to do it to, for a long time."""


class Site:
    """A running stack's folder, and who of it is under a fault now."""

    def __init__(self, folder: Path) -> None:
        self.place = Place(folder.absolute())
        self.stack = Stack.described_in(folder)
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._guard = threading.Lock()

    def described(self) -> dict[str, Any]:
        return self.place.described()

    def alone(self, target: str) -> threading.Lock:
        """Held by the one fault that a target suffers at a time."""
        with self._guard:
            return self._locks[target]

    def processes(self, name: str) -> list[Process]:
        """A part, or the replicas of a service."""
        described = self.described()
        parts = [part for part in described["parts"] if part["name"] == name]
        return parts or [one for one in described["services"] if one["service"] == name]

    def pid_of(self, target: str) -> int | None:
        """Of `kafka` or `detector.2`."""
        return next((one["pid"] for one in self._all() if name_of(one) == target), None)

    def send(self, target: str, number: signal.Signals) -> int:
        """Send it once there is such a process; returns whose number that was. Raises NotThere."""
        pid: int = awaited(lambda: self._signalled(target, number), f"{target} does not run")
        return pid

    def _signalled(self, target: str, number: signal.Signals) -> int | None:
        pid = self.pid_of(target)
        if pid is None:
            return None
        try:
            os.kill(pid, number)
        except ProcessLookupError:  # it died, which the supervisor has not told yet
            return None
        return pid

    def cameras(self) -> list[dict[str, Any]]:
        return list(self.described()["cameras"])

    def _all(self) -> list[Process]:
        described = self.described()
        return [*described["parts"], *described["services"]]

    def unready(self) -> list[str]:
        """Who does not do its work now."""
        return [name_of(one) for one in self._all() if not is_healthy(one)]

    def camera_children(self) -> dict[int, str]:
        """Process id -> stream id, as the ingestors say."""
        return {
            camera["pid"]: camera["streamId"]
            for ingestor in self.processes("ingestor")
            for camera in health(ingestor["httpPort"]).get("cameras", ())
        }

    def some_camera_children(self) -> dict[int, str]:
        """Raises NotThere."""
        found: dict[int, str] = awaited(self.camera_children, "no ingestor has a camera")
        return found

    def streams(self) -> list[dict[str, Any]]:
        """As the gateway shows them; none while it can't."""
        found = self.ask("GET", "/streams?limit=1000")[1]
        return found if isinstance(found, list) else []

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> tuple[int, Any]:
        """Of the first gateway; status 0 where nobody answered."""
        status, answer, _ = exchange(self.described(), method, path, body)
        with suppress(ValueError):
            return status, json.loads(answer)
        return status, None


def health(port: int) -> dict[str, Any]:
    """What a service says of itself; nothing where it does not answer."""
    with closing(HTTPConnection("127.0.0.1", port, timeout=2)) as connection:
        try:
            connection.request("GET", "/health/ready")
            said: dict[str, Any] = json.loads(connection.getresponse().read())
        except (OSError, HTTPException, ValueError):
            return {}
    return said


def awaited(look: Callable[[], Any], otherwise: str) -> Any:
    """What it finds, once it is something. Raises NotThere."""
    deadline = time.monotonic() + PATIENCE_S
    while not (found := look()):
        if time.monotonic() > deadline:
            raise NotThere(otherwise)
        time.sleep(POLL_S)
    return found
