"""Faults that can't be done as planned: each is told, none stays, and the others are done."""

import json
import os
import signal
import subprocess
import sys
from typing import cast

import psutil
import pytest
from typing_extensions import override

from tests.faults import outage, stop
from tests.faults.kinds import PROCESS_FAULTS
from tests.faults.pulse import Pulse
from tests.faults.schedule import Kind, Planned
from tests.faults.site import Site
from tests.faults.suite import Suite

SERVICE = {"service": "detector", "replica": 1, "httpPort": 1}
PART = {"name": "kafka", "pid": 1, "port": 1}


class Beating:
    """A pulse that never stops."""

    def stalled(self, since, streams):
        return set()


class Bug:
    target = "kafka"

    def begin(self) -> None:
        raise RuntimeError("a bug")

    def end(self) -> None: ...


@pytest.fixture
def process():
    """A detector that only sleeps."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    yield process
    process.kill()
    process.wait(10)


@pytest.fixture
def site(tmp_path, process):
    """A stack whose supervisor does nothing that it is told."""
    service = SERVICE | {"pid": process.pid}
    where = {"kafkaBootstrapServers": "x", "topicPrefix": "x.", "databaseUrl": "x"}
    described = {"services": [service], "parts": [PART], "held": [], "cameras": []}
    (tmp_path / "stack.json").write_text(json.dumps(where | described))
    site = Site(tmp_path)
    with site.place.owned():
        yield site


def planned(name: str, target: str) -> Planned:
    return Planned(Kind(name, target, 1), at=0, lasts=0, pick=0)


def done(site, *schedule):
    return Suite(site, cast(Pulse, Beating()), ["s"]).run(schedule)


def test_what_could_not_be_held_is_not_held_afterwards(site, monkeypatch):
    monkeypatch.setattr(outage, "TIMEOUT_S", 0.2)
    [one] = done(site, planned("away", "kafka"))
    assert site.place.holds() == {}
    [violation] = one.violations()
    assert violation.kind == "FAULT_FAILED"
    assert "kafka" in violation.what


def test_a_fault_that_raises_anything_is_told_and_the_others_are_done(site, monkeypatch):
    monkeypatch.setitem(PROCESS_FAULTS, "bug", lambda site, target: Bug())
    wrong, unknown, well = done(
        site,
        planned("bug", "kafka"),
        planned("kill", "nobody"),
        planned("stop", "detector"),
    )
    assert (wrong.target, wrong.problem) == ("kafka", "RuntimeError: a bug")
    assert unknown.violations()[0].kind == "FAULT_FAILED"
    assert (well.problem, well.violations()) == ("", [])


def test_a_process_that_was_stopped_goes_on_although_its_fault_failed(site, process, monkeypatch):
    class StopsAndFails(stop.Stop):
        @override
        def begin(self) -> None:
            super().begin()
            raise RuntimeError("a bug")

    monkeypatch.setitem(PROCESS_FAULTS, "stop", StopsAndFails)
    [one] = done(site, planned("stop", "detector"))
    assert one.problem == "RuntimeError: a bug"
    assert psutil.Process(process.pid).status() != psutil.STATUS_STOPPED


def test_a_stop_that_found_nobody_signals_nobody(site, monkeypatch):
    sent = []
    monkeypatch.setattr(os, "kill", lambda *words: sent.append(words))
    stop.Stop(site, "detector.1").end()
    assert (0, signal.SIGCONT) not in sent
