"""Who is ended as an orphan, and who is not."""

import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from services.ingestor.orphans import MARK, end_orphans, mark_of
from tests.ingestor.conftest import eventually

OURS = ("localhost:9092", "sightlog.")
OTHERS = ("localhost:9092", "another.")

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")


@pytest.fixture
def marked():
    """Starts a process with that mark."""
    with ExitStack() as stack:

        def start(mark: str) -> subprocess.Popen[bytes]:
            process = subprocess.Popen(["sleep", "60"], env={**os.environ, MARK: mark})
            stack.callback(process.wait, 5)
            stack.callback(process.kill)
            environment = Path(f"/proc/{process.pid}/environ")  # empty while it begins
            assert eventually(lambda: f"{MARK}={mark}\0".encode() in environment.read_bytes())
            return process

        yield start


def of_the_dead(installation):
    with subprocess.Popen(["sleep", "60"]) as process:
        mark = mark_of(installation, process.pid)
        process.kill()
    return mark


def test_a_process_of_a_dead_ingestor_is_ended_even_one_that_is_stopped(marked):
    before_us = mark_of(OURS, os.getpid()) + "0"  # who had our number, and started at another time
    orphans = [marked(of_the_dead(OURS)), marked(before_us)]
    for orphan in orphans:
        orphan.send_signal(signal.SIGSTOP)
    assert end_orphans(OURS) == len(orphans)
    for orphan in orphans:
        assert eventually(orphan.poll) == -signal.SIGKILL


def test_nobody_else_is(marked):
    of_the_living = mark_of(OURS, os.getpid())
    no_marks = ["", "x", "a.b.c", of_the_dead(OURS) + "x"]
    spared = [marked(each) for each in (of_the_living, of_the_dead(OTHERS), *no_marks)]
    assert end_orphans(OURS) == 0
    assert [process.poll() for process in spared] == [None] * len(spared)
