"""RTP and RTCP packets (RFC 3550), interleaved into an RTSP connection.

A clip's packets are laid out once, with what differs between readers (channel, sequence number,
timestamp, source) left blank; sending is one copy, a few stamped headers and one write.
"""

import struct
from collections.abc import Sequence

from msgspec import Struct

from deploy.local.rtsp_payload import PAYLOAD_TYPE

CLOCK_HZ = 90_000
NTP_EPOCH_OFFSET_S = 2_208_988_800
RTP_HEADER = struct.Struct(">cBHBBHII")
STAMP = struct.Struct(">HII")
STAMP_AT = 6
SENDER_REPORT = struct.Struct(">BBHIIIIII")


class Layout(Struct, frozen=True):
    """One access unit's packets, headers blank; `starts` are the offsets of their headers."""

    data: bytes
    starts: tuple[int, ...]


def lay_out(payloads: Sequence[bytes]) -> Layout:
    """The last packet carries the marker bit: the access unit is complete."""
    data = bytearray()
    starts = []
    for number, payload in enumerate(payloads, 1):
        starts.append(len(data))
        kind = PAYLOAD_TYPE | 0x80 * (number == len(payloads))
        data += RTP_HEADER.pack(b"$", 0, 12 + len(payload), 0x80, kind, 0, 0, 0) + payload
    return Layout(bytes(data), tuple(starts))


def stamp(layout: Layout, channel: int, sequence: int, timestamp: int, source: int) -> bytearray:
    """A copy of the packets, ready to send, numbered from `sequence`; numbers wrap as RTP's do."""
    data = bytearray(layout.data)
    for number, start in enumerate(layout.starts, sequence):
        data[start + 1] = channel
        STAMP.pack_into(data, start + STAMP_AT, number & 0xFFFF, timestamp & 0xFFFFFFFF, source)
    return data


def spoil(layout: Layout, noise: bytes) -> Layout:
    """The same packets with their payloads overwritten; `noise` is as long as the data."""
    data = bytearray(noise)
    for start in layout.starts:
        header = slice(start, start + RTP_HEADER.size)
        data[header] = layout.data[header]
    return Layout(bytes(data), layout.starts)


class Sent(Struct):
    """What a sender report tells about the stream so far."""

    packets: int = 0
    payload_bytes: int = 0

    def count(self, layout: Layout) -> None:
        self.packets += len(layout.starts)
        self.payload_bytes += len(layout.data) - RTP_HEADER.size * len(layout.starts)


def sender_report(channel: int, source: int, unix_s: float, timestamp: int, sent: Sent) -> bytes:
    """Ties RTP `timestamp` to the wall clock `unix_s`, with the CNAME that RFC 3550 demands."""
    seconds = int(unix_s // 1)
    fraction = int((unix_s - seconds) * 2**32)
    report = SENDER_REPORT.pack(
        0x80,
        200,
        6,
        source,
        (seconds + NTP_EPOCH_OFFSET_S) & 0xFFFFFFFF,
        fraction,
        timestamp & 0xFFFFFFFF,
        sent.packets & 0xFFFFFFFF,
        sent.payload_bytes & 0xFFFFFFFF,
    )
    data = report + _canonical_name(source)
    return b"$" + struct.pack(">BH", channel, len(data)) + data


def _canonical_name(source: int) -> bytes:
    name = b"sightlog"
    item = bytes((1, len(name))) + name
    item += bytes(4 - len(item) % 4)
    return struct.pack(">BBHI", 0x81, 202, 1 + len(item) // 4, source) + item
