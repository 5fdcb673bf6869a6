"""A broker of a test's own, to be taken away."""

import os
import signal
from pathlib import Path

from deploy.local.child import Child, Warden
from deploy.local.fetch import cache_folder, fetch_jars, read_lock
from deploy.local.kafka import Broker
from deploy.local.parts import start
from deploy.local.ports import Ports

READY_S = 120.0


class OwnBroker:
    """A real one. Its data stay while it is away."""

    def __init__(self, folder: Path, warden: Warden) -> None:
        ports = Ports(folder / "ports.json", auto=True)
        self._warden = warden
        self._broker = Broker(
            folder=folder / "kafka",
            jars=fetch_jars(read_lock(), cache_folder()),
            port=ports.port("kafka"),
            controller_port=ports.port("kafka-controller"),
            log=folder / "kafka.log",
        )
        self._child: Child = start(self._broker, warden, READY_S)

    @property
    def bootstrap_servers(self) -> str:
        return self._broker.bootstrap_servers

    def go(self, how: signal.Signals) -> None:
        """Away, by SIGKILL, SIGTERM or SIGSTOP."""
        os.kill(self._child.pid, how)
        if how is not signal.SIGSTOP:
            self._child.wait(READY_S)

    def come_back(self) -> None:
        """Returns once it answers."""
        if self._child.poll() is None:
            os.kill(self._child.pid, signal.SIGCONT)
        else:
            self._child = start(self._broker, self._warden, READY_S)

    def end(self) -> None:
        if self._child.poll() is None:
            os.kill(self._child.pid, signal.SIGCONT)
        self._child.kill()
        self._child.wait()
