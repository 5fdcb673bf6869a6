"""No child outlives the process that started it, and none leaves anything behind."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from deploy.local.child import Child, Command, Warden
from deploy.local.environment import minimal_environment
from tests.stack import eventually

STUBBORN = "trap '' TERM INT; echo deaf; while :; do sleep 0.1; done"
STARTER = """
import sys, time
from pathlib import Path
from deploy.local.child import Child, Command, Warden
from deploy.local.environment import minimal_environment
warden = Warden()
if "kill-warden" in sys.argv:
    warden._process.kill()
    warden._process.wait()
for number in (1, 2):
    log = Path(sys.argv[1]) / f"{number}.log"
    if number == 2:
        warden.ensure()
    child = Child(Command(("sh", "-c", sys.argv[2]), minimal_environment(), Path("/"), log), warden)
    print(child.pid, flush=True)
print(warden._process.pid, flush=True)
time.sleep(60)
"""


def shell(script: str, folder: Path) -> Command:
    return Command(("sh", "-c", script), minimal_environment(), folder, folder / "child.log")


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_child_gets_only_the_environment_it_was_given(warden, tmp_path):
    command = Command(("env",), {"ONLY": "this"}, tmp_path, tmp_path / "child.log")
    assert Child(command, warden).wait(10) == 0
    assert "ONLY=this\n" in command.log.read_text()
    assert "HOME=" not in command.log.read_text()


def test_a_child_has_a_group_of_its_own_in_our_session(warden, tmp_path):
    child = Child(shell("sleep 60", tmp_path), warden)
    assert os.getpgid(child.pid) == child.pid
    assert os.getsid(child.pid) == os.getsid(0)
    child.stop(1)


def test_a_command_that_is_not_there_says_so(warden, tmp_path):
    command = Command(("no-such-program",), {}, tmp_path, tmp_path / "child.log")
    assert Child(command, warden).wait(10) == 1
    assert "no-such-program: No such file" in command.log.read_text()


def test_what_a_child_left_in_its_group_ends_with_it(warden, tmp_path):
    child = Child(shell("sleep 60 & echo $!", tmp_path), warden)
    assert child.wait(10) == 0
    left = int((tmp_path / "child.log").read_text())
    assert eventually(lambda: not is_running(left), 10)


def test_a_child_that_does_not_listen_is_killed_after_the_grace(warden, tmp_path):
    child = Child(shell(STUBBORN, tmp_path), warden)
    assert eventually(lambda: "deaf" in (tmp_path / "child.log").read_text(), 10)
    assert child.stop(grace_s=0.3) == -signal.SIGKILL


@pytest.mark.parametrize("accident", ["none", "kill-warden"])
def test_children_end_when_their_starter_is_killed(tmp_path, accident):
    starter = subprocess.Popen(
        [sys.executable, "-c", STARTER, str(tmp_path), STUBBORN, accident],
        stdout=subprocess.PIPE,
        text=True,
    )
    with starter:
        assert starter.stdout is not None
        pids = [int(starter.stdout.readline()) for _ in range(3)]
        expected = pids[1:] if accident == "kill-warden" else pids
        assert all(is_running(pid) for pid in expected)
        os.kill(starter.pid, signal.SIGKILL)
        assert eventually(lambda: not any(is_running(pid) for pid in pids), 12)


def test_a_closed_warden_leaves_nothing(tmp_path):
    with Warden() as warden:
        child = Child(shell(STUBBORN, tmp_path), warden)
    assert child.wait(12) == -signal.SIGKILL
