"""Streams for a stack that has just started, made as a user would make them: by REST."""

import json
import time
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPException
from typing import Any
from urllib.parse import urlsplit

from deploy.local.place import Described

BUNDLED_FILE = {"name": "bundled clip", "rtspUrl": "file:vtest_12s.mp4?loop=1"}
PATIENCE_S = 30.0
PAUSE_S = 0.5


class StreamsRefused(RuntimeError):
    """The gateway did not take a stream."""


def create_streams(stack: Described, fps: float | None) -> list[str]:
    """A running stream for each camera that needs no password, and one from the bundled file.

    A stream whose name is there already stays as it is. Returns the names made now.
    """
    cameras = [
        {"name": camera["name"], "rtspUrl": camera["url"]}
        for camera in stack["cameras"]
        if camera["username"] is None
    ]
    taken = set(stream_names(stack))
    wanted = [body for body in (*cameras, BUNDLED_FILE) if body["name"] not in taken]
    for body in wanted:
        chosen: dict[str, Any] = {"running": True} | ({} if fps is None else {"fps": fps})
        call(stack, "POST", "/streams", body | chosen)
    return [body["name"] for body in wanted]


def stream_names(stack: Described) -> Iterator[str]:
    path: str | None = "/streams?limit=1000"
    while path is not None:
        streams, path = call(stack, "GET", path)
        yield from (stream["name"] for stream in streams)


def call(
    stack: Described, method: str, path: str, body: dict[str, Any] | None = None
) -> tuple[Any, str | None]:
    """The answer, and the path of the next page if there is one. Waits while the gateway can't
    serve yet. Raises StreamsRefused."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        status, answer, link = exchange(stack, method, path, body)
        if status < 300:
            return json.loads(answer), next_page(link)
        if status not in (0, 429, 503) or time.monotonic() > deadline:
            raise StreamsRefused(f"{method} {path}: {status} {answer.decode(errors='replace')}")
        time.sleep(PAUSE_S)


def exchange(
    stack: Described, method: str, path: str, body: dict[str, Any] | None
) -> tuple[int, bytes, str]:
    """Status (0: nobody answered), content and `Link` header."""
    connection = HTTPConnection(urlsplit(stack["gatewayUrl"]).netloc, timeout=10)
    headers = {"Authorization": f"Bearer {stack['apiKey']}", "Content-Type": "application/json"}
    try:
        connection.request(method, path, json.dumps(body) if body else None, headers)
        response = connection.getresponse()
        return response.status, response.read(), response.headers.get("Link", "")
    except (OSError, HTTPException) as error:
        return 0, str(error).encode(), ""
    finally:
        connection.close()


def next_page(link: str) -> str | None:
    """The path in `<...>; rel="next"`."""
    for target, _, relation in (part.partition(";") for part in link.split(",")):
        if 'rel="next"' in relation:
            address = urlsplit(target.strip(" <>"))
            return f"{address.path}?{address.query}"
    return None
