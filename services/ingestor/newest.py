"""The newest frame of each stream, for whoever wants to look at it: never queued, only replaced."""

import asyncio
import threading
from dataclasses import dataclass


@dataclass(frozen=True)
class Still:
    """A frame, published already or about to be: then it has no id yet."""

    jpeg: bytes
    captured_at_us: int
    frame_id: str | None


Waiter = tuple[asyncio.AbstractEventLoop, "asyncio.Future[None]"]


class Newest:
    """Put by the cameras' readers, waited for by the server's event loop."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stills: dict[str, Still] = {}
        self._waiters: dict[str, list[Waiter]] = {}

    def put(self, stream_id: str, still: Still) -> None:
        with self._lock:
            self._stills[stream_id] = still
            waiters = self._waiters.pop(stream_id, [])
        _wake(waiters)

    def of(self, stream_id: str) -> Still | None:
        return self._stills.get(stream_id)

    def forget(self, stream_id: str) -> None:
        """There is nothing to show any more; who waits is told."""
        with self._lock:
            self._stills.pop(stream_id, None)
            waiters = self._waiters.pop(stream_id, [])
        _wake(waiters)

    def wake_all(self) -> None:
        with self._lock:
            waiters = [waiter for waiting in self._waiters.values() for waiter in waiting]
            self._waiters.clear()
        _wake(waiters)

    async def after(self, stream_id: str, seen: object, timeout_s: float) -> Still | None:
        """A frame newer than the one seen; None where none came in time, or the stream is gone."""
        loop = asyncio.get_running_loop()
        waiter = (loop, loop.create_future())
        with self._lock:
            still = self._stills.get(stream_id)
            if still is not None and still is not seen:
                return still
            self._waiters.setdefault(stream_id, []).append(waiter)
        try:
            async with asyncio.timeout(timeout_s):
                await waiter[1]
        except TimeoutError:
            return None
        finally:
            self._leave(stream_id, waiter)
        still = self._stills.get(stream_id)
        return None if still is seen else still

    def _leave(self, stream_id: str, waiter: Waiter) -> None:
        with self._lock:
            waiting = self._waiters.get(stream_id, [])
            if waiter in waiting:
                waiting.remove(waiter)
            if not waiting:
                self._waiters.pop(stream_id, None)


def _wake(waiters: list[Waiter]) -> None:
    for loop, future in waiters:
        if not loop.is_closed():
            loop.call_soon_threadsafe(_settle, future)


def _settle(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)
