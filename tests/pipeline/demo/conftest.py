"""The stack of this folder's tests. It ends with the last of them: it takes a processor."""

import time
from collections.abc import Iterator

import httpx
import pytest
from typing_extensions import override

from deploy.local.child import Warden
from tests.stack import RunningStack

PATIENCE_S = 10.0
ASK_EVERY_S = 0.5
TURNED_AWAY_AT_MOST = 5  # in one test: more is no moment
OPTIONS = ("--cameras", "2", "--auto-create", "--env", "GATEWAY_AUTH=off")


@pytest.fixture(scope="package")
def demo(warden: Warden, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """The supervisor's status at the end says whether everything ended as it should."""
    running = RunningStack(tmp_path_factory.mktemp("demo") / "data", OPTIONS, warden)
    yield running
    assert running.stop() == 0, running.output()


class Patient(httpx.HTTPTransport):
    """Asks again where the answer is to come back later, as clients should: on a machine that is
    busy to the brim the gateway may hear nothing of its database for a moment, or the persister
    stores a picture seconds after its row."""

    turned_away = 0

    @override
    def handle_request(self, request: httpx.Request) -> httpx.Response:
        until_s = time.monotonic() + PATIENCE_S
        while True:
            response = super().handle_request(request)
            comes_later = "Retry-After" in response.headers
            if not comes_later or request.method != "GET" or time.monotonic() > until_s:
                return response
            response.close()
            self.turned_away += 1
            time.sleep(ASK_EVERY_S)


@pytest.fixture
def gateway(demo: RunningStack) -> Iterator[httpx.Client]:
    transport = Patient()
    with httpx.Client(base_url=demo["gatewayUrl"], timeout=10, transport=transport) as client:
        yield client
    assert transport.turned_away <= TURNED_AWAY_AT_MOST
