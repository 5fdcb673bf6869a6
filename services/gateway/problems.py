"""What REST answers when it can't do what was asked: RFC 9457, one shape for every error.

The titles and the slugs are stable; what is said in `detail` is for a person. Never in it: a stack
trace, a path of this machine, a secret, or the value that was refused.
"""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import msgspec
import structlog
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.websockets import WebSocket

from services.process.redact import GONE, redact

log = structlog.get_logger()

MEDIA_TYPE = "application/problem+json"
TYPES = "https://sightlog.dev/problems/"
LONGEST_ECHO = 200  # characters of what a client sent that go back to it
LONGEST_READ = 1000  # of which more does not go back at all
MOST_ERRORS = 100


class Kind(msgspec.Struct, frozen=True):
    slug: str
    status: HTTPStatus
    title: str


MALFORMED_JSON = Kind("malformed-json", HTTPStatus.BAD_REQUEST, "The body is not JSON")
UNAUTHENTICATED = Kind("unauthenticated", HTTPStatus.UNAUTHORIZED, "A key is needed")
FORBIDDEN = Kind("forbidden", HTTPStatus.FORBIDDEN, "The key does not allow this")
FOREIGN_HOST = Kind("foreign-host", HTTPStatus.FORBIDDEN, "The request is from elsewhere")
NOT_FOUND = Kind("not-found", HTTPStatus.NOT_FOUND, "Not found")
NO_PICTURE = Kind("no-picture", HTTPStatus.NOT_FOUND, "There is no picture")
NOT_ALLOWED = Kind("method-not-allowed", HTTPStatus.METHOD_NOT_ALLOWED, "No such method here")
CHANGED_MEANWHILE = Kind(
    "changed-meanwhile", HTTPStatus.PRECONDITION_FAILED, "The stream was changed meanwhile"
)
NOT_JSON = Kind("not-json", HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "The body must be JSON")
INVALID = Kind("invalid", HTTPStatus.UNPROCESSABLE_ENTITY, "The request is not valid")
TOO_LARGE = Kind("too-large", HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "The body is too large")
TOO_MANY = Kind("too-many", HTTPStatus.TOO_MANY_REQUESTS, "Too many at once")
BUG = Kind("internal", HTTPStatus.INTERNAL_SERVER_ERROR, "Something went wrong here")
AWAY = Kind("unavailable", HTTPStatus.SERVICE_UNAVAILABLE, "Something needed is away")


class FieldError(BaseModel):
    """`pointer`: a JSON pointer into the body, or the query parameter as `?name`."""

    pointer: str
    message: str


class ProblemAnswer(BaseModel):
    """RFC 9457; `errors` comes with 422."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    errors: list[FieldError] | None = None


class Problem(Exception):
    """Raised anywhere below a route, answered as `application/problem+json`."""

    def __init__(
        self,
        kind: Kind,
        detail: str,
        *,
        errors: Sequence[FieldError] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail
        self.errors = errors
        self.headers = dict(headers or {})


def not_found(what: str) -> Problem:
    return Problem(NOT_FOUND, f"there is no such {what}")


def invalid(pointer: str, message: str) -> Problem:
    """One refused field; see FieldError for the form of `pointer`."""
    name = pointer.lstrip("/?")
    error = FieldError(pointer=pointer, message=message)
    return Problem(INVALID, f"{name}: {message}", errors=[error])


def away(what: str, retry_after_s: int = 1) -> Problem:
    return Problem(AWAY, f"{what} does not answer", headers={"Retry-After": str(retry_after_s)})


def documented(*kinds: Kind) -> dict[int | str, dict[str, Any]]:
    """For a route's `responses`: these may be answered."""
    titles: dict[int, list[str]] = {}
    for kind in kinds:
        titles.setdefault(kind.status.value, []).append(kind.title)
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemAnswer"}}}
    return {
        status: {"description": "; or: ".join(names), "content": content}
        for status, names in titles.items()
    }


def answer_with_problems(app: FastAPI) -> None:
    """Every error of this app leaves as a problem."""
    app.add_exception_handler(Problem, _problem)  # type: ignore[arg-type]  # for both kinds
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _validation)
    app.add_exception_handler(Exception, _bug)


async def _problem(connection: HTTPConnection, error: Exception) -> Response | None:
    assert isinstance(error, Problem)  # noqa: S101 -- as registered above
    response = response_of(connection, error)
    if isinstance(connection, WebSocket):
        await connection.send_denial_response(response)
        return None
    return response


def response_of(connection: HTTPConnection, problem: Problem) -> Response:
    kind = problem.kind
    answer: dict[str, Any] = {
        "type": TYPES + kind.slug,
        "title": kind.title,
        "status": kind.status.value,
        "detail": _echo(problem.detail, LONGEST_READ),
        "instance": _echo(connection.url.path),
    }
    if problem.errors:
        answer["errors"] = [
            {"pointer": _echo(error.pointer), "message": _echo(error.message)}
            for error in problem.errors[:MOST_ERRORS]
        ]
    return Response(
        msgspec.json.encode(answer), kind.status, headers=problem.headers, media_type=MEDIA_TYPE
    )


def _echo(text: str, longest: int = LONGEST_ECHO) -> str:
    """Without its secrets. Too long to look for them: nothing of it, since where one was cut in
    half neither half would be known for what it is."""
    return redact(text)[:longest] if len(text) <= LONGEST_READ else GONE


async def _http(connection: HTTPConnection, error: Exception) -> Response:
    """What the framework itself refuses: an unknown path, a wrong method, too large a body."""
    assert isinstance(error, HTTPException)  # noqa: S101 -- as registered above
    kind = _FRAMEWORKS.get(error.status_code) or _kind_of(HTTPStatus(error.status_code))
    detail = _DETAILS.get(kind.status) or kind.status.description or kind.title
    return response_of(connection, Problem(kind, detail, headers=error.headers))


_DETAILS = {
    HTTPStatus.BAD_REQUEST: "the body can't be read as JSON",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "a body has at most 64 KiB",
}
_FRAMEWORKS = {kind.status.value: kind for kind in (MALFORMED_JSON, NOT_FOUND, TOO_LARGE)}


def _kind_of(status: HTTPStatus) -> Kind:
    return Kind(status.phrase.lower().replace(" ", "-"), status, status.phrase)


async def _validation(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 -- as registered above
    found = error.errors()
    if found[0]["type"] == "json_invalid":
        position = found[0]["loc"][-1]
        return response_of(request, Problem(MALFORMED_JSON, f"not JSON at character {position}"))
    errors = [
        FieldError(pointer=_pointer(one["loc"]), message=_message(one))
        for one in found[:MOST_ERRORS]
    ]
    detail = f"{_echo(errors[0].pointer).lstrip('/?') or 'body'}: {errors[0].message}"
    return response_of(request, Problem(INVALID, detail, errors=errors))


def _pointer(location: Sequence[int | str]) -> str:
    place, *steps = location
    if place != "body":
        return "?" + ".".join(map(str, steps))
    escaped = (str(step).replace("~", "~0").replace("/", "~1") for step in steps)
    return "".join(f"/{step}" for step in escaped)


_MESSAGES = {
    "missing": "is required",
    "extra_forbidden": "is not a field of this",
    "model_attributes_type": "expected a JSON object",
    "timezone_aware": "expected a time with its offset, as 2026-01-31T12:00:00Z",
    "timezone_naive": "expected a time with its offset, as 2026-01-31T12:00:00Z",
}


def _message(error: Mapping[str, Any]) -> str:
    """Pydantic's words, which never hold the value, without its prefix for our own."""
    message: str = _MESSAGES.get(error["type"], error["msg"]).removeprefix("Value error, ")
    return message.replace("Input should be", "expected")[:LONGEST_ECHO]


async def _bug(request: Request, error: Exception) -> Response:
    """The server logs the exception; the client learns only that there was one."""
    return response_of(request, Problem(BUG, "the request failed; the log says why"))
