"""uvicorn's WebSocket, with what ASGI has no words for.

Many messages in one write; an end that does not wait for a client that does not read; 1001 when
the process stops. `uvicorn.Config(..., **WEBSOCKETS)` serves with it.
"""

import asyncio
import logging
from asyncio.transports import BaseTransport
from collections.abc import Callable
from dataclasses import dataclass
from socket import SO_SNDBUF, SOL_SOCKET
from typing import Any

from typing_extensions import override
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Request
from websockets.server import ServerProtocol

EXTENSION = "sightlog.wire"  # the key in an ASGI scope's extensions

PING_EVERY_S = 20
PONG_WITHIN_S = 40  # longer than a slow client is waited for, whose pongs stay away too
LARGEST_KEPT_MESSAGE = 64 * 1024  # of a client; what is longer is not even read to its end
KERNEL_BUFFER = 256 * 1024  # left alone it grows to 4 MiB for each client that does not read
LINGER_S = 10.0  # for the client's own part in closing
SLOW_LINGER_S = 60.0  # who wakes up within it still learns why it was cut off
SHUTDOWN_LINGER_S = 1.0

LINGERS_S: dict[int, float] = {
    CloseCode.TRY_AGAIN_LATER: SLOW_LINGER_S,
    CloseCode.GOING_AWAY: SHUTDOWN_LINGER_S,
}

# Its INFO and DEBUG lines hold query strings and headers, and those hold keys.
log = logging.getLogger("uvicorn.websocket")
log.setLevel(logging.WARNING)


@dataclass(frozen=True)
class Wire:
    """What a route finds under `EXTENSION`."""

    room: asyncio.Event
    """Set while the client reads what it is sent."""
    write: Callable[[bytes], None]
    """Sends whole frames (see `framed`); raises `ClientDisconnected`."""
    end: Callable[[int, str], None]
    """Closes at once, also towards a client that does not read."""


def framed(text: bytes) -> bytes:
    """A text message as it stands on the wire, the same for every client."""
    return Frame(Opcode.TEXT, text).serialize(mask=False)


class _Conversation(ServerProtocol):
    @override
    def fail(self, code: CloseCode | int, reason: str = "") -> None:
        """Too long a message is a breach of policy like too many of them: 1008."""
        too_long = code == CloseCode.MESSAGE_TOO_BIG
        super().fail(CloseCode.POLICY_VIOLATION if too_long else code, reason)


class Protocol(WebSocketsSansIOProtocol):
    def __init__(self, *args: Any, **options: Any) -> None:  # uvicorn's own signature
        super().__init__(*args, **options)
        self.logger = log
        self.conn = _Conversation(max_size=self.config.ws_max_size, logger=log)

    @override
    def connection_made(self, transport: BaseTransport) -> None:
        super().connection_made(transport)
        transport.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_SNDBUF, KERNEL_BUFFER)

    @override
    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if self.response.status_code == 101:
            extensions: dict[str, Any] = self.scope["extensions"]
            extensions[EXTENSION] = Wire(self.writable, self._write, self._end)

    @override
    def shutdown(self) -> None:
        if self.handshake_complete and not self.close_sent:
            self._end(CloseCode.GOING_AWAY, "the gateway stops")
        else:
            super().shutdown()
            self.loop.call_later(SHUTDOWN_LINGER_S, self.transport.abort)

    @override
    def keepalive_timeout(self) -> None:
        super().keepalive_timeout()
        self.loop.call_later(SHUTDOWN_LINGER_S, self.transport.abort)

    def _write(self, frames: bytes) -> None:
        if self.disconnected or self.close_sent or self.transport.is_closing():
            raise ClientDisconnected
        self.transport.write(frames)

    def _end(self, code: int, reason: str) -> None:
        if self.disconnected or self.close_sent or self.transport.is_closing():
            return
        self.stop_keepalive()
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        self.conn.send_close(code, reason)
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        if self.read_paused:  # the client's own close frame must come through
            self.read_paused = False
            self.transport.resume_reading()
        self.close_timer = self.loop.call_later(LINGERS_S.get(code, LINGER_S), self.transport.abort)


WEBSOCKETS: dict[str, Any] = {
    "ws": Protocol,
    "ws_max_size": LARGEST_KEPT_MESSAGE,
    "ws_ping_interval": PING_EVERY_S,
    "ws_ping_timeout": PONG_WITHIN_S,
    "ws_per_message_deflate": False,  # costs three times the delivery itself
    "timeout_graceful_shutdown": 4,
}
"""What `uvicorn.Config` is given besides the app and its address."""
