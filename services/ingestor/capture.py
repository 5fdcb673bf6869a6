"""An opened camera or clip -> its access units, decoded, as they come."""

import struct
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TypeAlias

import av
import av.error
from av import Packet, VideoFrame
from av.container import InputContainer
from av.video.stream import VideoStream

from schemas.messages import Reason, SourceFacts

OPEN_TIMEOUT_S = 8.0
READ_TIMEOUT_S = 8.0
BLIND_S = 10.0  # data with hardly a good picture
FEW = 3  # good pictures are hardly any: decoders find one in mere noise now and then
DECODED = frozenset({"h264", "hevc"})
CODECS = DECODED | {"mjpeg"}
LONGEST_GAP_S = 5.0  # between two pictures of a clip: a longer one is a fault of its timestamps
LATEST_S = 1.0  # behind its own time, a clip is shown late instead of in a hurry
LONGEST_REORDERING = 64  # pictures
MOST_IN_SIGHT = 2400  # pictures: of the fastest camera in that time
LARGEST_PICTURE = 7680 * 4320  # pixels
DECODING_BYTES = 3  # a pixel, of H.264: half for the picture, half for the decoder's tables

DECODER = {
    "threads": "1",  # frame threads cost 12-32 % more CPU
    "skip_loop_filter": "nokey",  # -28 % CPU, no visible loss
    "max_pixels": str(LARGEST_PICTURE),  # ignored where av.open is told it
}
RTSP = {
    "rtsp_transport": "tcp",
    "protocol_whitelist": "rtsp,rtp,tcp",
    "max_redirects": "0",
    "timeout": str(round(READ_TIMEOUT_S * 1_000_000)),
    # Everything is known from the session description and the first picture: 0.5 s, not 3 s.
    "fpsprobesize": "0",
    "analyzeduration": "0",
    "probesize": "32",
}
# Neither playlists nor anything else that names other files or hosts.
FILES = {
    "format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,h264,hevc,mjpeg,flv",
    "protocol_whitelist": "",
}

REASONS: tuple[tuple[type[Exception], Reason], ...] = (
    (av.error.HTTPUnauthorizedError, Reason.AUTH_FAILED),
    (av.error.HTTPForbiddenError, Reason.AUTH_FAILED),
    (av.error.HTTPNotFoundError, Reason.NOT_FOUND),
    (av.error.FileNotFoundError, Reason.NOT_FOUND),
    (av.error.TimeoutError, Reason.TIMEOUT),
    (av.error.ExitError, Reason.TIMEOUT),
    (av.error.DecoderNotFoundError, Reason.CODEC_UNSUPPORTED),
    (av.error.OSError, Reason.UNREACHABLE),
    (av.error.HTTPError, Reason.UNREACHABLE),
)

VideoPacket: TypeAlias = "Packet[VideoStream]"


class CaptureFailed(Exception):
    """The source can't be opened, or was lost. FFmpeg's own words hold the url with the password:
    they never get further than this module."""

    def __init__(self, reason: Reason, detail: str | None = None) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class Unit:
    """An access unit whose fate is to be decided.

    `picture` where it was decoded, `jpeg` where it is one already; neither where it was no good.
    """

    picture: VideoFrame | None
    jpeg: bytes | None
    pts_s: float | None
    arrival_s: float  # monotonic
    sender_us: int | None  # the camera's own UTC for it, if it says one

    @property
    def is_good(self) -> bool:
        return self.picture is not None or self.jpeg is not None


@contextmanager
def rtsp(url: str) -> Iterator["Source"]:
    """Raises CaptureFailed."""
    began_s = time.monotonic()
    with _translated(began_s):
        container = av.open(
            url, format="rtsp", options=RTSP, timeout=(OPEN_TIMEOUT_S, READ_TIMEOUT_S)
        )
    with closing(container):
        yield Source(container, is_live=True)


@contextmanager
def clip(path: Path) -> Iterator["Source"]:
    """Opened by us, so that FFmpeg sees bytes and no name. Raises CaptureFailed."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise CaptureFailed(Reason.NOT_FOUND, error.strerror) from None
    with file:
        with _translated(time.monotonic(), otherwise=Reason.NO_VIDEO):
            container = av.open(file, "r", options=FILES)
        with closing(container):
            yield Source(container, is_live=False)


@contextmanager
def _translated(began_s: float, otherwise: Reason = Reason.UNREACHABLE) -> Iterator[None]:
    """The border: what FFmpeg raises becomes a reason, and its words go no further."""
    try:
        yield
    except MemoryError:
        raise
    except av.error.InvalidDataError:
        # A peer that accepts and stays silent ends like one that talks nonsense, only later.
        waited = time.monotonic() - began_s >= 0.9 * min(OPEN_TIMEOUT_S, READ_TIMEOUT_S)
        raise CaptureFailed(Reason.TIMEOUT if waited else Reason.NO_VIDEO) from None
    except av.error.FFmpegError as error:
        raise _failure(error, otherwise) from None
    except OSError:
        raise CaptureFailed(Reason.UNREACHABLE) from None


def _failure(error: av.error.FFmpegError, otherwise: Reason = Reason.UNREACHABLE) -> CaptureFailed:
    if isinstance(error, av.error.ConnectionRefusedError):
        return CaptureFailed(Reason.UNREACHABLE, "connection refused")
    reasons = (reason for kind, reason in REASONS if isinstance(error, kind))
    return CaptureFailed(next(reasons, otherwise))


class Source:
    """One connection, or one clip, from its opening to its end."""

    def __init__(self, container: InputContainer, *, is_live: bool) -> None:
        self._container = container
        self._is_live = is_live
        if not container.streams.video:
            raise CaptureFailed(Reason.NO_VIDEO)
        self._stream: VideoStream = container.streams.video[0]
        self.codec = _codec_name(self._stream)
        if self.codec not in CODECS:
            raise CaptureFailed(Reason.CODEC_UNSUPPORTED, self.codec)
        self._stream.codec_context.options = DECODER
        self._stream.codec_context.thread_type = "NONE"
        self._sight = Sight(time.monotonic())
        self._sees_key = False
        self._arrivals: dict[float | None, float] = {}

    def facts(self, unit: Unit) -> SourceFacts:
        """As of this first picture: before it, a camera may not have said its size."""
        context, picture = self._stream.codec_context, unit.picture
        width, height = (picture.width, picture.height) if picture else (0, 0)
        return SourceFacts(
            codec=self.codec,
            width=width or context.width,
            height=height or context.height,
            fps=_plausible(self._stream.average_rate),
        )

    def units(self, loops: bool, wait: Callable[[float], None]) -> Iterator[Unit]:
        """Until the clip's end, or for ever. Raises CaptureFailed.

        A clip is played at real time: `wait` is called with the seconds until the next unit.
        """
        if self._is_live:
            yield from self._round(self._arrived)
            raise CaptureFailed(Reason.UNREACHABLE, "The camera closed the connection")
        playback = Playback(wait)
        while True:
            yield from self._round(playback.due)
            if not loops:
                return
            playback.rewind()
            self._container.seek(0)
            self._stream.codec_context.flush_buffers()

    def _round(self, arrival: Callable[[float | None], float]) -> Iterator[Unit]:
        demux = self._container.demux(self._stream)
        while True:
            packet = self._next(demux)
            if packet is None:
                return
            for unit in self._decode(packet, arrival):
                self._sight.note(unit.arrival_s, is_good=unit.is_good)
                yield unit

    def _next(self, demux: Iterator[VideoPacket]) -> "VideoPacket | None":
        """The next packet (the last one is empty, and flushes), or None at the end.

        FFmpeg answers the first time-out with the picture that its parser still held.
        """
        began_s = time.monotonic()
        try:
            packet = next(demux, None)
        except MemoryError:
            raise
        except (av.error.TimeoutError, av.error.ExitError):
            raise CaptureFailed(Reason.STALLED) from None
        except av.error.FFmpegError as error:
            raise _failure(error) from None
        if self._is_live and time.monotonic() - began_s >= READ_TIMEOUT_S:
            raise CaptureFailed(Reason.STALLED)
        return packet

    def _arrived(self, pts_s: float | None) -> float:
        """When the packet of this picture came: the decoder may have held it back for a while."""
        return self._arrivals.pop(pts_s, None) or time.monotonic()

    def _note_arrival(self, pts_s: float | None) -> None:
        if len(self._arrivals) >= LONGEST_REORDERING:
            self._arrivals.clear()
        self._arrivals[pts_s] = time.monotonic()

    def _decode(
        self, packet: VideoPacket, arrival: Callable[[float | None], float]
    ) -> Iterator[Unit]:
        pts_s = _seconds(packet.pts, packet.time_base)
        sender_us = _sender_us(packet)
        if self._is_live:
            self._note_arrival(pts_s)
        if packet.size and not self._joins(packet):
            yield Unit(None, None, pts_s, arrival(pts_s), sender_us)
            return
        if self.codec == "mjpeg" and packet.size:
            yield Unit(None, bytes(packet), pts_s, arrival(pts_s), sender_us)
            return
        try:
            pictures = self._stream.codec_context.decode(packet if packet.size else None)
        except av.error.EOFError:
            return
        except MemoryError:  # no fault of the picture's
            raise
        except av.error.FFmpegError:
            self._blame_memory()
            yield Unit(None, None, pts_s, arrival(pts_s), sender_us)
            return
        for picture in pictures:
            shown_s = _seconds(picture.pts, picture.time_base)
            good = None if picture.is_corrupt else picture
            yield Unit(good, None, shown_s, arrival(shown_s), _shifted(sender_us, pts_s, shown_s))

    def _joins(self, packet: VideoPacket) -> bool:
        """Nothing can be decoded before the first key picture."""
        self._sees_key = self._sees_key or packet.is_keyframe or self.codec == "mjpeg"
        return self._sees_key

    def _blame_memory(self) -> None:
        """Raises MemoryError where a picture's worth of it can't be had (it is asked for, and not
        touched): a decoder without memory says that the picture was no good."""
        context = self._stream.codec_context
        bytearray(context.width * context.height * DECODING_BYTES)

    def decode_jpeg(self, jpeg: bytes) -> VideoFrame | None:
        """For camera JPEGs that must be made anew; None where this one is no good."""
        with suppress(av.error.FFmpegError):
            for picture in self._stream.codec_context.decode(Packet(jpeg)):
                return picture
        return None


class Sight:
    """Whether there was anything to see of late, by the monotonic clock."""

    def __init__(self, began_s: float) -> None:
        self._began_s = began_s
        self._lately: deque[tuple[float, bool]] = deque()  # what came, and whether it was good
        self._good = 0  # of these

    def note(self, arrival_s: float, *, is_good: bool) -> None:
        """Raises CaptureFailed at a bad picture, where hardly one was good for so long: few, and
        less than half. So a slow camera is kept that shows few anyway."""
        self._lately.append((arrival_s, is_good))
        self._good += is_good
        since_s = arrival_s - BLIND_S
        while self._lately[0][0] < since_s or len(self._lately) > MOST_IN_SIGHT:
            self._good -= self._lately.popleft()[1]
        is_blind = self._good < FEW and 2 * self._good < len(self._lately)
        if is_blind and not is_good and since_s > self._began_s:
            raise CaptureFailed(Reason.DECODE_ERRORS)


class Playback:
    """When a clip's pictures are due, by the monotonic clock."""

    def __init__(self, wait: Callable[[float], None]) -> None:
        self._wait = wait
        self._zero_s: float | None = None  # when the picture of time 0 was due
        self._due_s = time.monotonic()
        self._spacing_s = 0.0

    def due(self, pts_s: float | None) -> float:
        """Returns at that time. A machine too slow for the clip shows it late, not faster."""
        now_s, next_s = time.monotonic(), self._due_s + self._spacing_s
        due_s = next_s if self._zero_s is None or pts_s is None else self._zero_s + pts_s
        if due_s - self._due_s > LONGEST_GAP_S:
            due_s = next_s
        if now_s - due_s > LATEST_S:
            due_s = now_s
        self._wait(max(0.0, due_s - now_s))
        self._spacing_s = max(0.0, due_s - self._due_s)
        self._due_s = due_s
        self._zero_s = None if pts_s is None else due_s - pts_s
        return due_s

    def rewind(self) -> None:
        """The clip begins again, one picture's time after its last."""
        self._zero_s = None


def _codec_name(stream: VideoStream) -> str:
    context = stream.codec_context
    return "unknown" if context is None else context.name


def _plausible(rate: Fraction | None) -> float | None:
    return float(rate) if rate and 0 < rate <= 240 else None


def _seconds(pts: int | None, time_base: Fraction | None) -> float | None:
    return None if pts is None or time_base is None else float(pts * time_base)


def _shifted(sender_us: int | None, packet_s: float | None, picture_s: float | None) -> int | None:
    """The sender's time belongs to the packet; the decoder may show another picture first."""
    if sender_us is None or packet_s is None or picture_s is None:
        return sender_us
    return sender_us + round((picture_s - packet_s) * 1_000_000)


def _sender_us(packet: VideoPacket) -> int | None:
    """Producer reference time: from the camera's RTCP sender report; early packets have none."""
    if not packet.has_sidedata("prft"):
        return None
    try:
        (sender_us,) = struct.unpack_from("<q", bytes(packet.get_sidedata("prft")))
    except struct.error:
        return None
    return int(sender_us) or None
