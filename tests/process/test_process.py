import json
import signal
import subprocess
import sys
import time
from typing import Any

import httpx
import pytest

from services.process import token
from services.process.health import serving_health
from services.process.trace import child_of, new_traceparent

LOGS = """
import logging, structlog
from services.process.logging import configure_logging
configure_logging("door", "INFO")
structlog.get_logger().info("batch.stored", rows=3)
logging.getLogger("library").warning("slow %s", "disk")
structlog.get_logger().debug("unseen")
"""
CRASHES = """
from services.process.crash import crash_point
for n in range(1, 9):
    crash_point("sink.elsewhere")
    print(n, flush=True)
    crash_point("sink.here")
"""


def python(code: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        check=False,
        env=environment,
        capture_output=True,
        text=True,
        timeout=30,
    )


def test_every_log_line_is_one_json_object_libraries_included() -> None:
    lines = [json.loads(line) for line in python(LOGS, {}).stderr.splitlines()]
    assert [(line["event"], line["level"], line["service"]) for line in lines] == [
        ("batch.stored", "info", "door"),
        ("slow disk", "warning", "door"),
    ]
    assert lines[0]["rows"] == 3


def test_a_crash_point_ends_the_process_at_the_nth_pass_and_is_inert_without_the_variable() -> None:
    crashed = python(CRASHES, {"SIGHTLOG_CRASH_AT": "sink.here:3"})
    assert (crashed.returncode, crashed.stdout.split()) == (-signal.SIGKILL, ["1", "2", "3"])
    assert python(CRASHES, {}).returncode == 0


def test_health_tells_ready_from_live() -> None:
    ready: tuple[bool, dict[str, Any]] = (False, {"waiting": "assignment"})
    with serving_health("127.0.0.1", 0, lambda: ready) as port, httpx.Client() as client:
        at = f"http://127.0.0.1:{port}"
        assert client.get(f"{at}/health/live").status_code == 200
        answer = client.get(f"{at}/health/ready")
        assert (answer.status_code, answer.json()["waiting"]) == (503, "assignment")
        ready = (True, {})
        assert client.get(f"{at}/health/ready").json() == {"status": "ok"}
        assert "python_info" in client.get(f"{at}/metrics").text
        assert client.get(f"{at}/other").status_code == 404


def test_a_trace_goes_on_and_a_malformed_one_begins_anew() -> None:
    parent = new_traceparent()
    child = child_of(parent)
    assert child != parent
    assert child.split("-")[1] == parent.split("-")[1]
    assert child_of("00-xyz").split("-")[1] != parent.split("-")[1]


def test_a_token_is_good_for_its_audience_its_key_and_half_a_minute(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    key = "k" * 43
    signed = token.sign(key, "stream-1")
    assert token.is_ours(key, "stream-1", signed)
    assert not token.is_ours(key, "stream-2", signed)
    assert not token.is_ours("j" * 43, "stream-1", signed)
    assert not token.is_ours(key, "stream-1", "not.a.token")
    later = time.time() + token.LIFETIME_S + token.LEEWAY_S + 1
    monkeypatch.setattr(time, "time", lambda: later)
    assert not token.is_ours(key, "stream-1", signed)
