"""A schedule of faults, done to a running stack, each waited for until the system moved again."""

import sys
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from schemas.messages import now
from tests.faults.books import Violation
from tests.faults.kinds import Fault, made
from tests.faults.pulse import Pulse
from tests.faults.schedule import Planned
from tests.faults.site import NotThere, Site

BACK_S = 120.0
"""Beyond any bar: what moves again later than that after the last of all faults is broken."""
POLL_S = 0.25


@dataclass(frozen=True)
class Done:
    """A fault that was."""

    planned: Planned
    target: str
    at: float
    lasted: float
    back_s: float | None
    """From its end until each stream had a new frame answered and stored; None: too long."""
    problem: str = ""

    def as_json(self) -> dict[str, Any]:
        back_s = None if self.back_s is None else round(self.back_s, 1)
        return {
            "kind": self.planned.kind.name,
            "target": self.target,
            "at": round(self.at, 1),
            "lasted": round(self.lasted, 1),
            "back_s": back_s,
            "row": self.planned.kind.row,
        }

    def violations(self) -> list[Violation]:
        name = f"{self.planned.kind.name} {self.target} at {self.at:.0f} s"
        if self.problem:
            return [Violation("FAULT_FAILED", f"{name}: {self.problem}", ())]
        if self.back_s is None:
            return [Violation("NOT_BACK", f"{name}: not {BACK_S:.0f} s after all faults", ())]
        return []


class Suite:
    """Each fault in a thread of its own: they may overlap."""

    def __init__(self, site: Site, pulse: Pulse, streams: Collection[str]) -> None:
        self._site = site
        self._pulse = pulse
        self._streams = streams
        self._began = 0.0
        self._counting = threading.Lock()
        self._active = 0
        self._calm_since = 0.0

    def run(self, schedule: Sequence[Planned]) -> list[Done]:
        """In the order in which they began, all over and recovered from, or given up."""
        self._began = time.monotonic()
        with ThreadPoolExecutor(len(schedule), "fault") as pool:
            doing: list[Future[Done]] = []
            for planned in schedule:
                time.sleep(max(0.0, self._began + planned.at - time.monotonic()))
                doing.append(pool.submit(self._do, planned))
        return [done.result() for done in doing]

    def _since_start(self) -> float:
        return time.monotonic() - self._began

    def _do(self, planned: Planned) -> Done:
        at, name = self._since_start(), planned.kind.target
        try:
            fault = made(planned, self._site)
            name = fault.target
            with self._site.alone(name), self._counted():
                at = self._suffer(planned, fault)
            lasted = self._since_start() - at
            done = Done(planned, fault.target, at, lasted, self._time_to_move())
        except Exception as error:  # noqa: BLE001 -- there has to be a verdict on the others, too
            return Done(planned, name, at, self._since_start() - at, None, told(error))
        took = "never" if done.back_s is None else f"after {done.back_s:.1f} s"
        tell(f"{self._since_start():6.1f} s  moves {took}: {planned.kind.name} {done.target}")
        return done

    def _suffer(self, planned: Planned, fault: Fault) -> float:
        """Ended in any case: one that began halfway would outlast the suite. Returns when it
        began."""
        try:
            fault.begin()
            at = self._since_start()
            tell(f"{at:6.1f} s  {planned.kind.name} {fault.target}")
            time.sleep(planned.lasts)
        finally:
            fault.end()
        return at

    def _time_to_move(self) -> float | None:
        since, began = now(), time.monotonic()
        while self._pulse.stalled(since, self._streams):
            if not self._active and time.monotonic() - self._calm_since > BACK_S:
                return None
            time.sleep(POLL_S)
        return time.monotonic() - began

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """While this fault lasts, nothing has to recover from any other."""
        with self._counting:
            self._active += 1
        try:
            yield
        finally:
            with self._counting:
                self._active -= 1
                self._calm_since = time.monotonic()


def told(error: Exception) -> str:
    return str(error) if isinstance(error, NotThere) else f"{type(error).__name__}: {error}"


def tell(line: str) -> None:
    """Progress, for a person."""
    print(line, file=sys.stderr, flush=True)
