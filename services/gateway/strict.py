"""Refuses what a route would silently ignore."""

from collections.abc import Iterator

from fastapi.dependencies.models import Dependant
from starlette.requests import Request

from services.gateway.problems import INVALID, NOT_JSON, FieldError, Problem

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
