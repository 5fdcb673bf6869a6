"""Which port each process listens on, kept for a data folder from one start to the next."""

import json
import random
import socket
import threading
from pathlib import Path

from deploy.local.files import write_whole

DEFAULTS = {
    "kafka": 9092,
    "kafka-controller": 9093,
    "postgres": 5433,
    "cameras": 8554,
    "gateway": 4000,
    "ai": 8000,
    "ingestor": 9101,
    "detector": 9201,
    "persister": 9301,
}
# Below the ranges from which Linux and macOS number outgoing connections: one of those must not
# take the port of a process that is just being restarted.
AUTO = range(10_240, 32_000)


class PortTaken(RuntimeError):
    """Another program listens where this stack must."""


class Ports:
    """Numbers by name: `kafka`, or `ingestor.2` for a replica; chosen once, then remembered."""

    def __init__(self, file: Path, *, auto: bool) -> None:
        self._file = file
        self._auto = auto
        self._choosing = threading.Lock()
        stored = json.loads(file.read_text()) if auto and file.exists() else {}
        self._chosen: dict[str, int] = {
            name: port for name, port in stored.items() if is_free(port)
        }

    def port(self, name: str) -> int:
        """The port of this name; it was free when first asked for. Raises PortTaken."""
        with self._choosing:
            if name not in self._chosen:
                self._chosen[name] = self._free(name) if self._auto else self._default(name)
                write_whole(self._file, json.dumps(self._chosen))
            return self._chosen[name]

    def _free(self, name: str) -> int:
        candidates = random.sample(AUTO, 200)
        for port in candidates:
            if port not in self._chosen.values() and is_free(port):
                return port
        raise PortTaken(f"found no free port for {name}")

    def _default(self, name: str) -> int:
        service, _, replica = name.partition(".")
        port = DEFAULTS[service] + int(replica or 1) - 1
        if not is_free(port):
            raise PortTaken(
                f"port {port} for {name} is taken; stop that program or use --ports auto"
            )
        return port


def is_free(port: int) -> bool:
    """Whether a server could listen there now, as servers do: old connections don't count."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def answers(port: int) -> bool:
    """Whether somebody listens there."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=0.5).close()
    except OSError:
        return False
    return True
