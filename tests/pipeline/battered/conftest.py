"""The stack of this folder's tests. It ends with the last of them: it takes half a processor."""

from collections.abc import Iterator

import pytest

from deploy.local.child import Warden
from tests.stack import RunningStack

OPTIONS = ("--cameras", "2", "--auto-create", "--fps", "2", "--env", "GATEWAY_AUTH=off")


@pytest.fixture(scope="package")
def battered(warden: Warden, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    running = RunningStack(tmp_path_factory.mktemp("battered") / "data", OPTIONS, warden)
    yield running
    running.stop()
