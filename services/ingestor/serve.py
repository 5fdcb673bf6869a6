"""Health and metrics for everyone; pictures for gateways, which prove that they are ours."""

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from http import HTTPStatus
from typing import Any, Protocol

import uvicorn
from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.types import Receive, Scope, Send
from typing_extensions import override

from schemas.messages import from_unix_us, wire_time
from services.process.token import is_ours

PROBLEMS = "https://sightlog.dev/problems/"
BOUNDARY = "frame"
MOST_VIEWERS = 32  # of one ingestor, at the same time
SILENCE_S = 20.0  # a live view ends when no frame came for so long
UNREAD_S = 10.0  # or when its viewer took none
GRACE_S = 1  # for requests that are being answered when the process stops

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


class Refused(Exception):
    """Answered as problem+json."""

    def __init__(
        self, status: HTTPStatus, slug: str, detail: str, reason: str | None = None
    ) -> None:
        super().__init__(detail)
        self.status, self.slug, self.detail, self.reason = status, slug, detail, reason


def create_app(
    readiness: Readiness, pictures: Pictures, key: str | None, stopping: threading.Event
) -> FastAPI:
    """`key` signs the tokens of gateways; without one, no picture is given out."""
    app = FastAPI(openapi_url=None)
    viewers = Viewers(pictures, stopping)
    # A plain dependency, not an annotated name: `key` is this installation's.
    only_ours = [Depends(_gate(key))]

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

    @app.get("/internal/streams/{stream_id}/frame", dependencies=only_ours)
    async def frame(stream_id: str, request: Request) -> Response:
        still = _newest(pictures, stream_id)
        etag = f'"{still.captured_at_us}"'
        if request.headers.get("if-none-match") == etag:
            return Response(status_code=HTTPStatus.NOT_MODIFIED, headers={"ETag": etag})
        headers = _facts(still) | {"ETag": etag, "Cache-Control": "no-store"}
        return Response(still.jpeg, media_type="image/jpeg", headers=headers)

    @app.get("/internal/streams/{stream_id}/live", dependencies=only_ours)
    async def live(stream_id: str) -> Response:
        return LiveView(viewers, stream_id, _newest(pictures, stream_id))

    return app


def _gate(key: str | None) -> Callable[[str, Request], None]:
    def prove(stream_id: str, request: Request) -> None:
        if key is None:
            raise Refused(
                HTTPStatus.SERVICE_UNAVAILABLE, "no-internal-key", "Set SIGHTLOG_INTERNAL_KEY"
            )
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not is_ours(key, stream_id, token):
            raise Refused(HTTPStatus.UNAUTHORIZED, "unauthorized", "A valid token is needed")

    return prove


def _newest(pictures: Pictures, stream_id: str) -> Still:
    still = pictures.newest(stream_id)
    if isinstance(still, str):
        raise Refused(HTTPStatus.NOT_FOUND, "no-frame", "There is no frame to show", still)
    return still


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
    headers = {"Retry-After": "5"} if error.status is HTTPStatus.SERVICE_UNAVAILABLE else None
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
            showing = asyncio.create_task(self._show(send))
            leaving = asyncio.create_task(_left(receive))
            await asyncio.wait((showing, leaving), return_when=asyncio.FIRST_COMPLETED)
            for task in (showing, leaving):
                task.cancel()
            await asyncio.gather(showing, leaving, return_exceptions=True)

    async def _show(self, send: Send) -> None:
        await send(
            {
                "type": "http.response.start",
                "status": HTTPStatus.OK.value,
                "headers": self.raw_headers,
            }
        )
        async with aclosing(self._viewers.frames(self._stream_id, self._first)) as stills:
            async for still in stills:
                async with asyncio.timeout(UNREAD_S):
                    await send(
                        {"type": "http.response.body", "body": _part(still), "more_body": True}
                    )
        await send({"type": "http.response.body", "body": b"", "more_body": False})


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
