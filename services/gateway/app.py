"""The routes, in front of them who may use them, and behind them one shape for every error."""

from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any

from fastapi import APIRouter, Depends, FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response

from services.gateway.access import ROUTES, Access, Role, refuse_unlisted
from services.gateway.database import DatabaseAway
from services.gateway.metrics import Counted
from services.gateway.owners import OwnerAway, TooManyViews
from services.gateway.pages import ForeignCursor
from services.gateway.parts import Parts
from services.gateway.probes import NoIngestor, TooManyProbes
from services.gateway.problems import (
    AWAY,
    BUG,
    CHANGED_MEANWHILE,
    FORBIDDEN,
    INVALID,
    NOT_ALLOWED,
    TOO_LARGE,
    TOO_MANY,
    UNAUTHENTICATED,
    Problem,
    ProblemAnswer,
    answer_with_problems,
    away,
    documented,
    invalid,
    not_found,
    response_of,
)
from services.gateway.routes import detections, ledger, pictures, probe, service, streams
from services.gateway.routes.guard import refuse_unguarded
from services.gateway.seal import NoSealingKey
from services.gateway.snapshots import NoSuchName, StoreAway
from services.gateway.streams import ChangedMeanwhile, NoSuchStream

VERSION = "0.1.0"

PROBLEMS: dict[type[Exception], Callable[[], Problem]] = {
    DatabaseAway: lambda: away("the database"),
    StoreAway: lambda: away("the store of pictures"),
    OwnerAway: lambda: away("the ingestor that has the camera"),
    TooManyViews: lambda: Problem(
        TOO_MANY, "as many live views as one gateway serves", headers={"Retry-After": "5"}
    ),
    NoIngestor: lambda: Problem(
        AWAY, "no ingestor answers: is one running?", headers={"Retry-After": "5"}
    ),
    TooManyProbes: lambda: Problem(
        TOO_MANY, "as many probes as the ingestors take", headers={"Retry-After": "5"}
    ),
    NoSuchStream: lambda: not_found("stream"),
    NoSuchName: lambda: not_found("picture"),
    ChangedMeanwhile: lambda: Problem(CHANGED_MEANWHILE, "read it again and look at its ETag"),
    ForeignCursor: lambda: invalid("?cursor", "expected that of a rel=next link, same query"),
    NoSealingKey: lambda: invalid(
        "/password", "this gateway has no SIGHTLOG_SEAL_PUBLIC_KEY and stores nothing unsealed"
    ),
}
"""What steps raise, as clients are told."""


def create_app(parts: Parts, access: Access, more: Iterable[APIRouter] = ()) -> FastAPI:
    """`more`: the realtime half's routers. Raises UnlistedRoute, UnguardedRoute."""
    app = FastAPI(
        title="Sightlog",
        version=VERSION,
        dependencies=[Depends(access)],
        responses=documented(UNAUTHENTICATED, FORBIDDEN, TOO_LARGE, INVALID, BUG, AWAY),
        openapi_url=None,  # these routes are ours: every one stands in the table of access
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        telemetry={"tracing": False},
    )
    app.state.parts, app.state.access = parts, access
    ours = (streams, probe, ledger, pictures, detections, service)
    for router in (*(routes.router for routes in ours), *more):
        app.include_router(router)
    refuse_unlisted(app.routes, ROUTES)
    refuse_unguarded(app.routes)
    answer_with_problems(app)
    for error, problem in PROBLEMS.items():
        app.add_exception_handler(error, _told(problem))
    app.add_exception_handler(HTTPStatus.METHOD_NOT_ALLOWED, _not_allowed)
    app.add_middleware(Counted)
    app.openapi = lambda: _described(app)  # type: ignore[method-assign]  # as FastAPI documents it
    return app


async def _not_allowed(request: Request, _: Exception) -> Response:
    """The framework knows only the methods of the first route with this path."""
    path = request.scope["route"].path
    allowed = sorted(method for method, known in ROUTES if known == path and method != "WEBSOCKET")
    problem = Problem(
        NOT_ALLOWED, "there is no such method here", headers={"Allow": ", ".join(allowed)}
    )
    return response_of(request, problem)


def _told(
    problem: Callable[[], Problem],
) -> Callable[[HTTPConnection, Exception], Any]:
    async def answer(connection: HTTPConnection, _: Exception) -> Response:
        return response_of(connection, problem())

    return answer


def _described(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is None:
        described = get_openapi(title=app.title, version=app.version, routes=app.routes)
        components = described.setdefault("components", {})
        schema = ProblemAnswer.model_json_schema(ref_template="#/components/schemas/{model}")
        components.setdefault("schemas", {}).update(schema.pop("$defs", {}), ProblemAnswer=schema)
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        for path, methods in described["paths"].items():
            for method, route in methods.items():
                is_open = ROUTES[method.upper(), path] is Role.ANYBODY
                route["security"] = [] if is_open else [{"key": []}]
        app.openapi_schema = described
    return app.openapi_schema
