"""Coded pictures as RTP payloads and SDP lines: H.264 (RFC 6184) and H.265 (RFC 7798)."""

import base64
import re
from collections.abc import Callable, Iterator

from msgspec import Struct

PAYLOAD_LIMIT_BYTES = 1_400  # what fits an Ethernet frame, as cameras send it also over TCP
PAYLOAD_TYPE = 96
START_CODE = re.compile(rb"\x00\x00\x01")


class Codec(Struct, frozen=True):
    """`parameter_types` as the SDP orders them; `delimiter` is not sent: the marker bit says it."""

    encoding: str
    to_annex_b: str
    nal_type: Callable[[bytes], int]
    payloads: Callable[[bytes], Iterator[bytes]]
    parameter_types: tuple[int, ...]
    delimiter: int
    format_parameters: Callable[[list[list[bytes]]], str]


def nal_units(annex_b: bytes) -> list[bytes]:
    """Without start codes and the zero bytes that may pad them."""
    units = (unit.rstrip(b"\x00") for unit in START_CODE.split(annex_b))
    return [unit for unit in units if unit]


def picture_units(codec: Codec, annex_b: bytes) -> list[bytes]:
    return [unit for unit in nal_units(annex_b) if codec.nal_type(unit) != codec.delimiter]


def parameter_sets(codec: Codec, annex_b: bytes) -> list[list[bytes]]:
    """The distinct sets of each parameter type, in the order of `parameter_types`."""
    units = nal_units(annex_b)
    return [
        list(dict.fromkeys(unit for unit in units if codec.nal_type(unit) == wanted))
        for wanted in codec.parameter_types
    ]


def media_lines(codec: Codec, sets: list[list[bytes]]) -> list[str]:
    """The codec's part of an SDP description."""
    return [
        f"m=video 0 RTP/AVP {PAYLOAD_TYPE}",
        f"a=rtpmap:{PAYLOAD_TYPE} {codec.encoding}/90000",
        f"a=fmtp:{PAYLOAD_TYPE} {codec.format_parameters(sets)}",
    ]


def _h264_type(unit: bytes) -> int:
    return unit[0] & 0x1F


def _h264_payloads(unit: bytes) -> Iterator[bytes]:
    """The unit as it is, or its FU-A fragments."""
    if len(unit) <= PAYLOAD_LIMIT_BYTES:
        yield unit
        return
    indicator = unit[0] & 0xE0 | 28
    for edge, chunk in _fragments(unit[1:], PAYLOAD_LIMIT_BYTES - 2):
        yield bytes((indicator, edge | unit[0] & 0x1F)) + chunk


def _h264_format(sets: list[list[bytes]]) -> str:
    profile = sets[0][0][1:4].hex()
    sprop = ",".join(_base64(unit) for units in sets for unit in units)
    return f"packetization-mode=1; profile-level-id={profile}; sprop-parameter-sets={sprop}"


def _h265_type(unit: bytes) -> int:
    return unit[0] >> 1 & 0x3F


def _h265_payloads(unit: bytes) -> Iterator[bytes]:
    """The unit as it is, or its fragmentation units."""
    if len(unit) <= PAYLOAD_LIMIT_BYTES:
        yield unit
        return
    header = bytes((unit[0] & 0x81 | 49 << 1, unit[1]))
    for edge, chunk in _fragments(unit[2:], PAYLOAD_LIMIT_BYTES - 3):
        yield header + bytes((edge | _h265_type(unit),)) + chunk


def _h265_format(sets: list[list[bytes]]) -> str:
    names = ("sprop-vps", "sprop-sps", "sprop-pps")
    joined = (",".join(map(_base64, units)) for units in sets)
    return "; ".join(f"{name}={value}" for name, value in zip(names, joined, strict=True))


def _fragments(data: bytes, size: int) -> Iterator[tuple[int, bytes]]:
    """Chunks with the start (0x80) or end (0x40) bit of a fragment header, alike in both codecs."""
    for at in range(0, len(data), size):
        yield (0x80 * (at == 0)) | (0x40 * (at + size >= len(data))), data[at : at + size]


def _base64(unit: bytes) -> str:
    return base64.b64encode(unit).decode()


CODECS = {
    "h264": Codec("H264", "h264_mp4toannexb", _h264_type, _h264_payloads, (7, 8), 9, _h264_format),
    "hevc": Codec(
        "H265", "hevc_mp4toannexb", _h265_type, _h265_payloads, (32, 33, 34), 35, _h265_format
    ),
}
