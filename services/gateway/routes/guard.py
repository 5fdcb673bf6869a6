"""A route that takes a body: who asks is known before a byte of it is read, and no more is read
than a body may have. A dependency comes too late for both, the framework's own limit too early."""

from collections.abc import Callable, Collection, Coroutine
from typing import Any

from fastapi.routing import APIRoute, iter_route_contexts
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute
from typing_extensions import override

from services.gateway.strict import bounded, refuse_large


class UnguardedRoute(Exception):
    """A route with a body that is not Guarded."""


class Guarded(APIRoute):
    @override
    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        answer = super().get_route_handler()

        async def guarded(request: Request) -> Response:
            await request.app.state.access(request)
            refuse_large(request)
            return await answer(Request(request.scope, bounded(request.receive)))

        return guarded


def refuse_unguarded(routes: Collection[BaseRoute]) -> None:
    """Raises UnguardedRoute."""
    for route in iter_route_contexts(list(routes)):
        original = route.original_route
        if getattr(original, "body_field", None) and not isinstance(original, Guarded):
            raise UnguardedRoute(route.path)
