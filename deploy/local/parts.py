"""What the stack is made of: anything that can be prepared, run, and asked whether it is ready."""

import time
from typing import Protocol

from deploy.local.child import Child, Command, Warden, run

JOB_TIMEOUT_S = 120.0
POLL_S = 0.05


class PartFailed(RuntimeError):
    """A part could not be started; its log says why."""


class Part(Protocol):
    """Kafka, Postgres, the cameras, or one replica of a service."""

    @property
    def name(self) -> str: ...

    @property
    def port(self) -> int: ...

    def prepare(self, warden: Warden) -> None:
        """Whatever must be there before the command; asked for before each start. PartFailed."""

    def command(self) -> Command: ...

    def is_ready(self) -> bool:
        """Whether it does its work now; answers within a few seconds."""


def run_job(name: str, command: Command, warden: Warden) -> None:
    """Run it to its end. Raises PartFailed with the end of its log where that is not status 0."""
    status = run(command, warden, JOB_TIMEOUT_S)
    if status != 0:
        raise PartFailed(f"{name}: exit status {status}\n{last_lines(command)}")


def start(part: Part, warden: Warden, timeout_s: float) -> Child:
    """Prepare it, start it, and wait until it is ready. Raises PartFailed."""
    part.prepare(warden)
    child = Child(part.command(), warden)
    deadline = time.monotonic() + timeout_s
    while child.poll() is None and time.monotonic() < deadline:
        if part.is_ready():
            return child
        time.sleep(POLL_S)
    status = child.stop()
    raise PartFailed(f"{part.name}: exit status {status}\n{last_lines(child.command)}")


def last_lines(command: Command, count: int = 15) -> str:
    """The end of what it wrote."""
    text = command.log.read_bytes()[-16_384:].decode(errors="replace")
    return "\n".join(text.splitlines()[-count:])
