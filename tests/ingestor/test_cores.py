"""What a container may use of a machine."""

import os

import pytest

from services.ingestor.cores import usable_cores


@pytest.mark.parametrize(
    ("said", "cores"),
    [
        ("max 100000\n", 8),
        ("150000 100000\n", 2),
        ("50000 100000\n", 1),
        ("9900000 100000\n", 8),
        ("nonsense", 8),
        (None, 8),
    ],
)
def test_no_more_cores_are_counted_than_may_be_used(said, cores, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    cpu_max = tmp_path / "cpu.max"
    if said is not None:
        cpu_max.write_text(said)
    assert usable_cores(cpu_max) == cores
