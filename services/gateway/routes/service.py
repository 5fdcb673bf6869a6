"""Health, metrics and documentation."""

from html import escape
from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse

from services.gateway.parts import PartsOf

router = APIRouter(tags=["service"])


class LiveAnswer(BaseModel):
    status: Literal["ok"]


class ReadyAnswer(BaseModel):
    """`topics`: whether they have been read to where they ended when this gateway began."""

    status: Literal["ok", "unavailable"]
    database: bool
    topics: bool


@router.get("/health/live")
async def live() -> LiveAnswer:
    return LiveAnswer(status="ok")


@router.get("/health/ready", responses={503: {"model": ReadyAnswer}})
async def ready(parts: PartsOf, response: Response) -> ReadyAnswer:
    """Ready for good once the database has answered: without it the live half goes on, and the
    rest answers 503 by itself."""
    database, topics = await parts.database.ping(), parts.observed.ready
    is_ready = topics and parts.database.answered
    response.status_code = 200 if is_ready else 503
    return ReadyAnswer(status="ok" if is_ready else "unavailable", database=database, topics=topics)


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics() -> Response:
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)


@router.get("/openapi.json", include_in_schema=False)
async def openapi(request: Request) -> JSONResponse:
    return JSONResponse(request.app.openapi())


@router.get("/docs", include_in_schema=False)
async def docs(request: Request) -> HTMLResponse:
    """Made here: a page from elsewhere could read the key that is used on it."""
    return HTMLResponse(_page(request.app.openapi()))


def _page(described: dict[str, Any]) -> str:
    routes = "".join(
        _route(method, path, route)
        for path, methods in described["paths"].items()
        for method, route in methods.items()
    )
    title = escape(described["info"]["title"])
    return _FRAME.format(title=title, routes=routes)


def _route(method: str, path: str, route: dict[str, Any]) -> str:
    parameters = "".join(
        f"<li><code>{escape(one['name'])}</code> ({escape(one['in'])}) "
        f"{escape(one.get('description', ''))}</li>"
        for one in route.get("parameters", [])
    )
    answers = ", ".join(
        f"{status} {escape(answer['description'])}" for status, answer in route["responses"].items()
    )
    return (
        f"<details><summary><code>{method.upper()} {escape(path)}</code> "
        f"{escape(route.get('summary', ''))}</summary><p>{escape(route.get('description', ''))}</p>"
        f"<ul>{parameters}</ul><p>{answers}</p></details>"
    )


_FRAME = """<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>body{{font:16px/1.5 system-ui;max-width:60rem;margin:2rem auto;padding:0 1rem}}
summary{{cursor:pointer}}</style><h1>{title}</h1>
<p>The whole description, for machines: <a href="/openapi.json">openapi.json</a></p>
{routes}</html>"""
