"""What a running stack does about a wish that can't be met."""

import socket
import threading

import pytest

from deploy.local import ports
from deploy.local.place import Place
from deploy.local.plan import Wish
from deploy.local.service import SERVICES
from deploy.local.stack import LOOK_S, Stack
from tests.stack import eventually

NONE = dict.fromkeys(SERVICES, 0)


@pytest.fixture
def tended(warden, tmp_path):
    """A place whose stack runs nothing yet but does what is wished."""
    place = Place(tmp_path)
    place.make_folders()
    place.want(NONE)
    stack = Stack(place, Wish(auto_ports=False), warden)
    tending = threading.Thread(target=stack.tend)
    tending.start()
    yield place, tending
    stack.interrupt()
    tending.join(10)
    stack.stop()


def test_a_replica_whose_port_is_taken_is_told_of_once_and_ends_nothing(tended, monkeypatch, capfd):
    place, tending = tended
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setitem(ports.DEFAULTS, "ai", port)
        place.want({"ai": 1})
        said = ""

        def told():
            nonlocal said
            said += capfd.readouterr().err
            return said.count(f"port {port} for ai.1 is taken")

        assert eventually(lambda: told() == 1, 10)
        assert not eventually(lambda: told() > 1, 4 * LOOK_S)
        assert tending.is_alive()
        place.want(NONE)
