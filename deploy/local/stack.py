"""A running stack: Kafka, Postgres, cameras -> migrate, provision -> the five services."""

import json
import shutil
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from deploy.local.camera import CamerasUnreadable
from deploy.local.cameras import BUNDLED, described_cameras
from deploy.local.child import Warden
from deploy.local.describe import describe
from deploy.local.files import write_whole
from deploy.local.keeper import Keeper
from deploy.local.parts import Part, run_job
from deploy.local.place import Described, Place
from deploy.local.plan import DATABASE, Plan, Wish
from deploy.local.ports import PortTaken
from deploy.local.report import explain, report
from deploy.local.rotate import rotate
from deploy.local.service import SERVICES, Service

WRONG_SETTING = 2  # the exit status of a service that was told nonsense
LOOK_S = 0.25
POLL_S = 0.05


class NotReady(RuntimeError):
    """Something was not ready in time."""


class SettingRefused(RuntimeError):
    """A service says that one of its settings is wrong: no restart can heal that."""


class Interrupted(RuntimeError):
    """Asked to end before all was ready."""


class Stack:
    """Everything that runs for one data folder: `start`, `open`, `tend`, `stop`, in one thread."""

    def __init__(self, place: Place, wish: Wish, warden: Warden) -> None:
        self.plan = Plan(place, wish)
        self._place = place
        self._wish = wish
        self._warden = warden
        self._keepers: dict[str, Keeper] = {}
        self._news = threading.Event()
        self._interrupts = 0
        self._is_open = False
        self._portless: dict[str, str] = {}
        self._cameras_stamp = 0
        self._cameras: list[dict[str, Any]] = []
        self.unclean: list[str] = []
        """Services that did not end with status 0 when they were asked to."""

    def start(self, jars: list[Path]) -> None:
        """Until all is ready. Raises PartFailed, SettingRefused, NotReady, Interrupted,
        PortTaken, NoPostgres."""
        deadline = time.monotonic() + self._wish.timeout_s
        self._place.stack_file.unlink(missing_ok=True)
        self._place.holds_file.unlink(missing_ok=True)
        self.plan.claim_ports()
        for clip in BUNDLED.glob("*.mp4"):
            shutil.copyfile(clip, self._place.media / clip.name)
        for part in (self.plan.broker(jars), self.plan.server(), self.plan.cameras()):
            self._keep(part)
        self._await(deadline)
        self._lay_schemas()
        if self._wish.with_services:
            self._scale()
            self._await(deadline)

    def open(self) -> Described:
        """From now on `stack.json` says what runs; returns what it says."""
        self._is_open = True
        self._follow_cameras()
        return self._describe()

    def interrupt(self) -> None:
        """Ends `start` and `tend` soon; a second time, `stop` becomes short.

        It takes no lock: a signal may come while this thread holds any.
        """
        self._interrupts += 1

    def tend(self) -> None:
        """Until interrupted: follow the wished scale, holds and cameras, say what changed, keep
        logs bounded."""
        while not self._interrupts:
            has_news = self._news.wait(LOOK_S)
            self._news.clear()
            self._warden.ensure()
            try:
                if any((self._follow_cameras(), self._scale(), self._hold(), has_news)):
                    self._describe()
                for log in self._place.logs.glob("*.log"):
                    rotate(log)
            except OSError as error:  # a full disk, most likely: what runs goes on
                report("run", state="failed", error=repr(error.strerror))

    def stop(self) -> None:
        """Who takes in work first, what all stand on last."""
        for kind in (*SERVICES, "cameras", "postgres", "kafka"):
            self._stop(name for name in list(self._keepers) if name.partition(".")[0] == kind)
        if self._is_open:
            self._is_open = False
            self._describe()

    def _lay_schemas(self) -> None:
        self.plan.server().create_database(DATABASE)
        for job in ("migrate", "provision"):
            run_job(job, self.plan.job(job), self._warden)
            report("start", job, state="done")

    def _scale(self) -> bool:
        """Start and stop replicas until there are as many as wished; whether that changed any."""
        if not self._wish.with_services:
            return False
        wished = self._place.scale()
        names = {
            f"{kind}.{replica}": (kind, replica)
            for kind in reversed(SERVICES)
            for replica in range(1, wished.get(kind, 1) + 1)
        }
        running = {name for name, kept in self._keepers.items() if isinstance(kept.part, Service)}
        self._add({name: names[name] for name in names if name not in running})
        self._stop(running - names.keys())
        return running != names.keys() - self._portless.keys()

    def _add(self, replicas: dict[str, tuple[str, int]]) -> None:
        """One whose port is taken is told of once, and starts when it is free."""
        known, self._portless = self._portless, {}
        for name, (kind, replica) in replicas.items():
            try:
                self._keep(self.plan.service(kind, replica))
            except PortTaken as taken:
                self._portless[name] = str(taken)
        for name in self._portless.keys() - known.keys():
            report("start", name, state="failed")
            explain(self._portless[name])

    def _hold(self) -> bool:
        """Whether anything is held or released now that was not before."""
        holds = self._place.holds()
        changed = [kept for name, kept in self._keepers.items() if kept.is_held != (name in holds)]
        for keeper in changed:
            if keeper.is_held:
                keeper.release()
            else:
                keeper.hold(gently=holds[keeper.part.name] == "TERM")
        return bool(changed)

    def _keep(self, part: Part) -> None:
        keeper = Keeper(part, self._warden, self._noticed)
        self._keepers[part.name] = keeper
        keeper.start()

    def _stop(self, names: Iterable[str]) -> None:
        """All of these at the same time; at once where somebody has lost patience."""
        keepers = [self._keepers[name] for name in names]
        with ThreadPoolExecutor(max(1, len(keepers))) as pool:
            stopping = {pool.submit(keeper.stop): keeper for keeper in keepers}
            while wait(stopping, POLL_S).not_done:
                if self._interrupts > 1:
                    for keeper in keepers:
                        keeper.kill()
        for stopped, keeper in stopping.items():
            del self._keepers[keeper.part.name]
            if stopped.result() and isinstance(keeper.part, Service):
                self.unclean.append(f"{keeper.part.name} ended with status {stopped.result()}")

    def _noticed(self, keeper: Keeper) -> None:
        """Called in the keeper's thread."""
        report(
            stage_of(keeper), keeper.part.name, state=keeper.state, restarts=keeper.restarts or None
        )
        if keeper.state == "failed":
            explain(keeper.problem)
        self._news.set()

    def _await(self, deadline: float) -> None:
        """Until every part is ready."""
        while waiting := [kept for kept in self._keepers.values() if kept.state != "ready"]:
            for keeper in waiting:
                if keeper.last_status == WRONG_SETTING and isinstance(keeper.part, Service):
                    raise SettingRefused(keeper.problem.splitlines()[-1])
            if self._interrupts:
                raise Interrupted
            if time.monotonic() > deadline:
                names = ", ".join(keeper.part.name for keeper in waiting)
                raise NotReady(f"not ready after {self._wish.timeout_s:g} s: {names}")
            time.sleep(POLL_S)

    def _follow_cameras(self) -> bool:
        """Whether the list has changed. One that can't be read leaves what was known."""
        file = self._place.cameras_file
        stamp = file.stat().st_mtime_ns if file.exists() else 0
        if stamp == self._cameras_stamp:
            return False
        self._cameras_stamp = stamp
        try:
            self._cameras = described_cameras(file, self.plan.ports.port("cameras"))
        except CamerasUnreadable as error:
            explain(str(error))
        return True

    def _describe(self) -> Described:
        keepers = list(self._keepers.values())
        described = describe(self.plan, keepers, self._cameras, ready=self._is_open)
        write_whole(self._place.stack_file, json.dumps(described, indent=2) + "\n")
        return described


def stage_of(keeper: Keeper) -> str:
    return {"ready": "ready", "stopped": "stop", "held": "stop"}.get(keeper.state, "start")
