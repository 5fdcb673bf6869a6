"""The description of REST is true: what is sent by it is answered as it says."""

from dataclasses import replace
from typing import Any, cast

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import CHECKS, load_all_checks

from schemas.messages import now
from services.gateway.access import ROUTES, Access, Role
from services.gateway.app import create_app
from services.gateway.instances import Instances
from services.gateway.parts import Parts
from services.gateway.probes import Probes
from tests.gateway.messages import an_instance
from tests.gateway.parts import INTERNAL_KEY

LOCALHOST = {"Host": "localhost"}
UNDESCRIBED = {"/", "/ws", "/page/{path:path}", "/docs", "/openapi.json"}
DESCRIBED = [route for route in ROUTES if route[1] not in UNDESCRIBED]
load_all_checks()
# There are no keys here; and not every string of a url's form is a camera's address.
NOT_SO = [CHECKS.get_one(name) for name in ("ignored_auth", "positive_data_acceptance")]


def saw(request: httpx.Request) -> httpx.Response:
    """What an ingestor that was asked to look at a source answers."""
    source = {"codec": "h264", "width": 640, "height": 360, "fps": None}
    return httpx.Response(200, json={"source": source, "jpeg": "/9g="})


@pytest.fixture(scope="module")
def described(parts: Parts) -> Any:
    parts.observed.instances = Instances(monotonic=lambda: 0.0)  # who is up stays so
    parts.observed.instances.note(an_instance("one", endpoint="http://one"), now())
    probes = Probes(INTERNAL_KEY, httpx.MockTransport(saw))
    app = create_app(replace(parts, probes=probes), Access(None, []))
    parts.observed.note_ready()
    return schemathesis.openapi.from_asgi("/openapi.json", app, headers=LOCALHOST)


def test_every_route_is_described():
    app = create_app(cast(Parts, None), Access(None, []))
    routes = app.openapi()["paths"]
    assert {(method.upper(), path) for path in routes for method in routes[path]} == set(DESCRIBED)
    for path, methods in routes.items():
        for method, route in methods.items():
            if ROUTES[method.upper(), path] > Role.ANYBODY:
                assert {"401", "403", "422", "503"} <= route["responses"].keys()


@pytest.mark.parametrize("route", DESCRIBED, ids=" ".join)
def test_each_route_answers_as_it_is_described(described, route):
    method, path = route

    @given(case=described[path][method].as_strategy())
    @settings(
        max_examples=20,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def check(case: Any) -> None:
        response = case.call(headers=LOCALHOST)
        assert response.status_code != 500
        case.validate_response(response, headers=LOCALHOST, excluded_checks=NOT_SO)

    check()
