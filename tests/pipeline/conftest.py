"""One stack for all tests of the whole: two cameras and a file, as `make demo` has them."""

from collections.abc import Iterator

import httpx
import pytest

from deploy.local.child import Warden
from tests.stack import RunningStack

OPTIONS = ("--cameras", "2", "--auto-create", "--env", "GATEWAY_AUTH=off")


@pytest.fixture(scope="session")
def demo(warden: Warden, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """The supervisor's status at the end says whether everything ended as it should."""
    running = RunningStack(tmp_path_factory.mktemp("demo") / "data", OPTIONS, warden)
    yield running
    assert running.stop() == 0, running.output()


@pytest.fixture(scope="session")
def battered(warden: Warden, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """Another, for the tests that hurt theirs: poison stays in its topics for good."""
    options = (*OPTIONS, "--fps", "2")
    running = RunningStack(tmp_path_factory.mktemp("battered") / "data", options, warden)
    yield running
    running.stop()


@pytest.fixture
def gateway(demo: RunningStack) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=demo["gatewayUrl"], timeout=10) as client:
        yield client
