"""Who may use which route."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fastapi import APIRouter
from fastapi.routing import iter_route_contexts

from services.gateway.access import ROUTES, Access, Role, UnlistedRoute
from services.gateway.app import create_app
from services.gateway.parts import Parts
from services.gateway.routes.guard import UnguardedRoute

KEYS = {"the key of a viewer": Role.VIEWER, "an operator's key": Role.OPERATOR, "root": Role.ADMIN}
ULID = "01KAPZ0000000000000000000A"


def a_client(app, **options) -> httpx.AsyncClient:
    options = {"base_url": "http://gateway.example"} | options
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), **options)


def bearer(role: Role) -> dict[str, str]:
    key = next(key for key, known in KEYS.items() if known is role)
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture(scope="module")
def guarded(parts: Parts):
    return create_app(parts, Access(KEYS, []))


def test_every_route_stands_in_the_table(guarded):
    for route in iter_route_contexts(guarded.routes):
        for method in (route.methods or {"WEBSOCKET"}) - {"HEAD"}:
            assert (method, route.path) in ROUTES


def test_a_route_that_is_not_in_the_table_can_not_be_added(parts: Parts):
    router = APIRouter()
    router.add_api_route("/secret", lambda: None)
    with pytest.raises(UnlistedRoute):
        create_app(parts, Access(KEYS, []), [router])


@pytest.mark.parametrize("route", [r for r in ROUTES if r[0] != "WEBSOCKET"], ids=" ".join)
async def test_each_route_asks_for_its_role(guarded, route):
    method, path = route
    path = path.replace("{streamId}", ULID).replace("{id}", ULID).replace("{filename}", "x")
    needed = ROUTES[route]
    async with a_client(guarded) as client:
        for role in Role:
            headers = {} if role is Role.ANYBODY else bearer(role)
            status = (await client.request(method, path, headers=headers)).status_code
            refusal = 401 if role is Role.ANYBODY else 403
            assert (status == refusal) is (role < needed), (role, status)


@pytest.mark.parametrize(
    "authorization",
    ["Bearer wrong", "Bearer ", "Bearer", "Basic cm9vdA==", "root", "Bearer root2", "bearer é"],
)
async def test_an_unknown_key_opens_nothing(guarded, authorization):
    async with a_client(guarded) as client:
        headers = [(b"Authorization", authorization.encode())]
        answer = await client.get("/streams", headers=headers)
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    assert answer.headers["Content-Type"] == "application/problem+json"


async def test_a_key_in_the_query_opens_no_rest_route(guarded):
    async with a_client(guarded) as client:
        assert (await client.get("/streams?access_token=root")).status_code == 401


async def test_without_keys_a_key_that_is_sent_is_not_looked_at(client):
    answer = await client.get("/streams", headers={"Authorization": "Bearer whatever"})
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [
        ("localhost:4000", None, 200),
        ("127.0.0.1:4000", "http://127.0.0.1:4000", 200),
        ("[::1]:4000", None, 200),
        ("cam.home", "http://cam.home", 200),
        ("evil.example", None, 403),
        ("localhost:4000", "http://evil.example", 403),
        ("localhost:4000", "http://localhost:3000", 403),
        ("localhost:4000", "http://localhost", 403),
        ("localhost:4000", "https://localhost:4000", 403),
        ("localhost:4000", "http://127.0.0.1:4000", 403),
        ("localhost", "http://localhost:80", 200),
        ("localhost:4000", "http://wall.home:8080", 200),
        ("localhost:4000", "http://wall.home", 403),
        ("wall.home:8080", None, 403),
        ("localhost:x", None, 403),
        ("localhost:4000", "null", 403),
        ("", None, 403),
        ("[", None, 403),
    ],
)
async def test_without_keys_no_web_page_can_speak_for_a_person(parts: Parts, host, origin, status):
    app = create_app(parts, Access(None, ["cam.home", "http://wall.home:8080"]))
    headers = {"Host": host} | ({"Origin": origin} if origin else {})
    async with a_client(app) as client:
        answer = await client.get("/streams", headers=headers)
        assert answer.status_code == status
        assert (await client.get("/health/live", headers=headers)).status_code == 200


def bodies() -> dict[str, tuple[dict[str, str], Any]]:
    """What a request may carry that would be refused by itself: headers and content."""

    async def endless() -> AsyncIterator[bytes]:
        pytest.fail("it was read")
        yield b""  # type: ignore[unreachable]  # makes it a generator

    json = {"Content-Type": "application/json"}
    return {
        "malformed": (json, b"{"),
        "invalid": (json, b'{"fps": "canary"}'),
        "not JSON": ({"Content-Type": "text/plain"}, b"x"),
        "too large": (json, b" " * (64 * 1024 + 1)),
        "said to be too large": ({**json, "Content-Length": "99999999999"}, endless()),
        "chunked": (json, endless()),
    }


@pytest.mark.parametrize(
    "route", [r for r in ROUTES if r[0] != "WEBSOCKET" and ROUTES[r] > Role.ANYBODY], ids=" ".join
)
async def test_access_comes_before_anything_that_is_wrong_with_a_request(guarded, route):
    (method, path), needed = route, ROUTES[route]
    path = path.replace("{streamId}", "x").replace("{id}", "x").replace("{filename}", "x")
    async with a_client(guarded) as client:
        for kind, (headers, content) in bodies().items():
            answer = await client.request(
                method, f"{path}?unknown=1", headers=headers, content=content
            )
            assert answer.status_code == 401, kind
        for kind, (headers, content) in bodies().items() if needed > Role.VIEWER else ():
            given = headers | bearer(Role.VIEWER)
            answer = await client.request(method, path, headers=given, content=content)
            assert answer.status_code == 403, kind


async def test_also_without_keys_access_comes_first(parts: Parts):
    app = create_app(parts, Access(None, []))
    async with a_client(app, base_url="http://evil.example") as client:
        for headers, content in bodies().values():
            answer = await client.post("/streams", headers=headers, content=content)
            assert answer.status_code == 403


def test_a_route_that_reads_a_body_first_can_not_be_added(parts: Parts):
    router = APIRouter()

    @router.post("/streams")
    def careless(body: dict[str, str]) -> None: ...

    with pytest.raises(UnguardedRoute):
        create_app(parts, Access(KEYS, []), [router])
