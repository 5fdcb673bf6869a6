"""Health and metrics for everyone; pictures and probes for gateways, which prove that they are
ours."""

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from http import HTTPStatus
from typing import Any, Protocol

import msgspec
import uvicorn
from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send
from typing_extensions import override

from schemas.messages import from_unix_us, wire_time
from services.process.token import is_ours

PROBLEMS = "https://sightlog.dev/problems/"
BOUNDARY = "frame"
MOST_VIEWERS = 32  # of one ingestor, at the same time
SILENCE_S = 20.0  # a live view ends when no frame came for so long
UNREAD_S = 10.0  # or when its viewer took none
LARGEST_BODY = 64 * 1024
GRACE_S = 1  # for requests that are being answered when the process stops

LATER = {HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS}

Readiness = Callable[[], tuple[bool, dict[str, Any]]]


class Still(Protocol):
    @property
    def jpeg(self) -> bytes: ...
    @property
    def captured_at_us(self) -> int: ...
    @property
    def frame_id(self) -> str | None: ...


class Pictures(Protocol):
    """Where frames are found; all but `after` may be called from any thread."""

    def newest(self, stream_id: str) -> Still | str:
        """The newest frame, or the reason why there is none."""

    async def after(self, stream_id: str, seen: object, timeout_s: float) -> Still | None: ...


class Asked(msgspec.Struct, frozen=True, rename="camel"):
    """Which source to look at, for how long at most."""

    url: str  # without userinfo
    within_s: float
    sealed_credentials: str | None = None
    verify_tls: bool = True


class Looking(Protocol):
    """A probe under way."""

    async def answer(self) -> dict[str, Any]: ...
    def leave(self) -> None:
        """Nobody waits for the answer any more. May be called after it, too."""


Look = Callable[[str, Asked], Looking]
"""Begins the probe of this id, for which the credentials were sealed. Raises Refused."""


class Refused(Exception):
    """Answered as problem+json."""

    def __init__(
        self, status: HTTPStatus, slug: str, detail: str, reason: str | None = None
    ) -> None:
        super().__init__(detail)
        self.status, self.slug, self.detail, self.reason = status, slug, detail, reason


def create_app(
    readiness: Readiness,
    pictures: Pictures,
    look: Look,
    key: str | None,
    stopping: threading.Event,
) -> FastAPI:
    """`key` signs the tokens of gateways; without one, no picture is given out."""
    app = FastAPI(openapi_url=None)

    @app.exception_handler(Refused)
    async def refuse(request: Request, error: Refused) -> Response:
        return _problem(request, error)

    @app.get("/health/live")
    async def live_health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/health/ready")
    def ready_health() -> Response:
        ready, more = readiness()
        status = HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE
        return JSONResponse({"status": "ok" if ready else "unavailable"} | more, status)

    @app.get("/metrics")
    def metrics() -> Response:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    # A plain dependency, not an annotated name: `key` is this installation's.
    only_ours = [Depends(_gate(key))]
    app.include_router(_shown(pictures, Viewers(pictures, stopping)), dependencies=only_ours)
    app.include_router(_looked_at(look), dependencies=only_ours)
    return app


def _shown(pictures: Pictures, viewers: "Viewers") -> APIRouter:
    router = APIRouter()

    @router.get("/internal/streams/{stream_id}/frame")
    async def frame(stream_id: str, request: Request) -> Response:
        still = _newest(pictures, stream_id)
        etag = f'"{still.captured_at_us}"'
        if request.headers.get("if-none-match") == etag:
            return Response(status_code=HTTPStatus.NOT_MODIFIED, headers={"ETag": etag})
        headers = _facts(still) | {"ETag": etag, "Cache-Control": "no-store"}
        return Response(still.jpeg, media_type="image/jpeg", headers=headers)

    @router.get("/internal/streams/{stream_id}/live")
    async def live(stream_id: str) -> Response:
        return LiveView(viewers, stream_id, _newest(pictures, stream_id))

    return router


def _looked_at(look: Look) -> APIRouter:
    router = APIRouter()

    @router.post("/internal/probes/{probe_id}")
    async def probe(probe_id: str, request: Request) -> Response:
        return ProbeAnswer(look(probe_id, await _asked(request)))

    return router


def _gate(key: str | None) -> Callable[[Request], Awaitable[None]]:
    async def prove(request: Request) -> None:
        """The token is for the one stream or probe that the path names. It
        waits for nothing, so it needs none of the pool's threads."""
        if key is None:
            raise Refused(
                HTTPStatus.SERVICE_UNAVAILABLE, "no-internal-key", "Set SIGHTLOG_INTERNAL_KEY"
            )
        (audience,) = request.path_params.values()
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not is_ours(key, audience, token):
            raise Refused(HTTPStatus.UNAUTHORIZED, "unauthorized", "A valid token is needed")

    return prove


def _newest(pictures: Pictures, stream_id: str) -> Still:
    still = pictures.newest(stream_id)
    if isinstance(still, str):
        raise Refused(HTTPStatus.NOT_FOUND, "no-frame", "There is no frame to show", still)
    return still


async def _asked(request: Request) -> Asked:
    body = b""
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > LARGEST_BODY:
                raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too-large", "Too much to read")
        return msgspec.json.decode(body, type=Asked)
    except (msgspec.DecodeError, UnicodeDecodeError, ClientDisconnect):
        raise Refused(HTTPStatus.BAD_REQUEST, "malformed", "It is no probe's body") from None


def _problem(request: Request, error: Refused) -> Response:
    content = {
        "type": PROBLEMS + error.slug,
        "title": error.slug.replace("-", " ").capitalize(),
        "status": error.status.value,
        "detail": error.detail,
        "instance": request.url.path,
    }
    if error.reason is not None:
        content["reason"] = error.reason
    headers = {"Retry-After": "5"} if error.status in LATER else None
    return JSONResponse(
        content, error.status, headers=headers, media_type="application/problem+json"
    )


def _facts(still: Still) -> dict[str, str]:
    facts = {"X-Captured-At": wire_time(from_unix_us(still.captured_at_us))}
    return facts if still.frame_id is None else facts | {"X-Frame-Id": still.frame_id}


class Viewers:
    """Who looks on, counted: each costs a copy of every frame."""

    def __init__(self, pictures: Pictures, stopping: threading.Event) -> None:
        self._pictures = pictures
        self._stopping = stopping
        self._count = 0

    @asynccontextmanager
    async def one(self) -> AsyncIterator[None]:
        if self._count >= MOST_VIEWERS:
            raise Refused(
                HTTPStatus.SERVICE_UNAVAILABLE, "too-many-viewers", "Too many live views are open"
            )
        self._count += 1
        try:
            yield
        finally:
            self._count -= 1

    async def frames(self, stream_id: str, first: Still) -> AsyncGenerator[Still, None]:
        """The newest each time it is asked for: who is slow misses some."""
        still: Still | None = first
        while still is not None and not self._stopping.is_set():
            yield still
            still = await self._pictures.after(stream_id, still, SILENCE_S)


class LiveView(Response):
    """multipart/x-mixed-replace. A viewer that stops reading is let go."""

    def __init__(self, viewers: Viewers, stream_id: str, first: Still) -> None:
        super().__init__(
            media_type=f"multipart/x-mixed-replace; boundary={BOUNDARY}",
            headers={"Cache-Control": "no-store"},
        )
        del self.headers["content-length"]
        self._viewers, self._stream_id, self._first = viewers, stream_id, first

    @override
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._viewers.one():
            await _until_left(self._show(send), receive)

    async def _show(self, send: Send) -> None:
        await _begin(self, send)
        async with aclosing(self._viewers.frames(self._stream_id, self._first)) as stills:
            async for still in stills:
                async with asyncio.timeout(UNREAD_S):
                    await send(
                        {"type": "http.response.body", "body": _part(still), "more_body": True}
                    )
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class ProbeAnswer(Response):
    """Its head goes out at once: who asks knows then that somebody is at it. A client that leaves
    ends the probe."""

    def __init__(self, looking: Looking) -> None:
        super().__init__(media_type="application/json", headers={"Cache-Control": "no-store"})
        del self.headers["content-length"]
        self._looking = looking

    @override
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await _until_left(self._tell(send), receive)
        finally:
            self._looking.leave()

    async def _tell(self, send: Send) -> None:
        await _begin(self, send)
        body = msgspec.json.encode(await self._looking.answer())
        await send({"type": "http.response.body", "body": body, "more_body": False})


async def _begin(response: Response, send: Send) -> None:
    status, headers = response.status_code, response.raw_headers
    await send({"type": "http.response.start", "status": status, "headers": headers})


async def _until_left(showing: Coroutine[Any, Any, None], receive: Receive) -> None:
    """Until it is over, or its client has gone."""
    tasks = asyncio.create_task(showing), asyncio.create_task(_left(receive))
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _part(still: Still) -> bytes:
    lines = [
        f"--{BOUNDARY}",
        "Content-Type: image/jpeg",
        f"Content-Length: {len(still.jpeg)}",
        *(f"{name}: {value}" for name, value in _facts(still).items()),
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + still.jpeg + b"\r\n"


@contextmanager
def serving(app: FastAPI, host: str, port: int) -> Iterator[None]:
    """Answers in a thread while the block runs. Raises OSError where the port is taken."""
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_config=None,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=GRACE_S,
        lifespan="off",
    )
    server = uvicorn.Server(config)
    listening = config.bind_socket()
    thread = threading.Thread(
        target=server.run, kwargs={"sockets": [listening]}, name="http", daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        server.should_exit = True
        thread.join(GRACE_S + 2)
        listening.close()
