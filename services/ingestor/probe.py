"""A look at a source that nobody has saved: a camera's process, until its first picture.

It is started and ended like any stream's, and told as much; but it is no stream: nothing of it is
published, and it has no part in the books or in the capacity.
"""

import threading
import time
from asyncio import wrap_future
from base64 import b64encode
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import structlog
from msgspec import to_builtins

from schemas.messages import Reason, SourceFacts, StreamSpec, now
from services.ingestor import children, link, metrics, statuses
from services.ingestor.cameras import Camera
from services.ingestor.children import Child
from services.ingestor.serve import Asked, Refused
from services.ingestor.unseal import SealBroken
from services.process.redact import redact

log = structlog.get_logger()

MOST_AT_ONCE = 4  # of one ingestor; each costs as much as a camera while it lasts
LONGEST_S = 9.0  # a camera's own time-outs are shorter, and tell more
WIDTH = 640  # of the thumbnail, at most
FPS = 1.0  # the first picture is taken whatever it says
LOOK_EVERY_S = 0.02
END_S = 3.0  # for all of them to end, when the ingestor does
# No process (too many files; a fork server that is gone says less than expected), or no thread.
NOT_STARTED = (OSError, EOFError, RuntimeError)

Order = Callable[[StreamSpec], link.Order]  # raises SealBroken


@dataclass(frozen=True)
class Found:
    """What was seen, or why nothing: as a stream's status would say it."""

    source: SourceFacts | None = None
    jpeg: bytes = b""
    reason: Reason | None = None
    message: str | None = None
    hint: str | None = None


class Probe:
    """One look. Its thread starts the camera's process and does not end before that one."""

    def __init__(
        self, spec: StreamSpec, within_s: float, start: Callable[[], Child], order: Order
    ) -> None:
        self._spec = spec
        self._order = order
        self._start = start
        self._until_s = time.monotonic() + min(within_s, LONGEST_S)
        self._has_shot = threading.Event()
        self._has_left = threading.Event()
        self._jpeg = b""
        self._found: Future[Found] = Future()
        self._found.set_running_or_notify_cancel()  # no more can it be cancelled
        self.thread = threading.Thread(target=self._look, name="probe", daemon=True)
        self.thread.start()

    async def answer(self) -> dict[str, Any]:
        """As it goes over HTTP."""
        found = await wrap_future(self._found)
        metrics.PROBES.labels(found.reason or "OK").inc()
        return {
            "source": found.source and to_builtins(found.source),
            "jpeg": b64encode(found.jpeg).decode(),
            "reason": found.reason,
            "message": found.message,
            "hint": found.hint,
        }

    def leave(self) -> None:
        """Nobody wants to know any more."""
        self._has_left.set()

    def _look(self) -> None:
        try:
            camera = self._begin(self._order(self._spec))
        except SealBroken as error:
            self._found.set_result(refused(Reason.AUTH_FAILED, str(error)))
            return
        except NOT_STARTED as error:
            log.warning("probe.not_started", error=type(error).__name__)
            self._found.set_result(refused(Reason.DECODER_CRASHED))
            return
        try:
            self._wait(camera)
            self._found.set_result(self._judged(camera))
        finally:
            self._end(camera)

    def _begin(self, order: link.Order) -> Camera:
        child = self._start()
        try:
            return Camera(child, order, self._take)
        except NOT_STARTED:
            child.kill()
            children.end([child])
            child.link.close()
            raise

    def _take(self, shot: link.Shot | link.Counted, jpeg: bytes) -> None:
        """In the camera's reader."""
        if isinstance(shot, link.Shot) and not self._has_shot.is_set():
            self._jpeg = jpeg
            self._has_shot.set()

    def _wait(self, camera: Camera) -> None:
        while not (self._has_shot.wait(LOOK_EVERY_S) or camera.last_word or camera.is_over):
            if self._has_left.is_set() or time.monotonic() > self._until_s:
                return

    def _judged(self, camera: Camera) -> Found:
        if self._has_shot.is_set() and camera.opened is not None:
            return Found(source=camera.opened.source, jpeg=self._jpeg)
        if isinstance(camera.last_word, link.Failed):
            return refused(camera.last_word.reason, camera.last_word.detail)
        if isinstance(camera.last_word, link.Ended):
            return refused(Reason.NO_VIDEO)
        if camera.is_over:
            return refused(Reason.DECODER_CRASHED)
        return refused(Reason.TIMEOUT, "no picture in time")

    def _end(self, camera: Camera) -> None:
        """A camera that has shown itself may say good-bye to its own; any other had its time."""
        if self._has_shot.is_set():
            camera.stop()
        else:
            camera.child.kill()
        children.end([camera.child])
        camera.close()


def refused(reason: Reason, detail: str | None = None) -> Found:
    once = statuses.Attempt(1, now(), 0.0)
    before = statuses.starting(now())
    state = statuses.failed(before, reason, detail and redact(detail), once)
    return Found(reason=reason, message=state.message, hint=state.hint)


class Probes:
    """Those under way; begun by the server's event loop."""

    def __init__(self, start: Callable[[], Child], order: Order) -> None:
        self._start = start
        self._order = order
        self._running: list[Probe] = []
        self._is_closed = False

    def begin(self, probe_id: str, asked: Asked) -> Probe:
        """Raises Refused."""
        self._running = [probe for probe in self._running if probe.thread.is_alive()]
        if self._is_closed:
            raise Refused(HTTPStatus.SERVICE_UNAVAILABLE, "stopping", "This ingestor stops")
        if len(self._running) >= MOST_AT_ONCE:
            raise Refused(
                HTTPStatus.TOO_MANY_REQUESTS, "too-many-probes", "Too many probes are under way"
            )
        spec = StreamSpec(
            stream_id=probe_id,
            slot=0,
            generation=1,
            running=True,
            name="probe",
            url=asked.url,
            sealed_credentials=asked.sealed_credentials,
            fps=FPS,
            frame_width=WIDTH,
            verify_tls=asked.verify_tls,
        )
        probe = Probe(spec, asked.within_s, self._start, self._order)
        self._running.append(probe)
        return probe

    def close(self) -> None:
        """When it returns, their processes have ended."""
        self._is_closed = True
        running, until_s = list(self._running), time.monotonic() + END_S
        for probe in running:
            probe.leave()
        for probe in running:
            probe.thread.join(max(0.0, until_s - time.monotonic()))
