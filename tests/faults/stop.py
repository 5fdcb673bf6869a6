"""A process that hangs and goes on later, as one does whose machine swaps or is migrated."""

import os
import signal
from contextlib import suppress

from tests.faults.site import Site


class Stop:
    def __init__(self, site: Site, target: str) -> None:
        self.target = target
        self._site = site
        self._pid: int | None = None

    def begin(self) -> None:
        self._pid = self._site.send(self.target, signal.SIGSTOP)

    def end(self) -> None:
        if self._pid is None:
            return
        with suppress(ProcessLookupError):  # another fault has killed it
            os.kill(self._pid, signal.SIGCONT)
