"""Who may use which route: one table, and the one dependency that stands on every route.

With keys, a request says who it is by `Authorization: Bearer KEY`. Without (`GATEWAY_AUTH=off`, on
a loopback address only) everybody on this machine is an admin; so that no web page a person opens
can speak for them, the request must then be addressed to this machine (or GATEWAY_ALLOWED_HOSTS),
and an `Origin`, if there is one, must be ours: scheme, host and port. A page of another port is
another's page. GATEWAY_ALLOWED_HOSTS may also name origins of further pages (`https://cam.home`).
"""

import hmac
from collections.abc import Collection, Mapping
from enum import IntEnum
from hashlib import sha256
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from fastapi.routing import iter_route_contexts
from starlette.requests import HTTPConnection
from starlette.routing import BaseRoute

from services.gateway.problems import FORBIDDEN, FOREIGN_HOST, UNAUTHENTICATED, Problem


class Role(IntEnum):
    """Each may do what those before it may."""

    ANYBODY = 0
    VIEWER = 1
    OPERATOR = 2
    ADMIN = 3


ROUTES: dict[tuple[str, str], Role] = {
    ("GET", "/"): Role.ANYBODY,
    ("GET", "/page/{path:path}"): Role.ANYBODY,
    ("GET", "/health/live"): Role.ANYBODY,
    ("GET", "/health/ready"): Role.ANYBODY,
    ("GET", "/metrics"): Role.ANYBODY,
    ("GET", "/docs"): Role.VIEWER,
    ("GET", "/openapi.json"): Role.VIEWER,
    ("WEBSOCKET", "/"): Role.VIEWER,
    ("WEBSOCKET", "/ws"): Role.VIEWER,
    ("POST", "/streams"): Role.OPERATOR,
    ("GET", "/streams"): Role.VIEWER,
    ("POST", "/streams/probe"): Role.OPERATOR,
    ("GET", "/streams/health"): Role.VIEWER,
    ("GET", "/streams/{id}"): Role.VIEWER,
    ("PATCH", "/streams/{id}"): Role.OPERATOR,
    ("DELETE", "/streams/{id}"): Role.OPERATOR,
    ("POST", "/streams/{id}/start"): Role.OPERATOR,
    ("POST", "/streams/{id}/stop"): Role.OPERATOR,
    ("GET", "/streams/{id}/frame"): Role.VIEWER,
    ("GET", "/streams/{id}/live"): Role.VIEWER,
    ("GET", "/streams/{id}/history"): Role.VIEWER,
    ("GET", "/streams/{id}/ledger"): Role.VIEWER,
    ("GET", "/detections"): Role.VIEWER,
    ("GET", "/detections/stream/{streamId}"): Role.VIEWER,
    ("GET", "/detections/screenshot/{streamId}/{filename}"): Role.VIEWER,
}
"""Who may use a route at least; a route that is not here can't be added to the app."""


DEFAULT_PORTS = {"http": 80, "https": 443}


class UnlistedRoute(Exception):
    """A route without an entry in ROUTES: nobody decided who may use it."""


class Access:
    """The dependency; `keys` maps a key to its role, None lets everybody on this machine in."""

    def __init__(self, keys: Mapping[str, Role] | None, allowed_hosts: Collection[str]) -> None:
        self._roles = None if keys is None else {_hash(key): role for key, role in keys.items()}
        self._hosts = {"localhost", "127.0.0.1", "::1", *(host.lower() for host in allowed_hosts)}
        self._origins = {place for entry in allowed_hosts if (place := _place(entry))}

    async def __call__(self, connection: HTTPConnection) -> None:
        method = str(connection.scope.get("method", "WEBSOCKET"))
        needed = ROUTES[method.replace("HEAD", "GET"), connection.scope["route"].path]
        if needed > Role.ANYBODY:
            self.refuse_unless(connection, needed)

    def refuse_unless(self, connection: HTTPConnection, needed: Role) -> None:
        """Raises Problem (401, 403)."""
        if self._roles is None:
            self._refuse_foreign(connection)
            return
        role = self.role_of(_authorization(connection))
        if role is None:
            raise Problem(
                UNAUTHENTICATED,
                "send a key as Authorization: Bearer KEY",
                headers={"WWW-Authenticate": 'Bearer realm="sightlog"'},
            )
        if role < needed:
            raise Problem(FORBIDDEN, f"this needs the role {needed.name.lower()}")

    def role_of(self, authorization: str | None) -> Role | None:
        """None: nobody we know. Compares hashes, in constant time."""
        if self._roles is None:
            return Role.ADMIN
        scheme, _, key = (authorization or "").partition(" ")
        if scheme.lower() != "bearer":
            return None
        given = _hash(key.strip())
        found = None
        for known, role in self._roles.items():
            if hmac.compare_digest(known, given):
                found = role
        return found

    def _refuse_foreign(self, connection: HTTPConnection) -> None:
        scheme = connection.scope["scheme"].replace("ws", "http")
        asked = _place(f"{scheme}://{connection.headers.get('host', '')}")
        if asked is None or asked.host not in self._hosts:
            raise Problem(FOREIGN_HOST, "the Host of the request is not in GATEWAY_ALLOWED_HOSTS")
        origin = connection.headers.get("origin")
        if origin is not None and _place(origin) not in {asked, *self._origins}:
            raise Problem(FOREIGN_HOST, "the Origin of the request is not this gateway")


def refuse_unlisted(routes: Collection[BaseRoute], table: Mapping[tuple[str, str], Any]) -> None:
    """Raises UnlistedRoute for the first route of an app that is not in the table."""
    for route in iter_route_contexts(list(routes)):
        for method in (route.methods or {"WEBSOCKET"}) - {"HEAD"}:
            if (method, route.path) not in table:
                raise UnlistedRoute(f"{method} {route.path}")


def _authorization(connection: HTTPConnection) -> str | None:
    """A browser can't set a header on a WebSocket: there the key may come in the query."""
    token = connection.query_params.get("access_token")
    if connection.scope["type"] == "websocket" and token is not None:
        return f"Bearer {token}"
    return connection.headers.get("authorization")


def _hash(key: str) -> bytes:
    return sha256(key.encode(errors="surrogatepass")).digest()


class _Place(NamedTuple):
    """An origin, with its port also where the scheme's own is meant."""

    scheme: str
    host: str
    port: int | None


def _place(url: str) -> _Place | None:
    try:
        parts = urlsplit(url)
        port = parts.port or DEFAULT_PORTS.get(parts.scheme)
    except ValueError:
        return None
    return _Place(parts.scheme, parts.hostname, port) if parts.hostname else None
