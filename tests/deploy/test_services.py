"""Real services under the supervisor: the AI service alone, for it needs nobody else."""

import os
import signal

import pytest

from deploy.local.service import SERVICES, says_ready
from tests.stack import deploy_local, eventually

ALONE = [word for kind in SERVICES if kind != "ai" for word in ("--scale", f"{kind}=0")]


@pytest.fixture(scope="module")
def stack_options():
    return ALONE


def test_a_service_is_described_when_it_is_ready(stack):
    service = stack.service("ai")
    assert set(service) == {
        *("service", "replica", "pid", "httpPort", "logFile", "restarts", "startedAt"),
    }
    assert stack["aiUrl"] == f"http://127.0.0.1:{service['httpPort']}"
    assert says_ready("ai", service["httpPort"])
    assert os.path.getsize(service["logFile"]) > 0


def test_a_killed_service_is_started_again_on_its_port(stack):
    before = stack.service("ai")
    os.kill(before["pid"], signal.SIGKILL)
    assert eventually(lambda: stack.service("ai")["restarts"] == before["restarts"] + 1, 10)
    assert eventually(lambda: says_ready("ai", before["httpPort"]), 20)
    assert stack.service("ai")["pid"] != before["pid"]


def test_scale_returns_once_so_many_replicas_are_ready(stack):
    assert stack.run("scale", "ai=2").returncode == 0
    second = stack.service("ai", replica=2)
    assert says_ready("ai", second["httpPort"])
    assert stack.run("scale", "ai=1").returncode == 0
    assert [service["replica"] for service in stack["services"]] == [1]
    assert not says_ready("ai", second["httpPort"])


def test_a_camera_list_that_cannot_be_read_disturbs_nobody(stack):
    (stack.folder / "cameras.json").write_text("{")
    assert eventually(lambda: "cameras.json" in stack.output(), 15)
    (stack.folder / "cameras.json").write_text('{"cameras": []}')
    assert stack.run("status").returncode == 0


def test_a_wrong_setting_ends_the_start_with_its_name(tmp_path):
    words = ("--data", str(tmp_path / "data"), "--ports", "auto", "--env", "LOG_LEVEL=LOUD")
    refused = deploy_local("up", *words, *ALONE)
    assert refused.returncode == 2
    assert refused.stderr.splitlines()[-1].startswith("setting LOG_LEVEL: expected")


def test_a_clean_end_is_status_0(stack):
    assert stack.stop() == 0
