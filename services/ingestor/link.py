"""What a camera's process and its ingestor say to each other, over one socket pair.

Each message is framed: two lengths (big endian, 4 bytes each), the message as MessagePack, then the
JPEG it may carry. The order, with the camera's password in it, goes down this way only: never by
arguments or environment.
"""

import socket
import struct

import msgspec
from msgspec import Struct
from typing_extensions import override

from schemas.messages import Clock, Dropped, Reason, SourceFacts

_LENGTHS = struct.Struct("!II")


class Order(Struct, frozen=True, tag="order"):
    """Which camera to show, and how."""

    stream_id: str
    url: str  # without userinfo
    username: str | None
    password: str | None
    frame_width: int | None
    fps: float
    trust_source_clock: bool
    verify_tls: bool
    media_path: str
    allowed: tuple[str, ...]  # networks, as 127.0.0.0/8
    denied: tuple[str, ...]

    @override
    def __repr__(self) -> str:
        return f"Order({self.stream_id!r})"

    def needs_new_connection(self, other: "Order") -> bool:
        """Whether the change from this order to the other can't be made to a running camera."""
        return self != msgspec.structs.replace(
            other, fps=self.fps, trust_source_clock=self.trust_source_clock
        )


class Tune(Struct, frozen=True, tag="tune"):
    """What may change while the camera runs."""

    fps: float
    trust_source_clock: bool


class Stop(Struct, frozen=True, tag="stop"):
    """Close the connection and end."""


class Opened(Struct, frozen=True, tag="opened"):
    """The first picture is there."""

    source: SourceFacts


class Shot(Struct, frozen=True, tag="shot"):
    """A JPEG follows. The counts are of what happened since the last report, this one included."""

    captured_at_us: int  # Unix time
    at_s: float  # the same instant by the monotonic clock, which all processes of a machine share
    width: int
    height: int
    clock: Clock
    encode_ms: float
    captured: int
    dropped: Dropped


class Counted(Struct, frozen=True, tag="counted"):
    """Nothing was emitted for a while, yet there is something to account for."""

    captured: int
    dropped: Dropped


class Ended(Struct, frozen=True, tag="ended"):
    """The file is over."""


class Failed(Struct, frozen=True, tag="failed"):
    """The connection is lost, or could not be made. `detail` names no secret."""

    reason: Reason
    detail: str | None = None


Down = Order | Tune | Stop
Up = Opened | Shot | Counted | Ended | Failed

_encode = msgspec.msgpack.Encoder().encode
_decode_down = msgspec.msgpack.Decoder(Down).decode
_decode_up = msgspec.msgpack.Decoder(Up).decode


def send(link: socket.socket, message: Down | Up, jpeg: bytes = b"") -> None:
    """Blocks until it is written. Raises OSError where the other side is gone."""
    head = _encode(message)
    link.sendall(b"".join((_LENGTHS.pack(len(head), len(jpeg)), head, jpeg)))


def receive_up(link: socket.socket) -> tuple[Up, bytes] | None:
    """The next report and its JPEG; None at the end of the link."""
    parts = _receive(link)
    return None if parts is None else (_decode_up(parts[0]), parts[1])


def receive_down(link: socket.socket) -> Down | None:
    """The next order; None at the end of the link."""
    parts = _receive(link)
    return None if parts is None else _decode_down(parts[0])


def _receive(link: socket.socket) -> tuple[bytes, bytes] | None:
    lengths = _exactly(link, _LENGTHS.size)
    if lengths is None:
        return None
    head_length, jpeg_length = _LENGTHS.unpack(lengths)
    head = _exactly(link, head_length)
    jpeg = _exactly(link, jpeg_length)
    return None if head is None or jpeg is None else (head, jpeg)


def _exactly(link: socket.socket, length: int) -> bytes | None:
    """None where the link ends first: a message cut by a dying process does not count."""
    buffer = bytearray(length)
    view = memoryview(buffer)
    received = 0
    while received < length:
        try:
            count = link.recv_into(view[received:])
        except ConnectionError:
            return None
        if count == 0:
            return None
        received += count
    return bytes(buffer)
