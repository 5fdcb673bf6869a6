"""`/health/live`, `/health/ready` and `/metrics` of a process that serves nothing else."""

import json
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from typing_extensions import override

Readiness = Callable[[], tuple[bool, dict[str, Any]]]
"""Whether the process can do its work now, and the JSON object that says more."""


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _QuietHandler(WSGIRequestHandler):
    timeout = 5

    @override
    def log_message(self, format: str, *args: Any) -> None:
        """Health checks are not news."""


def health_app(readiness: Readiness) -> WSGIApplication:
    def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        status, content_type, body = _reply(environ.get("PATH_INFO", ""), readiness)
        start_response(f"{status.value} {status.phrase}", [("Content-Type", content_type)])
        return [body]

    return answer


def _reply(path: str, readiness: Readiness) -> tuple[HTTPStatus, str, bytes]:
    if path == "/metrics":
        return HTTPStatus.OK, CONTENT_TYPE_LATEST, generate_latest()
    if path == "/health/live":
        return HTTPStatus.OK, "application/json", b'{"status":"ok"}'
    if path == "/health/ready":
        ready, more = readiness()
        status = HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE
        body = {"status": "ok" if ready else "unavailable"} | more
        return status, "application/json", json.dumps(body).encode()
    return HTTPStatus.NOT_FOUND, "application/json", b'{"status":"not found"}'


@contextmanager
def serving_health(host: str, port: int, readiness: Readiness) -> Iterator[int]:
    """Answers in a thread while the block runs; yields the port (of use where 0 was asked for)."""
    server = make_server(host, port, health_app(readiness), _Server, _QuietHandler)
    thread = threading.Thread(target=server.serve_forever, name="health", daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
