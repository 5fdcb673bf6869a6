"""A whole stack for tests: `python -m deploy.local up` in a folder of its own."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from deploy.local.child import Child, Command, Warden
from deploy.local.environment import minimal_environment

READY_S = 150.0
STOP_S = 60.0


class StackFailed(AssertionError):
    """It did not become ready; the message is what it said."""


class RunningStack:
    """One stack, ended with the session at the latest. `stack["gatewayUrl"]` is the file's now."""

    def __init__(self, folder: Path, options: Sequence[str], warden: Warden) -> None:
        self.folder = folder
        command = up_command(folder, options)
        self._said_before = command.log.stat().st_size if command.log.exists() else 0
        self.supervisor = Child(command, warden)
        self._await_ready()

    def __getitem__(self, name: str) -> Any:
        return self.described()[name]

    def described(self) -> dict[str, Any]:
        """`stack.json` as it is now."""
        described: dict[str, Any] = json.loads((self.folder / "stack.json").read_text())
        return described

    def service(self, kind: str, replica: int = 1) -> dict[str, Any]:
        """What `stack.json` says of one replica."""
        services = self["services"]
        return next(one for one in services if (one["service"], one["replica"]) == (kind, replica))

    def part(self, name: str) -> dict[str, Any]:
        return next(one for one in self["parts"] if one["name"] == name)

    def run(self, *words: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        """`python -m deploy.local WORDS --data` this stack's folder."""
        return deploy_local(*words, "--data", str(self.folder), **environment)

    def output(self) -> str:
        """All that this `up` has said."""
        return self.supervisor.command.log.read_bytes()[self._said_before :].decode()

    def stop(self) -> int:
        return self.supervisor.stop(STOP_S)

    def _await_ready(self) -> None:
        def is_decided() -> bool:
            return "\nREADY " in self.output() or self.supervisor.poll() is not None

        if not eventually(is_decided, READY_S) or self.supervisor.poll() is not None:
            self.supervisor.stop(STOP_S)
            raise StackFailed(self.output())


def up_command(folder: Path, options: Sequence[str]) -> Command:
    words = ("up", "--data", str(folder), "--ports", "auto", *options)
    return Command(
        argv=(sys.executable, "-m", "deploy.local", *words),
        environment=environment(),
        folder=Path.cwd(),
        log=folder.with_name(f"{folder.name}.up.log"),
    )


def deploy_local(*words: str, **more: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "deploy.local", *words],
        env=environment() | more,
        capture_output=True,
        text=True,
        timeout=READY_S,
        check=False,
    )


def environment() -> dict[str, str]:
    """Nothing of the session's own settings but where jars are cached."""
    kept = {name: os.environ[name] for name in ("SIGHTLOG_CACHE_DIR",) if name in os.environ}
    return minimal_environment() | kept


def eventually(condition: Callable[[], bool], timeout_s: float) -> bool:
    """Whether it came true in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
