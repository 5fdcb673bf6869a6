"""Processes that are held and released by several at the same time."""

import json
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from deploy.local import commands
from deploy.local.place import Place
from deploy.local.up import Exit

NAMES = [f"detector.{replica}" for replica in range(1, 41)]
EVEN = NAMES[1::2]


@pytest.fixture
def place(tmp_path):
    """Of a stack whose supervisor has ended whatever it is told to hold."""
    services = [
        {"service": "detector", "replica": replica, "pid": None, "httpPort": 1}
        for replica in range(1, len(NAMES) + 1)
    ]
    described = {"services": services, "parts": [], "held": NAMES}
    (tmp_path / "stack.json").write_text(json.dumps(described))
    place = Place(tmp_path)
    with place.owned():
        yield place


def test_of_outages_that_overlap_none_undoes_another(place):
    with ThreadPoolExecutor(len(NAMES)) as pool:
        held = pool.map(lambda name: commands.hold(place, name, "KILL", 5), NAMES)
        assert set(held) == {Exit.OK}
        assert place.holds() == dict.fromkeys(NAMES, "KILL")
        list(pool.map(partial(commands.release, place, timeout_s=0), EVEN))
    assert place.holds() == {name: "KILL" for name in NAMES if name not in EVEN}
