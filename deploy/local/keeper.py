"""Keeps one part running: starts it, waits for its end, starts it again a little later."""

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Literal

from deploy.local.child import Child, Warden
from deploy.local.parts import POLL_S, Part, PartFailed
from deploy.local.rotate import rotate

FIRST_DELAY_S = 0.5
LONGEST_DELAY_S = 10.0
STEADY_AFTER_S = 30.0
STOP_GRACE_S = 10.0

State = Literal["starting", "ready", "failed", "held", "stopped"]


class Keeper:
    """A thread with one part in its care. `changed` is called at each change of its state."""

    def __init__(
        self,
        part: Part,
        warden: Warden,
        changed: Callable[["Keeper"], None],
        first_delay_s: float = FIRST_DELAY_S,
    ) -> None:
        self.part = part
        self.state: State = "starting"
        self.restarts = 0
        self.started_at = datetime.now(UTC)
        self.last_status: int | None = None
        self.problem = ""
        self._warden = warden
        self._changed = changed
        self._first_delay_s = first_delay_s
        self._child: Child | None = None
        self._spawning = threading.Lock()
        self._stopping = threading.Event()
        self._ended = threading.Event()  # by us: no use in waiting for its next start
        self._free = threading.Event()
        self._free.set()
        self._thread = threading.Thread(target=self._keep, name=part.name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def pid(self) -> int | None:
        child = self._child
        return child.pid if child is not None and child.poll() is None else None

    def stop(self, grace_s: float = STOP_GRACE_S) -> int | None:
        """Ask it to end, kill its process group after the grace; it is not started again.

        Returns the exit status it ended with; None if it was not running.
        """
        self._stopping.set()
        self._ended.set()
        self._free.set()
        with self._spawning:
            child = self._child
        was_running = child is not None and child.poll() is None
        status = child.stop(grace_s) if child is not None else None
        self._thread.join()
        self._become("stopped")
        return status if was_running else None

    @property
    def is_held(self) -> bool:
        return not self._free.is_set()

    def hold(self, *, gently: bool) -> None:
        """End it, and do not start it again before `release`."""
        with self._spawning:
            self._free.clear()
            self._ended.set()
            if self._child is not None and self._child.poll() is None:
                (self._child.ask_to_stop if gently else self._child.kill)()

    def release(self) -> None:
        """Starts at once what was held."""
        self._free.set()

    def kill(self) -> None:
        """At once, for who can't wait; `stop` still has to be called."""
        self._stopping.set()
        self._ended.set()
        with self._spawning:
            if self._child is not None and self._child.poll() is None:
                self._child.kill()

    def _keep(self) -> None:
        delay_s = self._first_delay_s
        while True:
            began = time.monotonic()
            self._ended.clear()
            self._run_once()
            if time.monotonic() - began > STEADY_AFTER_S:
                delay_s = self._first_delay_s
            if self._is_over(delay_s):
                return
            delay_s = min(2 * delay_s, LONGEST_DELAY_S)
            self.restarts += 1
            self.state = "starting"  # told once it has a process

    def _is_over(self, delay_s: float) -> bool:
        """Waits until the next start, or says at once that there is none."""
        if not (self.is_held or self._stopping.is_set()):
            self._ended.wait(delay_s)
        if self.is_held:
            self._become("held")
            self._free.wait()
        return self._stopping.is_set()

    def _run_once(self) -> None:
        """From its start to its end."""
        try:
            self.part.prepare(self._warden)
            child = self._spawn()
        except (PartFailed, OSError) as error:
            self._fail(str(error))
            return
        if child is not None:
            self._see_through(child)

    def _spawn(self) -> Child | None:
        """None when it must not start any more."""
        command = self.part.command()
        with self._spawning:
            if self._stopping.is_set() or self.is_held:
                return None
            rotate(command.log)
            self.started_at = datetime.now(UTC)
            self._child = Child(command, self._warden)
            return self._child

    def _see_through(self, child: Child) -> None:
        self._become("starting")
        while child.poll() is None and not self.part.is_ready():
            time.sleep(POLL_S)
        if child.poll() is None:
            self._become("ready")
        self.last_status = status = child.wait()
        if status is not None and not self._stopping.is_set():
            self._fail(f"{ended(status)}\n{child.last_words(5)}")

    def _fail(self, problem: str) -> None:
        self.problem = problem
        self._become("failed")

    def _become(self, state: State) -> None:
        self.state = state
        self._changed(self)


def ended(status: int) -> str:
    """As `subprocess` numbers it: below zero is a signal."""
    return f"killed by signal {-status}" if status < 0 else f"exit status {status}"
