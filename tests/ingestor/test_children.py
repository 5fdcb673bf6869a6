"""When camera processes can be started, and one that is asked about while another starts."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from services.ingestor import children
from services.ingestor.children import Child

ROOT = Path(__file__).parents[2]
SLOW = """
import time
from pathlib import Path
time.sleep(0.5)
Path(__file__).with_suffix(".loaded").touch()
"""
READY = """
import slow_to_load
from pathlib import Path
from services.ingestor.children import await_ready, fork_server
marker = Path(slow_to_load.__file__).with_suffix(".loaded")
marker.unlink()
preload = ["slow_to_load", "services.ingestor.children"]
await_ready(fork_server(preload), preload)
print(marker.exists())
"""
UNREADY = """
from services.ingestor.children import await_ready, fork_server
await_ready(fork_server(["broken"]), ["broken"])
"""


class Ended:
    """A process of which nothing is left."""

    exitcode = -9

    def __init__(self):
        with subprocess.Popen(["true"]) as process:
            self.pid = process.pid
        self.is_closed = False

    def close(self):
        self.is_closed = True


@pytest.fixture
def child():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield Child(Ended(), ours)  # type: ignore[arg-type]  # as much of a process as is asked


@pytest.fixture
def starting():
    """For as long as the fork server does not answer."""
    with children._registry:
        yield


def test_nobody_waits_for_anothers_start_to_know_of_an_end(starting, child):
    assert not child.is_over


def test_what_has_ended_meanwhile_can_be_killed(starting, child):
    child.kill()
    assert child.is_ending


def test_an_end_is_known_once_it_may_be_asked_for(child):
    with children._registry:
        assert not child.is_over
    assert child.is_over
    assert child.ended_by == "SIGKILL"
    assert child._process.is_closed


def test_a_server_is_ready_once_it_has_its_modules(tmp_path):
    (tmp_path / "slow_to_load.py").write_text(SLOW)
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    script = [sys.executable, "-c", READY]
    ready = subprocess.run(
        script, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert ready.stdout == "True\n", ready.stderr


@pytest.mark.parametrize("broken", ["import no_such_module", "raise MemoryError"])
def test_a_server_that_can_not_load_its_modules_is_never_ready(tmp_path, broken):
    """So an ingestor that could start no camera takes none from others."""
    (tmp_path / "broken.py").write_text(broken)
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    script = [sys.executable, "-c", UNREADY]
    said = subprocess.run(
        script, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert said.returncode == 1
    assert "RuntimeError: broken: " in said.stderr
