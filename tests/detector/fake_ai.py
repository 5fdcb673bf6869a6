"""An AI service that does as it is told: a real HTTP server on a real socket, in a thread."""

import asyncio
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import msgspec

from tests.ports import free_port

PERSON: dict[str, Any] = {
    "label": "person",
    "classId": 0,
    "confidence": 0.9,
    "boundingBox": {"x": 64.0, "y": 36.0, "width": 64.0, "height": 72.0},
}
MODEL = {"name": "fake", "version": "1", "digest": "sha256:00"}


def saw(*found: dict[str, Any]) -> bytes:
    answer = {"detections": found, "model": MODEL, "frame": {"width": 640, "height": 360}}
    return msgspec.json.encode(answer)


@dataclass(frozen=True)
class Reply:
    body: bytes = saw()
    status: int = 200
    delay_s: float = 0
    held_by: threading.Event | None = None
    headers: dict[str, str] = field(default_factory=dict)
    byte_by_byte_s: float | None = None


@dataclass(frozen=True)
class Call:
    frame_id: str
    query: str
    headers: dict[str, str]

    @property
    def stream_id(self) -> str:
        return self.frame_id.partition("/")[0]


def a_jpeg(frame_id: str, width: int = 640, height: int = 360, filler: int = 0) -> bytes:
    """Markers as of a JPEG, the frame's id as its comment; no picture in it."""
    comment = frame_id.encode()
    size = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    return b"".join(
        (
            b"\xff\xd8\xff\xfe",
            (len(comment) + 2).to_bytes(2, "big"),
            comment,
            b"\xff\xc0\x00\x0b\x08" + size + b"\x01\x01\x11\x00",
            b"\x00" * filler,
            b"\xff\xd9",
        )
    )


def frame_id_in(jpeg: bytes) -> str:
    length = int.from_bytes(jpeg[4:6], "big")
    return jpeg[6 : 4 + length].decode()


class FakeAI:
    """`behave` tells how the frames of a stream are answered; without it nothing is seen."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.most_at_once: Counter[str] = Counter()  # by stream
        self._at_once: Counter[str] = Counter()
        self._behaviours: dict[str, Callable[[Call], Reply]] = {}
        self._loop = asyncio.new_event_loop()
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.StreamWriter] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fake-ai", daemon=True)
        self._thread.start()
        self.port = free_port()
        self.up()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def behave(self, stream_id: str, behaviour: Callable[[Call], Reply]) -> None:
        self._behaviours[stream_id] = behaviour

    def called(self, stream_id: str) -> list[str]:
        return [call.frame_id for call in self.calls if call.stream_id == stream_id]

    def up(self) -> None:
        self._run(self._listen())

    def down(self) -> None:
        """Refuses connections, and cuts those that are open."""
        self._run(self._hang_up())

    def close(self) -> None:
        self._run(self._hang_up())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    def _run(self, work) -> None:
        done: Future[None] = asyncio.run_coroutine_threadsafe(work, self._loop)
        done.result(10)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    async def _hang_up(self) -> None:
        if self._server is not None:
            self._server.close()
        for writer in list(self._connections):
            writer.transport.abort()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(writer)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                await self._answer(head, reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client is gone, or we hang up
        finally:
            self._connections.discard(writer)
            writer.close()

    async def _answer(self, head: str, reader, writer) -> None:
        request, *lines = head.strip().split("\r\n")
        headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
        jpeg = await reader.readexactly(int(headers["content-length"]))
        call = Call(frame_id_in(jpeg), request.split()[1].partition("?")[2], headers)
        self.calls.append(call)
        stream = call.stream_id
        self._at_once[stream] += 1
        self.most_at_once[stream] = max(self.most_at_once[stream], self._at_once[stream])
        try:
            await self._reply(self._behaviours.get(stream, lambda _: Reply())(call), writer)
        finally:
            self._at_once[stream] -= 1

    async def _reply(self, reply: Reply, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(reply.delay_s)
        while reply.held_by is not None and not reply.held_by.is_set():  # noqa: ASYNC110 -- let go from another thread
            await asyncio.sleep(0.01)
        head = [f"HTTP/1.1 {reply.status} x", f"content-length: {len(reply.body)}"]
        head += [f"{name}: {value}" for name, value in reply.headers.items()]
        writer.write("\r\n".join([*head, "", ""]).encode())
        step = len(reply.body) if reply.byte_by_byte_s is None else 1
        for at in range(0, len(reply.body), step or 1):
            writer.write(reply.body[at : at + step])
            await writer.drain()
            await asyncio.sleep(reply.byte_by_byte_s or 0)
