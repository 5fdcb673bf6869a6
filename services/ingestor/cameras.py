"""Camera processes as their ingestor sees them: what each has said, and how many begin at once.

All of it runs in the control loop, or in a probe's thread, but for the reader of a camera's link.
"""

import socket
import threading
import time
from collections.abc import Callable

import structlog
from msgspec import MsgspecError

from services.ingestor import link
from services.ingestor.children import Child

log = structlog.get_logger()

HUNG_S = 15.0  # without a word from a camera, whose own time-outs are shorter
LONGEST_TICK_S = 0.5  # of a longer one, we slept and not the camera
BEGINNING_S = 1.0  # a process that shows nothing by then waits for its camera, and costs little

Publish = Callable[[link.Shot | link.Counted, bytes], None]


class Camera:
    """A running camera process and what it has said so far."""

    def __init__(self, child: Child, order: link.Order, publish: Publish) -> None:
        """`publish` is called from the reader."""
        self.child = child
        self.order = order
        self.opened: link.Opened | None = None
        self.last_word: link.Ended | link.Failed | None = None
        self.shots = 0
        self.was_stopped = False
        self._publish = publish
        self._words = 0
        self._words_seen = 0
        self._quiet_s = 0.0
        self._began_s = time.monotonic()
        self._reader = threading.Thread(target=self._read, name=f"camera-{child.pid}", daemon=True)
        _tell(child.link, order)
        self._reader.start()

    @property
    def is_over(self) -> bool:
        """Whether the process has ended and all it said has been read."""
        return not self._reader.is_alive() and self.child.is_over

    @property
    def is_beginning(self) -> bool:
        is_early = time.monotonic() - self._began_s < BEGINNING_S
        return is_early and self.opened is None and self._reader.is_alive()

    def close(self) -> None:
        self.child.link.close()

    def tune(self, order: link.Order) -> None:
        """Live, where it differs."""
        if order != self.order:
            self.order = order
            _tell(self.child.link, link.Tune(order.fps, order.trust_source_clock))

    def stop(self) -> None:
        if not self.child.is_ending:
            self.was_stopped = True
            _tell(self.child.link, link.Stop())
            self.child.begin_ending()

    def is_hung(self, tick_s: float) -> bool:
        """Whether it has been silent for too long, by the time that we were awake ourselves."""
        silent = self._words == self._words_seen
        self._words_seen = self._words
        self._quiet_s = self._quiet_s + min(tick_s, LONGEST_TICK_S) if silent else 0.0
        return self._quiet_s > HUNG_S

    def _read(self) -> None:
        """In a thread of its own, to the end of the link."""
        try:
            while (received := link.receive_up(self.child.link)) is not None:
                self._hear(*received)
                self._words += 1
        except (MsgspecError, OSError) as error:
            log.warning("camera.garbled", pid=self.child.pid, error=type(error).__name__)
            self.child.kill()

    def _hear(self, message: link.Up, jpeg: bytes) -> None:
        if isinstance(message, link.Shot | link.Counted):
            self._publish(message, jpeg)
            self.shots += isinstance(message, link.Shot)
        elif isinstance(message, link.Opened):
            self.opened = message
        else:
            self.last_word = message


def _tell(down: socket.socket, message: link.Down) -> None:
    """A camera that is gone will be noticed soon enough."""
    try:
        link.send(down, message)
    except OSError:
        return


class Beginnings:
    """Few cameras at a time: a start costs more than a second of showing, and a hundred at once
    would take the processor from all that run."""

    def __init__(self, at_once: int) -> None:
        self._at_once = at_once
        self._cameras: list[Camera] = []

    def have_room(self) -> bool:
        self._cameras = [camera for camera in self._cameras if camera.is_beginning]
        return len(self._cameras) < self._at_once

    def note(self, camera: Camera) -> None:
        self._cameras.append(camera)
