"""Ports stay the same from start to start, unless somebody else has taken them."""

import socket

import pytest

from deploy.local import ports
from deploy.local.ports import Ports, PortTaken, answers, is_free


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_chosen_ports_are_remembered(tmp_path):
    file = tmp_path / "ports.json"
    chosen = [Ports(file, auto=True).port(name) for name in ("kafka", "ai.1")]
    again = Ports(file, auto=True)
    assert [again.port(name) for name in ("kafka", "ai.1")] == chosen


def test_no_two_names_share_a_port(tmp_path):
    several = Ports(tmp_path / "ports.json", auto=True)
    assert len({several.port(f"ingestor.{replica}") for replica in range(50)}) == 50


def test_a_remembered_port_that_was_taken_is_replaced(tmp_path, listener):
    file = tmp_path / "ports.json"
    file.write_text(f'{{"kafka": {listener}}}')
    assert Ports(file, auto=True).port("kafka") != listener


def test_default_ports_count_up_with_the_replica(tmp_path, monkeypatch):
    monkeypatch.setattr(ports, "is_free", lambda port: True)
    fixed = Ports(tmp_path / "ports.json", auto=False)
    assert fixed.port("gateway.1") == 4000
    assert fixed.port("ingestor.3") == 9103


def test_a_taken_default_port_is_named(tmp_path, listener, monkeypatch):
    monkeypatch.setitem(ports.DEFAULTS, "kafka", listener)
    with pytest.raises(PortTaken, match=str(listener)):
        Ports(tmp_path / "ports.json", auto=False).port("kafka")


def test_a_port_is_free_until_somebody_listens(listener):
    assert answers(listener)
    assert not is_free(listener)
