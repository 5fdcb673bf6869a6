"""A frame -> what the AI service makes of it, by a deadline, or why it makes nothing of it."""

import asyncio
import time

import httpx
import structlog

from schemas.messages import Frame, Outcome
from services.detector import metrics
from services.detector.breaker import Breaker
from services.detector.infer import Refused, Unanswered, infer
from services.detector.jpeg import NotAJPEG, size_of
from services.detector.record import Finding, detections_of

log = structlog.get_logger()


class Looker:
    """Calls one AI service, and leaves it alone while it is down or asks for time."""

    def __init__(self, client: httpx.AsyncClient, timeout_s: float) -> None:
        self._client = client
        self._timeout_s = timeout_s
        self._breaker = Breaker()
        self._asked_to_wait_until = 0.0

    @property
    def wait_s(self) -> float:
        """How long frames had better wait for their turn, so that the newest is asked about."""
        return max(0.0, self._asked_to_wait_until - time.monotonic())

    async def look(self, frame: Frame, traceparent: str) -> Finding:
        if not self._breaker.allows(time.monotonic()):
            return Finding(Outcome.FAILED, "AI_DOWN")
        try:
            with metrics.INFER.time():
                async with asyncio.timeout(self._timeout_s):
                    answer = await infer(self._client, frame, traceparent)
        except Refused:
            self._heard()
            return Finding(Outcome.REJECTED, "AI_REFUSED")
        except TimeoutError:
            return self._failed(Unanswered("AI_TIMEOUT", is_down=True))
        except Unanswered as error:
            return self._failed(error)
        except asyncio.CancelledError:
            self._breaker.abandoned()
            raise
        self._heard()
        found = detections_of(frame, answer.found)
        return Finding(Outcome.OK, model=answer.model, detections=found)

    async def close(self) -> None:
        await self._client.aclose()

    def _heard(self) -> None:
        if self._breaker.is_open:
            log.info("ai.recovered")
        self._breaker.succeeded()
        metrics.BREAKER_OPEN.set(0)

    def _failed(self, error: Unanswered) -> Finding:
        if error.retry_after_s is not None:
            self._asked_to_wait_until = time.monotonic() + error.retry_after_s
        if not error.is_down:
            self._heard()
        else:
            was_open = self._breaker.is_open
            self._breaker.failed(time.monotonic())
            if self._breaker.is_open and not was_open:
                log.warning("ai.given_up", reason=error.reason)
                metrics.BREAKER_OPEN.set(1)
        return Finding(Outcome.FAILED, error.reason)


def unusable(frame: Frame) -> Finding | None:
    """Why no AI service need be asked about it; None: it looks like the JPEG it says it is."""
    try:
        size = size_of(frame.jpeg)
    except NotAJPEG:
        return Finding(Outcome.REJECTED, "NOT_A_JPEG")
    if size != (frame.width, frame.height):
        return Finding(Outcome.REJECTED, "OTHER_SIZE")
    return None
