"""Health, metrics and documentation."""

import json
import re
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
        _route(described, method, path, route)
        for path, methods in described["paths"].items()
        for method, route in methods.items()
    )
    title = escape(described["info"]["title"])
    return _FRAME.format(title=title, routes=routes)


def _route(described: dict[str, Any], method: str, path: str, route: dict[str, Any]) -> str:
    parameters = "".join(
        _field(described, f"{one['name']} ({one['in']})", one.get("schema", {}) | one)
        for one in route.get("parameters", [])
    )
    answers = "".join(
        f"<li>{status} {escape(answer['description'])}</li>"
        for status, answer in route["responses"].items()
    )
    good = next(iter(route["responses"].values()))
    return (
        f"<details><summary><code>{method.upper()} {escape(path)}</code> "
        f"{escape(route.get('summary', ''))}</summary><p>{_prose(route.get('description', ''))}</p>"
        f"<ul>{parameters}</ul>{_body('Body', described, route.get('requestBody', {}))}"
        f"{_body('Answer', described, good)}<p>Answers</p><ul>{answers}</ul></details>"
    )


def _body(title: str, described: dict[str, Any], said: dict[str, Any]) -> str:
    """The fields of a JSON object, or of the objects in an array; nothing for anything else."""
    whole = said.get("content", {}).get("application/json", {}).get("schema", {})
    schema = _resolved(described, whole)
    kind = "array of objects" if "items" in schema else "object"
    fields = _resolved(described, schema.get("items", schema)).get("properties", {})
    rows = "".join(_field(described, name, field) for name, field in fields.items())
    return f"<p>{title}: {kind}</p><ul>{rows}</ul>" if rows else ""


def _field(described: dict[str, Any], name: str, field: dict[str, Any]) -> str:
    said = [_resolved(described, one) for one in field.get("anyOf", [field])]
    kinds = " or ".join(str(one.get("type", "object")) for one in said)
    limits = [f"{key} {one[key]}" for one in said for key in _LIMITS if key in one]
    if "default" in field:
        limits.append(f"default {json.dumps(field['default'])}")
    prose = _prose(field.get("description") or said[0].get("description", ""))
    return f"<li><code>{escape(name)}</code> {escape(', '.join([kinds, *limits]))} {prose}</li>"


def _resolved(described: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    name = schema.get("$ref", "").rpartition("/")[2]
    found: dict[str, Any] = described["components"]["schemas"].get(name, schema)
    return found


def _prose(text: str) -> str:
    """Escaped, with what stands in backticks as code."""
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", escape(text))


_LIMITS = ("minimum", "maximum", "minLength", "maxLength", "pattern", "enum", "examples")
_FRAME = """<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>body{{font:16px/1.5 system-ui;max-width:60rem;margin:2rem auto;padding:0 1rem}}
summary{{cursor:pointer}}</style><h1>{title}</h1>
<p>The whole description, for machines: <a href="/openapi.json">openapi.json</a></p>
{routes}
<details><summary><code>WebSocket /ws</code>, also at <code>/</code></summary>
<p>Messages are <code>{{"event", "cursor", "data"}}</code>: first a <code>snapshot</code>, then
<code>stream:status</code>, <code>detection</code>, <code>stream:heartbeat</code>,
<code>event</code>, and <code>gap</code> where some were lost. Filters, in the query or in a message
<code>{{"action": "subscribe"}}</code>: <code>streams</code>, <code>events</code>,
<code>labels</code>, <code>minConfidence</code>, <code>empty</code>, <code>snapshot</code>, and
<code>cursor</code> to resume.</p>
</details></html>"""
