"""Everything asked to end, one after another under load, and all at once."""

import re
import time

import psutil
import pytest

from tests.pipeline.seen import (
    Logs,
    all_ready,
    await_running,
    balance,
    is_gone,
    runs,
    terminate,
    traces,
)
from tests.stack import RunningStack, eventually

GRACE_S = 10.0
BACK_S = 60.0
SERVICES = ("gateway.1", "ingestor.1", "detector.1", "persister.1", "ai.1")


@pytest.fixture(scope="module")
def logs(battered: RunningStack) -> Logs:
    await_running(battered, BACK_S)
    return Logs(battered)


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_that_is_asked_to_is_gone_in_time_with_status_0(
    battered: RunningStack, logs: Logs, service: str
) -> None:
    said, restarts = len(battered.output()), runs(battered)[service].restarts
    begun = time.monotonic()
    [pid] = terminate(battered, [service])
    assert eventually(lambda: is_gone(pid), GRACE_S)
    print(f"{service}: gone after {time.monotonic() - begun:.1f} s")
    assert eventually(lambda: runs(battered)[service].restarts == restarts + 1, BACK_S)
    assert eventually(lambda: all_ready(battered), BACK_S)
    assert statuses(battered.output()[said:], service) == ["0"]


def statuses(output: str, service: str) -> list[str]:
    """With which it ended, as the supervisor says."""
    said = rf"^stage=start part={re.escape(service)} state=failed.*\nexit status (\d+)$"
    return re.findall(said, output, re.M)


def test_nothing_is_lost_by_that_and_no_log_shows_a_trace(
    battered: RunningStack, logs: Logs
) -> None:
    await_running(battered, BACK_S)
    balance(battered)
    assert not traces(logs)


def test_all_of_it_ends_at_once_and_leaves_no_process(battered: RunningStack, logs: Logs) -> None:
    """The last: after this the stack is gone."""
    supervisor = psutil.Process(battered.supervisor.pid)
    family = [supervisor, *supervisor.children(recursive=True)]
    begun = time.monotonic()
    assert battered.run("stop").returncode == 0
    print(f"{len(family)} processes ended after {time.monotonic() - begun:.1f} s")
    assert battered.supervisor.wait(GRACE_S) == 0, battered.output()[-4000:]
    _, alive = psutil.wait_procs(family, timeout=5)
    assert not alive
    assert not traces(logs)
