"""Kafka or Postgres gone for a while: the supervisor is told not to start it again."""

from typing import Literal

from deploy.local import commands
from tests.faults.site import NotThere, Site

TIMEOUT_S = 60.0


class Outage:
    def __init__(self, site: Site, target: str, signal: Literal["KILL", "TERM"]) -> None:
        self.target = target
        self._site = site
        self._signal = signal

    def begin(self) -> None:
        if commands.hold(self._site.place, self.target, self._signal, TIMEOUT_S):
            raise NotThere(f"{self.target} could not be held")

    def end(self) -> None:
        if commands.release(self._site.place, self.target, TIMEOUT_S):
            raise NotThere(f"{self.target} does not come back")
