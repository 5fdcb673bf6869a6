"""The stack of this folder's tests. It ends with the last of them: it takes a processor."""

from collections.abc import Iterator

import httpx
import pytest

from deploy.local.child import Warden
from tests.stack import RunningStack

OPTIONS = ("--cameras", "2", "--auto-create", "--env", "GATEWAY_AUTH=off")


@pytest.fixture(scope="package")
def demo(warden: Warden, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """The supervisor's status at the end says whether everything ended as it should."""
    running = RunningStack(tmp_path_factory.mktemp("demo") / "data", OPTIONS, warden)
    yield running
    assert running.stop() == 0, running.output()


@pytest.fixture
def gateway(demo: RunningStack) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=demo["gatewayUrl"], timeout=10) as client:
        yield client
