"""What goes wrong, as RFC 9457 says it: `application/problem+json`, never a path or a trace."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi.responses import JSONResponse

TYPES = "https://sightlog.dev/problems/"
"""The slug behind it is what clients may rely on."""


def problem(
    status: HTTPStatus,
    slug: str,
    detail: str,
    instance: str,
    errors: Sequence[Mapping[str, Any]] = (),
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """`instance` is the path asked for; `errors` name the parameters that are wrong."""
    content: dict[str, Any] = {
        "type": TYPES + slug,
        "title": slug.replace("-", " ").capitalize(),
        "status": status.value,
        "detail": detail,
        "instance": instance,
    }
    if errors:
        content["errors"] = list(errors)
    media_type = "application/problem+json"
    return JSONResponse(content, status.value, headers=headers, media_type=media_type)
