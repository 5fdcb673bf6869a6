"""Each process killed once: it comes back, detections go on, the books balance."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from schemas.messages import now, wire_time
from tests.stack import RunningStack, eventually

BAR_S = 15.0
"""Within which detections go on; missed by chance on a busy machine up to four times of it."""


def newest_row(gateway: httpx.Client) -> str:
    """When the newest detection was captured; such times sort as text."""
    try:
        rows = gateway.get("/detections?limit=1").json()
    except httpx.TransportError:
        return ""
    return str(rows[0]["timestamp"]) if isinstance(rows, list) and rows else ""


@pytest.mark.parametrize("service", ["ingestor", "detector", "persister", "gateway", "ai"])
def test_a_killed_service_is_back_and_detections_go_on(
    demo: RunningStack, gateway: httpx.Client, service: str
) -> None:
    assert eventually(lambda: newest_row(gateway) != "", 60)
    before = demo.service(service)
    os.kill(before["pid"], signal.SIGKILL)
    killed_at = time.monotonic()
    since = wire_time(now())
    assert eventually(lambda: newest_row(gateway) > since, 4 * BAR_S)
    assert eventually(lambda: demo.service(service)["restarts"] == before["restarts"] + 1, 30)
    took = time.monotonic() - killed_at
    print(f"{service}: detections go on after {took:.1f} s (bar {BAR_S} s)")


def test_the_books_balance_after_all_of_it(demo: RunningStack) -> None:
    checked = subprocess.run(
        [sys.executable, "-m", "tests.faults.check", "--stack", demo.folder],
        check=False,
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert checked.returncode == 0, checked.stdout[-4000:] + checked.stderr[-4000:]
