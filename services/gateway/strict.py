"""Refuses what a route would silently ignore, and what is too large to be read at all."""

from collections.abc import Iterator

from fastapi.dependencies.models import Dependant
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import Message, Receive

from services.gateway.problems import (
    INVALID,
    NOT_JSON,
    TOO_LARGE,
    FieldError,
    Problem,
)

LARGEST_BODY = 64 * 1024


async def strict(request: Request) -> None:
    """A dependency: unknown and repeated query parameters, a body that is too large or not JSON."""
    known = set(_parameters(request.scope["route"].dependant))
    _refuse_unknown(request, known)
    refuse_large(request)
    if _has_body(request) and not _is_json(request):
        raise Problem(NOT_JSON, "send the body as Content-Type: application/json")


def _parameters(dependant: Dependant) -> Iterator[str]:
    yield from (field.alias for field in dependant.query_params)
    for dependency in dependant.dependencies:
        yield from _parameters(dependency)


def _refuse_unknown(request: Request, known: set[str]) -> None:
    names = [name for name, _ in request.query_params.multi_items()]
    errors = [
        FieldError(pointer=f"?{name}", message="is not a parameter of this")
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
    return _length(request) > 0 or "transfer-encoding" in request.headers


def refuse_large(request: Request) -> None:
    """Raises Problem where a request says so itself; `bounded` finds out about the others."""
    if _length(request) > LARGEST_BODY:
        raise Problem(TOO_LARGE, "a body has at most 64 KiB")


def bounded(receive: Receive) -> Receive:
    """Raises HTTPException (413): the only one that the framework lets through from here."""
    size = 0

    async def counted() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > LARGEST_BODY:
            raise HTTPException(TOO_LARGE.status)
        return message

    return counted


def _length(request: Request) -> int:
    said = request.headers.get("content-length", "0")
    return int(said[:20]) if said.isdecimal() else LARGEST_BODY + 1


def _is_json(request: Request) -> bool:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    return kind == "application/json"
