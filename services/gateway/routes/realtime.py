"""The WebSocket: `/` upgraded, and `/ws`."""

import asyncio
import time
from collections import deque
from datetime import datetime
from typing import NoReturn

from fastapi import APIRouter, WebSocket, WebSocketDisconnect
from uvicorn.protocols.utils import ClientDisconnected
from websockets.frames import CloseCode

from schemas.messages import now
from services.gateway.observed import Observed
from services.gateway.problems import INVALID, TYPES, Problem
from services.gateway.realtime.cursor import UnknownCursor, cursor, watermark
from services.gateway.realtime.hub import Hub, Loss, Subscriber
from services.gateway.realtime.news import (
    News,
    SnapshotData,
    StatusData,
    awaited,
    gap,
    status_data,
    told,
)
from services.gateway.realtime.replay import Replay, Replays, ReplayStalled
from services.gateway.realtime.sockets import EXTENSION, Wire
from services.gateway.realtime.subscribe import (
    BadSubscription,
    Subscription,
    from_message,
    from_query,
)

LARGEST_MESSAGE = 4 * 1024  # bytes, of a client
MESSAGES_PER_S = 20
MISTAKES_FORGIVEN = 2
SLOW_AFTER_S = 30.0
READY_WITHIN_S = 10.0
LOOK_EVERY_S = 0.05
CATCHING_UP = 5  # rounds at most


def realtime(
    hub: Hub[News], observed: Observed, replays: Replays, slow_after_s: float = SLOW_AFTER_S
) -> APIRouter:
    """To be served by `sockets.Protocol`."""
    router = APIRouter()

    @router.websocket("/")
    @router.websocket("/ws")
    async def tell_news(socket: WebSocket) -> None:
        try:
            subscription = from_query(socket.scope["query_string"].decode("latin-1"))
        except BadSubscription as error:
            raise Problem(INVALID, str(error)) from error
        wire: Wire = socket.scope["extensions"][EXTENSION]
        client = Client(wire, observed, replays, subscription)
        client.slow_after_s = slow_after_s
        await socket.accept()
        with hub.subscribed(client.view) as subscriber:
            await client.serve(socket, subscriber)

    return router


class Client:
    """One connection: a task that tells it the news, and one that listens to it."""

    def __init__(
        self, wire: Wire, observed: Observed, replays: Replays, subscription: Subscription
    ) -> None:
        self.slow_after_s = SLOW_AFTER_S
        self._wire = wire
        self._observed = observed
        self._replays = replays
        self._subscription = subscription
        self._asked: Subscription | None = subscription  # and not yet answered
        self._heard: deque[float] = deque(maxlen=MESSAGES_PER_S)
        self._mistakes = 0

    def view(self, news: News) -> bytes | None:
        return news.message_for(self._subscription)

    async def serve(self, socket: WebSocket, subscriber: Subscriber[News]) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._tell(subscriber))
                await self._listen(socket, subscriber)
        except* (WebSocketDisconnect, ClientDisconnected):
            pass

    async def _tell(self, subscriber: Subscriber[News]) -> None:
        while True:
            asked, self._asked = self._asked, None
            if asked is not None:
                await self._greet(asked, subscriber)
            loss, batch = await subscriber.next()
            if loss is not None or batch:
                await self._write(_gap_of(loss) + batch)

    async def _write(self, frames: bytes) -> None:
        if not self._wire.room.is_set():
            await self._room()
        self._wire.write(frames)

    async def _room(self) -> None:
        try:
            async with asyncio.timeout(self.slow_after_s):
                await self._wire.room.wait()
        except TimeoutError:
            self._end(CloseCode.TRY_AGAIN_LATER, "the client does not read")

    def _end(self, code: int, reason: str) -> NoReturn:
        self._wire.end(code, reason)
        raise WebSocketDisconnect(code, reason)

    async def _greet(self, asked: Subscription, subscriber: Subscriber[News]) -> None:
        """The snapshot, and what happened since the client's cursor."""
        since = _watermark(asked.cursor)
        here = cursor(since or self._observed.watermark)
        await self._ready()
        if asked.snapshot:
            await self._write(told("snapshot", here, self._snapshot(asked)))
        if since is not None:
            await self._resume(asked, since, subscriber)
        elif asked.cursor is not None:
            await self._write(gap(here, None, now(), "unknown-cursor"))

    async def _ready(self) -> None:
        deadline = time.monotonic() + READY_WITHIN_S
        while not self._observed.ready and time.monotonic() < deadline:  # noqa: ASYNC110 -- set by a thread
            await asyncio.sleep(LOOK_EVERY_S)

    async def _resume(
        self, asked: Subscription, since: datetime, subscriber: Subscriber[News]
    ) -> None:
        try:
            async with self._replays.since(since, asked.events) as replay:
                if replay.gap_until is not None:
                    await self._write(gap(replay.cursor, since, replay.gap_until, "retention"))
                for _ in range(CATCHING_UP):
                    await self._catch_up(replay)
                    if not subscriber.has_lost:
                        return
                    subscriber.clear()  # what it lost meanwhile is replayed, too
                    await self._write(told("snapshot", replay.cursor, self._snapshot(asked)))
        except ReplayStalled:
            self._end(CloseCode.TRY_AGAIN_LATER, "Kafka does not answer: come again")

    async def _catch_up(self, replay: Replay) -> None:
        await asyncio.to_thread(replay.look_ahead)
        while (found := await asyncio.to_thread(replay.read)) is not None:
            messages = [self.view(news) for news in found]
            await self._write(b"".join(filter(None, messages)))

    def _snapshot(self, subscription: Subscription) -> SnapshotData:
        specs = self._observed.specs()
        asked = subscription.streams
        streams: list[StatusData] = []
        for spec in specs:
            if not asked or spec.stream_id in asked:
                status = self._observed.status(spec.stream_id)
                streams.append(status_data(status, spec) if status else awaited(spec))
        return SnapshotData(tuple(streams), self._observed.ready)

    async def _listen(self, socket: WebSocket, subscriber: Subscriber[News]) -> None:
        """Until the client is gone, or must go."""
        while True:
            message = await socket.receive()
            if message["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(message.get("code", CloseCode.NORMAL_CLOSURE))
            text = message.get("text")
            if text is None:
                self._end(CloseCode.UNSUPPORTED_DATA, "messages are JSON texts")
            self._hear(text, subscriber)

    def _hear(self, text: str, subscriber: Subscriber[News]) -> None:
        if len(text.encode()) > LARGEST_MESSAGE:
            self._end(CloseCode.POLICY_VIOLATION, "a message has at most 4 KiB")
        self._refuse_haste()
        try:
            self._subscription = self._asked = from_message(text)
            subscriber.wake()
        except BadSubscription as error:
            self._mistakes += 1
            if self._mistakes > MISTAKES_FORGIVEN:
                self._end(CloseCode.POLICY_VIOLATION, "too many messages that make no sense")
            here = cursor(self._observed.watermark)
            subscriber.put(now(), here, told("error", here, _problem(str(error))))

    def _refuse_haste(self) -> None:
        at = time.monotonic()
        if len(self._heard) == MESSAGES_PER_S and at - self._heard[0] < 1:
            self._end(CloseCode.POLICY_VIOLATION, "at most 20 messages a second")
        self._heard.append(at)


def _problem(detail: str) -> dict[str, object]:
    return {
        "type": TYPES + INVALID.slug,
        "title": INVALID.title,
        "status": INVALID.status.value,
        "detail": detail,
    }


def _gap_of(loss: Loss | None) -> bytes:
    if loss is None:
        return b""
    return gap(loss.cursor, loss.since, loss.until, "slow", loss.missed)


def _watermark(asked: str | None) -> datetime | None:
    """None where there is none that we know."""
    try:
        return None if asked is None else watermark(asked)
    except UnknownCursor:
        return None
