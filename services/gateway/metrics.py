"""Requests counted and timed by route, never by stream."""

import time

from prometheus_client import Counter, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

REQUESTS = Counter(
    "sightlog_gateway_requests_total", "Requests answered", ["method", "route", "status"]
)
SECONDS = Histogram(
    "sightlog_gateway_request_seconds", "From a request to its answer's head", ["route"]
)
METHODS = {"GET", "POST", "PATCH", "DELETE", "PUT", "HEAD", "OPTIONS"}


class Counted:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = time.monotonic()

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                _count(scope, message["status"], time.monotonic() - begun)
            await send(message)

        await self._app(scope, receive, counted)


def _count(scope: Scope, status: int, seconds: float) -> None:
    """Only names that we gave become labels: a client can't make up new ones."""
    route = getattr(scope.get("route"), "path", "none")
    method = scope["method"] if scope["method"] in METHODS else "other"
    REQUESTS.labels(method, route, status).inc()
    SECONDS.labels(route).observe(seconds)
