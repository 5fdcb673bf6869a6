"""RTSP 1.0 on the wire (RFC 2326): requests in, replies out. Knows no camera."""

import asyncio
import re
from http import HTTPStatus
from urllib.parse import unquote, urlsplit

from msgspec import Struct

BODY_LIMIT_BYTES = 65_536
CONTROL = "trackID=0"
INTERLEAVED = b"$"
REASONS = {
    454: "Session Not Found",
    455: "Method Not Valid in This State",
    461: "Unsupported Transport",
    505: "RTSP Version Not Supported",
}


class MalformedRequest(Exception):
    """What came is not RTSP; the connection can't be read on."""


class Request(Struct, frozen=True):
    """Header names are in lower case."""

    method: str
    url: str
    version: str
    headers: dict[str, str]


class Reply(Struct, frozen=True):
    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""

    def encode(self, sequence: str) -> bytes:
        """`sequence` is the request's CSeq."""
        reason = REASONS.get(self.status) or HTTPStatus(self.status).phrase
        lines = [f"RTSP/1.0 {self.status} {reason}", f"CSeq: {sequence}", "Server: sightlog-camera"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        if self.body:
            lines.append(f"Content-Length: {len(self.body)}")
        return "\r\n".join([*lines, "\r\n"]).encode() + self.body


async def read_request(reader: asyncio.StreamReader) -> Request:
    """The next request; interleaved packets on the way (the client's RTCP) are passed over.

    Raises MalformedRequest, and IncompleteReadError once the client has gone.
    """
    while True:
        first = await reader.readexactly(1)
        if first == INTERLEAVED:
            header = await reader.readexactly(3)
            await reader.readexactly(int.from_bytes(header[1:], "big"))
        elif first not in b"\r\n":
            return await _read_rest(first, reader)


async def _read_rest(first: bytes, reader: asyncio.StreamReader) -> Request:
    try:
        head = first + await reader.readuntil(b"\r\n\r\n")
    except asyncio.LimitOverrunError as error:
        raise MalformedRequest("head too long") from error
    request = parse_request(head)
    length = request.headers.get("content-length", "0")
    if not re.fullmatch("[0-9]{1,5}", length) or int(length) > BODY_LIMIT_BYTES:
        raise MalformedRequest("Content-Length")
    await reader.readexactly(int(length))
    return request


def parse_request(head: bytes) -> Request:
    """UTF-8, since passwords and user names may be; other bytes survive as surrogates."""
    first, *lines = head.decode("utf-8", "surrogateescape").removesuffix("\r\n\r\n").split("\r\n")
    words = first.split(" ")
    if len(words) != 3:
        raise MalformedRequest("request line")
    pairs = (line.partition(":") for line in lines)
    headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
    if "cseq" not in headers:
        raise MalformedRequest("CSeq")
    return Request(words[0], words[1], words[2], headers)


def path_of(url: str) -> tuple[str, str]:
    """`rtsp://host/NAME/trackID=0?x=1` -> (`NAME`, `trackID=0`)."""
    try:
        path = unquote(urlsplit(url).path).strip("/")
    except ValueError as error:
        raise MalformedRequest("url") from error
    name, _, control = path.partition("/")
    return name, control


def base_of(url: str) -> str:
    """The address that a description's relative addresses start from; never with a password."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path.rstrip('/')}/"


def offered_channels(transport: str) -> tuple[int, int] | None:
    """The interleaved channels for RTP and RTCP; None if RTP over TCP is not offered."""
    for offer in transport.split(","):
        protocol, *fields = (field.strip() for field in offer.split(";"))
        if protocol.upper() == "RTP/AVP/TCP" and (pair := _channels(fields)):
            return pair
    return None


def _channels(fields: list[str]) -> tuple[int, int] | None:
    text = next((field for field in fields if field.startswith("interleaved=")), "interleaved=0-1")
    numbers = re.fullmatch(r"interleaved=([0-9]{1,3})-([0-9]{1,3})", text)
    if numbers is None:
        return None
    media, control = int(numbers[1]), int(numbers[2])
    return (media, control) if max(media, control) < 256 else None
