"""What died is started again, later each time; what was stopped is not."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from deploy.local.child import Command
from deploy.local.environment import minimal_environment
from deploy.local.keeper import FIRST_DELAY_S, Keeper
from tests.stack import eventually


@dataclass(frozen=True)
class Script:
    """A part that is a line of shell, ready once it has written `up`."""

    text: str
    folder: Path
    name: str = "script"
    port: int = 0

    def prepare(self, warden):
        """Nothing."""

    def command(self):
        argv = ("sh", "-c", self.text)
        return Command(argv, minimal_environment(), self.folder, self.folder / "script.log")

    def is_ready(self):
        return "up" in self.command().log.read_text()


@pytest.fixture
def keep(warden, tmp_path):
    """Keeps a script until the test is over."""
    keepers = []

    def begin(text, first_delay_s=FIRST_DELAY_S):
        script = Script(text, tmp_path)
        keeper = Keeper(script, warden, lambda _: None, first_delay_s)
        keepers.append(keeper)
        keeper.start()
        return keeper

    yield begin
    for keeper in keepers:
        keeper.stop(grace_s=0.1)


def test_a_part_is_ready_only_when_it_says_so(keep, tmp_path):
    keeper = keep("until [ -e go ]; do sleep 0.02; done; echo up; sleep 60")
    assert eventually(lambda: keeper.pid is not None, 5)
    assert keeper.state == "starting"
    (tmp_path / "go").touch()
    assert eventually(lambda: keeper.state == "ready", 5)


def test_a_killed_part_is_started_again_and_counted(keep):
    keeper = keep("echo up; sleep 60")
    assert eventually(lambda: keeper.state == "ready", 5)
    first = keeper.pid
    os.kill(first, signal.SIGKILL)
    assert eventually(lambda: keeper.restarts == 1 and keeper.state == "ready", 5)
    assert keeper.pid != first
    assert keeper.last_status == -signal.SIGKILL


def test_the_wait_doubles_each_time_a_part_dies_at_once(keep, tmp_path):
    keep("date +%s.%N >> starts; exit 3")
    starts = tmp_path / "starts"
    assert eventually(lambda: starts.exists() and len(starts.read_text().split()) == 3, 10)
    first, second, third = map(float, starts.read_text().split())
    assert second - first >= FIRST_DELAY_S
    assert third - second >= 2 * FIRST_DELAY_S


def test_its_own_last_words_say_why_a_part_died(keep, tmp_path):
    (tmp_path / "script.log").write_text("an earlier run\n")
    keeper = keep("echo setting X: expected a number; exit 2")
    assert eventually(lambda: keeper.state == "failed", 5)
    assert keeper.last_status == 2
    assert keeper.problem.splitlines() == ["exit status 2", "setting X: expected a number"]


@pytest.mark.parametrize("gently", [True, False])
def test_a_held_part_ends_and_comes_back_only_when_it_is_released(keep, gently):
    keeper = keep("trap 'exit 7' TERM; echo up; while :; do sleep 0.02; done")
    assert eventually(lambda: keeper.state == "ready", 5)
    first = keeper.pid
    keeper.hold(gently=gently)
    assert eventually(lambda: keeper.state == "held", 5)
    assert keeper.last_status == (7 if gently else -signal.SIGKILL)
    assert not eventually(lambda: keeper.pid is not None, 1.0)  # longer than it waits to start
    keeper.release()
    assert eventually(lambda: keeper.state == "ready", 5)
    assert keeper.pid not in (first, None)


def test_a_part_held_while_it_waits_to_start_does_not_start(keep, tmp_path):
    keeper = keep("echo x >> starts; exit 1", first_delay_s=60)
    assert eventually(lambda: keeper.state == "failed", 5)
    keeper.hold(gently=False)
    assert eventually(lambda: keeper.state == "held", 15)
    assert (tmp_path / "starts").read_text() == "x\n"


def test_a_held_part_is_stopped_at_once(keep):
    keeper = keep("echo up; sleep 60")
    assert eventually(lambda: keeper.state == "ready", 5)
    keeper.hold(gently=False)
    assert eventually(lambda: keeper.state == "held", 5)
    began = time.monotonic()
    assert keeper.stop() is None
    assert time.monotonic() - began < 5.0


def test_a_stopped_part_is_not_started_again(keep, tmp_path):
    keeper = keep("echo up; echo x >> starts; sleep 60")
    assert eventually(lambda: keeper.state == "ready", 5)
    assert keeper.stop() == -signal.SIGTERM
    assert keeper.state == "stopped"
    assert keeper.pid is None
    assert (tmp_path / "starts").read_text() == "x\n"


def test_a_part_that_waits_to_be_started_again_is_stopped_at_once(keep):
    keeper = keep("exit 1", first_delay_s=3)
    assert eventually(lambda: keeper.restarts == 1 and keeper.state == "failed", 15)
    began = time.monotonic()
    assert keeper.stop() is None
    assert time.monotonic() - began < 3  # of the 6 s that it would wait
