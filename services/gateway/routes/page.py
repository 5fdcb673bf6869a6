"""The first page, at `/`: every stream's live picture with what is seen in it.

Plain files without a build step; they are read once and served from memory, so that no request
names a path of this machine.
"""

from collections.abc import Mapping
from hashlib import sha256
from importlib.resources import files

from fastapi import APIRouter, Request, Response
from msgspec import Struct

from services.gateway.problems import not_found

TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # kept, but asked about each time
}


class File(Struct, frozen=True):
    content: bytes
    media_type: str
    etag: str


def page() -> APIRouter:
    router = APIRouter(include_in_schema=False)
    kept = _read()

    @router.get("/")
    async def show_page(request: Request) -> Response:
        return _answer(kept, "index.html", request)

    @router.get("/page/{path:path}")
    async def show_file(path: str, request: Request) -> Response:
        return _answer(kept, path, request)

    return router


def _read() -> dict[str, File]:
    found: dict[str, File] = {}
    for entry in files("services.gateway").joinpath("page").iterdir():
        media_type = TYPES.get(entry.name.rpartition(".")[2])
        if media_type is not None:
            content = entry.read_bytes()
            found[entry.name] = File(content, media_type, f'"{sha256(content).hexdigest()[:16]}"')
    return found


def _answer(kept: Mapping[str, File], name: str, request: Request) -> Response:
    file = kept.get(name)
    if file is None:
        raise not_found("file")
    headers = HEADERS | {"ETag": file.etag}
    if request.headers.get("if-none-match") == file.etag:
        return Response(status_code=304, headers=headers)
    return Response(file.content, media_type=file.media_type, headers=headers)
