"""A planned fault -> the thing that does it, to one that is there."""

import signal
from collections.abc import Callable
from typing import Protocol

from deploy.local.commands import name_of
from tests.faults.camera import CameraFault
from tests.faults.kill import Kill, KillCameraChild
from tests.faults.outage import Outage
from tests.faults.schedule import Planned
from tests.faults.sessions import EndSessions
from tests.faults.site import Site
from tests.faults.stop import Stop


class Fault(Protocol):
    """`begin` and `end` may wait for processes, but not for recovery. They may raise NotThere.
    `end` is called also where `begin` raised."""

    target: str

    def begin(self) -> None: ...

    def end(self) -> None: ...


PROCESS_FAULTS: dict[str, Callable[[Site, str], Fault]] = {
    "kill": Kill,
    "term": lambda site, target: Kill(site, target, signal.SIGTERM),
    "stop": Stop,
    "sessions": EndSessions,
}


def made(planned: Planned, site: Site) -> Fault:
    """Raises NotThere if the stack has no such thing at all."""
    kind, pick = planned.kind, planned.pick
    if kind.target == "camera child":
        return KillCameraChild(site, pick)
    if kind.target == "camera":
        return CameraFault(site, chosen([one["name"] for one in site.cameras()], pick), kind.name)
    target = chosen([name_of(one) for one in site.processes(kind.target)], pick)
    if kind.name == "away":
        return Outage(site, target, "KILL" if pick % 2 else "TERM")
    return PROCESS_FAULTS[kind.name](site, target)


def chosen(names: list[str], pick: int) -> str:
    return names[pick % len(names)]
