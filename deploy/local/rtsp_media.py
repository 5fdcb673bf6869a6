"""A clip as access units ready to be sent: demuxed once, never decoded, shared by its cameras."""

import itertools
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from statistics import median_low

import av
import msgspec
from av.bitstream import BitStreamFilterContext
from msgspec import Struct

from deploy.local.rtsp import CONTROL
from deploy.local.rtsp_packet import CLOCK_HZ, Layout, lay_out
from deploy.local.rtsp_payload import CODECS, Codec, media_lines, parameter_sets, picture_units

CLIP_LIMIT_BYTES = 512 * 2**20


class ClipUnreadable(Exception):
    """No camera can be made of this file; the message says why."""


class AccessUnit(Struct, frozen=True):
    """One coded picture. Times are ticks of 1/90000 s from the clip's first access unit.

    `captured_at` is never after `sent_at`: a picture that later ones are coded from is sent
    early, so the whole presentation is moved back by the longest such lead.
    """

    sent_at: int
    captured_at: int
    is_key: bool
    layout: Layout


class Clip(Struct, frozen=True):
    """`period` is the ticks after which the clip begins again; the first unit is a key frame."""

    units: tuple[AccessUnit, ...]
    period: int
    description: tuple[str, ...]

    def key_frame_before(self, tick: int) -> int:
        """The index of the newest key frame at `tick` of the endless loop."""
        within = tick % self.period
        keys = (n for n, unit in enumerate(self.units) if unit.is_key and unit.sent_at <= within)
        return max(keys, default=0)


class _Coded(Struct, frozen=True):
    """A packet as the clip has it: Annex B bytes, times in ticks from any origin.

    Decoding times are left out: not every container has them, and they follow from the order.
    """

    pts: int
    duration: int
    is_key: bool
    data: bytes


def read_clip(path: Path) -> Clip:
    """Raises ClipUnreadable."""
    try:
        if path.stat().st_size > CLIP_LIMIT_BYTES:
            raise ClipUnreadable(f"larger than {CLIP_LIMIT_BYTES} bytes")
        with av.open(str(path)) as container:
            return _clip(container)
    except (OSError, av.FFmpegError) as error:
        raise ClipUnreadable(str(error)) from error


def retimed(clip: Clip, fps: float) -> Clip:
    """The same pictures in the same order, `fps` of them a second; their packets are shared."""
    step = CLOCK_HZ / fps
    order = sorted(range(len(clip.units)), key=lambda n: clip.units[n].captured_at)
    shown = {n: rank for rank, n in enumerate(order)}
    lead = max(shown[n] - n for n in range(len(clip.units)))
    units = (
        msgspec.structs.replace(
            unit, sent_at=round(n * step), captured_at=round((shown[n] - lead) * step)
        )
        for n, unit in enumerate(clip.units)
    )
    return msgspec.structs.replace(clip, units=tuple(units), period=round(len(order) * step))


def _clip(container: av.container.InputContainer) -> Clip:
    if not container.streams.video:
        raise ClipUnreadable("no video in it")
    stream = container.streams.video[0]
    codec = CODECS.get(stream.codec_context.name)
    if codec is None:
        raise ClipUnreadable(f"codec {stream.codec_context.name}, expected h264 or hevc")
    coded = _from_first_key_frame(_annex_b(container, stream, codec.to_annex_b))
    if not coded:
        raise ClipUnreadable("no key frame in it")
    sets = parameter_sets(codec, coded[0].data)
    if not all(sets):
        raise ClipUnreadable("no parameter sets in its first key frame")
    return Clip(_units(codec, coded), _period(coded), tuple(media_lines(codec, sets)))


def _annex_b(
    container: av.container.InputContainer, stream: av.VideoStream, name: str
) -> Iterator[_Coded]:
    """Every way of storing the codec made one: start codes, parameter sets at each key frame."""
    to_annex_b = BitStreamFilterContext(name, stream)
    for packet in container.demux(stream):
        if packet.size:
            yield from map(_coded, to_annex_b.filter(packet))
    yield from map(_coded, to_annex_b.filter(None))


def _coded(packet: "av.Packet[av.VideoStream]") -> _Coded:
    if packet.pts is None:
        raise ClipUnreadable("no timestamps in it (a raw stream: put it into an MP4)")
    pts, duration = (
        round(Fraction(value) * packet.time_base * CLOCK_HZ)
        for value in (packet.pts, packet.duration or 0)
    )
    return _Coded(pts, duration, packet.is_keyframe, bytes(packet))


def _from_first_key_frame(packets: Iterable[_Coded]) -> list[_Coded]:
    coded: list[_Coded] = []
    for packet in packets:
        if coded or packet.is_key:
            coded.append(packet)
    return coded


def _units(codec: Codec, coded: list[_Coded]) -> tuple[AccessUnit, ...]:
    """The n-th packet is sent when the n-th picture is due to be shown."""
    due = sorted(packet.pts for packet in coded)
    lead = max(packet.pts - pts for packet, pts in zip(coded, due, strict=True))
    return tuple(
        AccessUnit(
            sent_at=pts - due[0],
            captured_at=packet.pts - lead - due[0],
            is_key=packet.is_key,
            layout=_layout(codec, packet.data),
        )
        for packet, pts in zip(coded, due, strict=True)
    )


def _layout(codec: Codec, annex_b: bytes) -> Layout:
    units = picture_units(codec, annex_b)
    return lay_out([payload for unit in units for payload in codec.payloads(unit)])


def _period(coded: list[_Coded]) -> int:
    """From the first picture to the end of the last."""
    due = sorted(packet.pts for packet in coded)
    last = max(coded, key=lambda packet: packet.pts)
    steps = [later - sooner for sooner, later in itertools.pairwise(due)]
    usual = median_low(steps) if steps else CLOCK_HZ
    return due[-1] - due[0] + (last.duration or usual)


def session_description(clip: Clip, name: str) -> bytes:
    """The SDP (RFC 4566) of a camera's one video track."""
    lines = [
        "v=0",
        "o=- 0 0 IN IP4 127.0.0.1",
        f"s={name}",
        "c=IN IP4 0.0.0.0",
        "t=0 0",
        "a=range:npt=now-",
        "a=control:*",
        *clip.description,
        f"a=framerate:{len(clip.units) * CLOCK_HZ / clip.period:.6g}",
        f"a=control:{CONTROL}",
    ]
    return "\r\n".join([*lines, ""]).encode()
