"""Processes that die: at once (SIGKILL) or because they are asked to (SIGTERM)."""

import os
import signal
from contextlib import suppress

from tests.faults.site import Site


class Kill:
    """One process of a stack, which its supervisor starts again."""

    def __init__(self, site: Site, target: str, number: signal.Signals = signal.SIGKILL) -> None:
        self.target = target
        self._site = site
        self._number = number

    def begin(self) -> None:
        self._site.send(self.target, self._number)

    def end(self) -> None:
        """Death is the end of it."""


class KillCameraChild:
    """The process that reads one camera; its ingestor starts another."""

    def __init__(self, site: Site, pick: int) -> None:
        self.target = "camera child"
        self._site = site
        self._pick = pick

    def begin(self) -> None:
        children = self._site.some_camera_children()
        pid, stream_id = sorted(children.items())[self._pick % len(children)]
        self.target = f"camera child of {stream_id}"
        with suppress(ProcessLookupError):  # it died by itself since
            os.kill(pid, signal.SIGKILL)

    def end(self) -> None:
        """Death is the end of it."""
