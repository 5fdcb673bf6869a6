"""News in, many subscribers out. Knows neither Kafka nor WebSockets.

Each subscriber has a bounded queue; who falls behind loses its own oldest messages and is told,
and nobody else waits.
"""

import asyncio
import concurrent.futures
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, NamedTuple, Protocol, TypeVar

from prometheus_client import Counter, Gauge

MESSAGES_KEPT = 256
BYTES_KEPT = 1024 * 1024
BYTES_AT_ONCE = 64 * 1024  # of one write
LOOP_SHARE_S = 0.01  # fanning out gives the event loop back after so long

SUBSCRIBERS = Gauge("sightlog_gateway_subscribers", "WebSockets that are open")
DELIVERIES = Counter("sightlog_gateway_deliveries_total", "Messages handed over for a subscriber")
LOST = Counter("sightlog_gateway_lost_deliveries_total", "Messages that a slow subscriber lost")


class Placed(Protocol):
    @property
    def at(self) -> datetime: ...
    @property
    def cursor(self) -> str: ...


N = TypeVar("N", bound=Placed)
View = Callable[[N], bytes | None]
"""What one subscriber is sent of a piece of news; None: nothing."""


@dataclass(frozen=True)
class Loss:
    """What a subscriber will not be sent: so many messages, of times from `since` to `until`."""

    since: datetime
    until: datetime
    missed: int
    cursor: str  # of the last one


class _Waiting(NamedTuple):
    at: datetime
    cursor: str
    message: bytes


class Subscriber(Generic[N]):
    """One client's queue. Lives on the event loop that made it."""

    def __init__(self, view: View[N]) -> None:
        self._view = view
        self._waiting: deque[_Waiting] = deque()
        self._bytes = 0
        self._loss: Loss | None = None
        self._news = asyncio.Event()

    def offer(self, news: N) -> None:
        message = self._view(news)
        if message is not None:
            self.put(news.at, news.cursor, message)

    def put(self, at: datetime, cursor: str, message: bytes) -> None:
        """Never waits. A message that is larger than the whole queue may be its only one."""
        self._waiting.append(_Waiting(at, cursor, message))
        self._bytes += len(message)
        while self._is_over() and len(self._waiting) > 1:
            self._lose_oldest()
        self._news.set()

    def _is_over(self) -> bool:
        return len(self._waiting) > MESSAGES_KEPT or self._bytes > BYTES_KEPT

    def _lose_oldest(self) -> None:
        at, cursor, message = self._waiting.popleft()
        self._bytes -= len(message)
        lost = self._loss or Loss(at, at, 0, cursor)
        self._loss = Loss(min(lost.since, at), max(lost.until, at), lost.missed + 1, cursor)
        LOST.inc()

    @property
    def has_lost(self) -> bool:
        return self._loss is not None

    def clear(self) -> None:
        """Forgets what waits and what was lost: somebody tells it in another way."""
        self._waiting.clear()
        self._bytes = 0
        self._loss = None

    def wake(self) -> None:
        """`next` returns, with or without news."""
        self._news.set()

    async def next(self) -> tuple[Loss | None, bytes]:
        """Waits for news; what was lost since the last call, then what may be sent in one write."""
        await self._news.wait()
        loss, self._loss = self._loss, None
        batch: list[bytes] = []
        size = 0
        while self._waiting and size < BYTES_AT_ONCE:
            message = self._waiting.popleft().message
            batch.append(message)
            size += len(message)
        self._bytes -= size
        DELIVERIES.inc(len(batch))
        if not self._waiting:
            self._news.clear()
        return loss, b"".join(batch)


class Hub(Generic[N]):
    def __init__(self) -> None:
        self._subscribers: set[Subscriber[N]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None

    @contextmanager
    def subscribed(self, view: View[N]) -> Iterator[Subscriber[N]]:
        """On the event loop only: the subscriber's queue fills while the block runs."""
        self._loop = asyncio.get_running_loop()
        subscriber = Subscriber(view)
        self._subscribers.add(subscriber)
        SUBSCRIBERS.inc()
        try:
            yield subscriber
        finally:
            self._subscribers.discard(subscriber)
            SUBSCRIBERS.dec()

    def publish(self, news: Sequence[N]) -> concurrent.futures.Future[None] | None:
        """From any thread; done when every queue has its share. None where nobody listens."""
        loop = self._loop
        if loop is None or loop.is_closed() or not self._subscribers or not news:
            return None
        fan_out = self.fan_out(news)
        try:
            return asyncio.run_coroutine_threadsafe(fan_out, loop)
        except RuntimeError:  # the loop was closed just now
            fan_out.close()
            return None

    async def fan_out(self, news: Sequence[N]) -> None:
        paused = time.monotonic()
        for piece in news:
            for subscriber in tuple(self._subscribers):
                subscriber.offer(piece)
            if time.monotonic() - paused > LOOP_SHARE_S:
                await asyncio.sleep(0)
                paused = time.monotonic()
