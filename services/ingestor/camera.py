"""One camera, in a process of its own: locate -> relay -> capture -> pace -> compress -> ingestor.

Crash-only: it owns nothing but its connection. It ends when it is told to, when the source is lost
(having said why), and within moments of its ingestor's death: at the end of the link, and by the
kernel at the end of the fork server, its parent, which follows.
"""

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from ipaddress import ip_network
from pathlib import Path
from typing import NoReturn

from schemas.messages import Dropped, Reason, now, unix_us
from services.ingestor.capture import CaptureFailed, Source, Unit, clip, rtsp
from services.ingestor.compress import Compressed, Compressor
from services.ingestor.link import (
    Counted,
    Ended,
    Failed,
    Opened,
    Order,
    Shot,
    Stop,
    Tune,
    Up,
    receive_down,
    send,
)
from services.ingestor.locate import (
    FileSource,
    Forbidden,
    NotFound,
    Resolve,
    RtspSource,
    Rules,
    addresses,
    locate,
)
from services.ingestor.pace import Pacer
from services.ingestor.relay import NotReached, Place, relay
from services.ingestor.stamp import MediaClock, WallClock, choose
from services.process.logging import configure_logging
from services.process.redact import hide
from services.process.stop import exit_when_a_thread_dies

LARGEST_JPEG = 1_900_000  # bytes; with its headers it must fit into LARGEST_MESSAGE
COUNT_EVERY_S = 1.0
HUNG_UP = "it closed the connection"  # as it does where it has too many viewers
NO_USER = "none was given"
OUT_OF_MEMORY = "it needed more memory than INGESTOR_CAMERA_MEMORY_BYTES allows"


def main(link: socket.socket, resolve: Resolve = addresses) -> NoReturn:
    """Never returns into multiprocessing's shut-down, which would wait and clean up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; we are told
    configure_logging("camera", "WARNING")
    exit_when_a_thread_dies()
    order = receive_down(link)
    if not isinstance(order, Order):
        os._exit(0)
    hide(order.password or "")
    controls = Controls(link, Tune(order.fps, order.trust_source_clock))
    threading.Thread(target=controls.follow, name="controls", daemon=True).start()
    with suppress(OSError):  # nobody listens any more
        send(link, show(order, Report(link, controls), resolve))
    os._exit(0)


class Controls:
    """What the ingestor wants of this camera, as of now."""

    def __init__(self, link: socket.socket, tune: Tune) -> None:
        self._link = link
        self._stop = threading.Event()
        self.tune = tune

    @property
    def stopped(self) -> bool:
        return self._stop.is_set()

    def wait(self, seconds: float) -> None:
        self._stop.wait(seconds)

    def follow(self) -> None:
        """In its own thread: C code that hangs in the other one can't keep this process alive."""
        while (message := receive_down(self._link)) is not None:
            if isinstance(message, Tune):
                self.tune = message
            elif isinstance(message, Stop):
                self._stop.set()
        os._exit(0)


def show(order: Order, report: "Report", resolve: Resolve) -> Ended | Failed:
    """Until the source is over or lost; then the way it ended."""
    try:
        with opened(order, resolve) as (source, loops):
            return play(source, loops, order, report)
    except (CaptureFailed, NotReached) as error:
        return Failed(error.reason, error.detail)
    except Forbidden as error:
        return Failed(Reason.SOURCE_FORBIDDEN, str(error))
    except NotFound as error:
        missing = order.url.startswith("file:")
        return Failed(Reason.NOT_FOUND if missing else Reason.UNREACHABLE, str(error))
    except MemoryError:  # a hostile picture, or a leak
        return Failed(Reason.DECODER_CRASHED, OUT_OF_MEMORY)
    except Exception as error:  # noqa: BLE001 -- a traceback would print FFmpeg's url and password
        return Failed(Reason.DECODER_CRASHED, type(error).__name__)


@contextmanager
def opened(order: Order, resolve: Resolve = addresses) -> Iterator[tuple[Source, bool]]:
    rules = Rules(
        Path(order.media_path),
        tuple(ip_network(network) for network in order.allowed),
        tuple(ip_network(network) for network in order.denied),
    )
    location = locate(order.url, order.username, order.password, rules, resolve)
    if isinstance(location, FileSource):
        with clip(location.path) as source:
            yield source, location.loops
    else:
        with relayed(location, order.verify_tls) as source:
            yield source, False


@contextmanager
def relayed(location: RtspSource, verifies: bool) -> Iterator[Source]:
    """Raises Forbidden where the camera sends us elsewhere: nobody goes there."""
    name = location.host if location.is_secured else None
    with relay(Place(location.addresses, location.port, name, verifies)) as way:
        try:
            with rtsp(location.through(way.port)) as source:
                yield source
        except CaptureFailed as failure:
            if way.was_redirected:
                raise Forbidden("It redirects to another address") from None
            if way.was_hung_up and failure.reason is Reason.NO_VIDEO:
                raise CaptureFailed(Reason.UNREACHABLE, HUNG_UP) from None
            if failure.reason is Reason.AUTH_FAILED and not location.has_user:
                raise CaptureFailed(failure.reason, NO_USER) from None
            raise


def play(source: Source, loops: bool, order: Order, report: "Report") -> Ended | Failed:
    """The pipeline. A lost source is told of before its connection is closed, which may take as
    long as the time-out that was just waited for."""
    pacer, clock = Pacer(report.controls.tune.fps), MediaClock()
    compressor = Compressor(order.frame_width)
    try:
        for unit in source.units(loops, report.controls.wait):
            if report.controls.stopped:
                break
            instant = clock.at(unit.pts_s, unit.arrival_s)
            pacer.retune(report.controls.tune.fps)
            if unit.picture is None and unit.jpeg is None:
                report.drop("corrupt")
            elif not pacer.admits(instant.media_s):
                report.drop("fps_limit")
            else:
                report.introduce(source, unit)
                report.emit(compress(compressor, source, unit), unit, instant.at_s)
        report.settle()
    except CaptureFailed as error:
        send(report.link, Failed(error.reason, error.detail))
        os._exit(0)
    return Ended()


def compress(compressor: Compressor, source: Source, unit: Unit) -> tuple[Compressed | None, float]:
    """The JPEG, or None where there is no usable picture; and the milliseconds it took."""
    began_s = time.perf_counter()
    made = _compressed(compressor, source, unit)
    return made, (time.perf_counter() - began_s) * 1000


def _compressed(compressor: Compressor, source: Source, unit: Unit) -> Compressed | None:
    picture = unit.picture
    if unit.jpeg is not None:
        try:
            passed = compressor.passed(unit.jpeg)
        except ValueError:
            return None
        if passed is not None:
            return passed
        picture = source.decode_jpeg(unit.jpeg)
    return None if picture is None else compressor.compress(picture)


class Report:
    """What goes up the link: frames, and the counts that make the books balance."""

    def __init__(self, link: socket.socket, controls: Controls) -> None:
        self.link = link
        self.controls = controls
        self._wall = WallClock(unix_us(now()), time.monotonic())
        self._is_introduced = False
        self._dropped: dict[str, int] = {}
        self._counted_at_s = time.monotonic()

    def drop(self, cause: str) -> None:
        """Count it; a report of nothing but drops is due every second."""
        self._dropped[cause] = self._dropped.get(cause, 0) + 1
        if time.monotonic() - self._counted_at_s > COUNT_EVERY_S:
            self.settle()

    def settle(self) -> None:
        """What was dropped since the last report."""
        dropped = self._taken()
        if dropped.total:
            self._send(Counted(dropped.total, dropped))

    def introduce(self, source: Source, unit: Unit) -> None:
        """What the source is, once."""
        if not self._is_introduced:
            self._is_introduced = True
            self._send(Opened(source.facts(unit)))

    def emit(self, made: tuple[Compressed | None, float], unit: Unit, at_s: float) -> None:
        compressed, encode_ms = made
        if compressed is None or len(compressed.jpeg) > LARGEST_JPEG:
            self.drop("corrupt" if compressed is None else "too_large")
            return
        captured_at_us, clock = choose(
            self._wall.unix_us(at_s),
            unit.sender_us,
            trusted=self.controls.tune.trust_source_clock,
        )
        dropped = self._taken()
        shot = Shot(
            captured_at_us=captured_at_us,
            at_s=at_s,
            width=compressed.width,
            height=compressed.height,
            clock=clock,
            encode_ms=encode_ms,
            captured=dropped.total + 1,
            dropped=dropped,
        )
        self._send(shot, compressed.jpeg)

    def _taken(self) -> Dropped:
        dropped = Dropped(**self._dropped)
        self._dropped.clear()
        self._counted_at_s = time.monotonic()
        return dropped

    def _send(self, message: Up, jpeg: bytes = b"") -> None:
        send(self.link, message, jpeg)
