"""The suite as a person runs it: short on a small stack, and for its full time on ten cameras."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def faults(*words: str, timeout_s: float) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "tests.faults", *words],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )


def verdict_of(done: "subprocess.CompletedProcess[str]") -> dict[str, Any]:
    """The last line; all that was said where there is none."""
    assert done.returncode in (0, 1), done.stdout[-2000:] + done.stderr[-4000:]
    verdict: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return verdict


@pytest.mark.timeout(400)
def test_a_small_stack_survives_half_a_minute_of_faults() -> None:
    done = faults("--seed", "1", "--minutes", "0.5", "--cameras", "2", timeout_s=390)
    verdict = verdict_of(done)
    assert done.stdout.splitlines()[0] == "seed=1"
    assert verdict["violations"] == [], done.stderr[-4000:]
    assert verdict["pass"] is True
    assert done.returncode == 0
    assert verdict["streams"] == 3
    assert sum(verdict["outcomes"].values()) + verdict["unread"] == verdict["published"] > 0
    assert {"kafka", "postgres"} <= {fault["target"] for fault in verdict["faults"]}
    for fault in verdict["faults"]:
        assert set(fault) == {"kind", "target", "at", "lasted", "back_s", "row"}
        print(f"row {fault['row']}: {fault['kind']} {fault['target']}: back {fault['back_s']} s")


@pytest.mark.parametrize(
    "words",
    [
        ["--minutes", "1"],
        ["--seed", "1", "--minutes", "1", "--only", "12"],
        ["--seed", "1", "--minutes", "1", "--stack", "/no/such/folder"],
    ],
)
def test_wrong_usage_is_exit_status_2(words: list[str]) -> None:
    assert faults(*words, timeout_s=30).returncode == 2


@pytest.mark.soak
@pytest.mark.timeout(2400)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_ten_cameras_survive_twenty_minutes_of_faults(seed: int) -> None:
    done = faults("--seed", str(seed), "--minutes", "20", timeout_s=2390)
    print(done.stdout.splitlines()[-1])
    assert verdict_of(done)["violations"] == [], done.stderr[-8000:]
    assert done.returncode == 0
