"""What the stack is made of: anything that can be prepared, run, and asked whether it is ready."""

import time
from typing import Protocol

from deploy.local.child import Child, Command, Warden

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
    job = Child(command, warden)
    status = job.wait(JOB_TIMEOUT_S)
    if status is None:
        status = job.stop(grace_s=0)
    if status != 0:
        raise PartFailed(f"{name}: exit status {status}\n{job.last_words()}")


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
    raise PartFailed(f"{part.name}: exit status {status}\n{child.last_words()}")
