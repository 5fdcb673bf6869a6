"""Refuses what a route would silently ignore, and what is too large to be read at all."""

from collections.abc import Iterator

from fastapi.dependencies.models import Dependant
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from services.gateway.problems import (
    INVALID,
    NOT_JSON,
    TOO_LARGE,
    FieldError,
    Problem,
    response_of,
)

LARGEST_BODY = 64 * 1024
LONGEST_NAME = 50


async def strict(request: Request) -> None:
    """A dependency: unknown and repeated query parameters, and a body that is not JSON."""
    known = set(_parameters(request.scope["route"].dependant))
    _refuse_unknown(request, known)
    if _has_body(request) and not _is_json(request):
        raise Problem(NOT_JSON, "send the body as Content-Type: application/json")


def _parameters(dependant: Dependant) -> Iterator[str]:
    yield from (field.alias for field in dependant.query_params)
    for dependency in dependant.dependencies:
        yield from _parameters(dependency)


def _refuse_unknown(request: Request, known: set[str]) -> None:
    names = [name for name, _ in request.query_params.multi_items()]
    errors = [
        FieldError(pointer=f"?{name[:LONGEST_NAME]}", message="is not a parameter of this")
        for name in dict.fromkeys(names)
        if name not in known
    ] + [
        FieldError(pointer=f"?{name}", message="is given more than once")
        for name in known
        if names.count(name) > 1
    ]
    if errors:
        detail = f"{errors[0].pointer[1:]}: {errors[0].message}"
        raise Problem(INVALID, detail, errors=errors[:100])


def _has_body(request: Request) -> bool:
    return (
        request.headers.get("content-length", "0") != "0" or "transfer-encoding" in request.headers
    )


def _is_json(request: Request) -> bool:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    return kind == "application/json"


class BodyLimit:
    """ASGI middleware: who says that it will send too much is refused before it does. A body that
    does not say its length is cut off by the framework, at the same limit."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            length = Headers(scope=scope).get("content-length", "0")
            if not length.isdecimal() or int(length[:20]) > LARGEST_BODY:
                problem = Problem(TOO_LARGE, "a body has at most 64 KiB")
                await response_of(Request(scope), problem)(scope, receive, send)
                return
        await self._app(scope, receive, send)
