"""A simulated camera that misbehaves."""

import threading

from deploy.local import commands
from tests.faults.site import Site

WRITING = threading.Lock()
"""The list of cameras is read, changed and written by each fault."""


class CameraFault:
    def __init__(self, site: Site, target: str, fault: str) -> None:
        self.target = target
        self._site = site
        self._fault = fault

    def begin(self) -> None:
        self._become(self._fault)

    def end(self) -> None:
        self._become("none")

    def _become(self, fault: str) -> None:
        with WRITING:
            commands.fault(self._site.place, self.target, fault)
