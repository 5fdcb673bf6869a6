"""What surrounds a stream, small enough to be stepped: a clock, cameras, a producer, a topic."""

import socket
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from schemas.messages import Clock, Dropped, SourceFacts, StreamSpec
from services.ingestor import link
from services.ingestor.cameras import Beginnings
from services.ingestor.children import KILL_AFTER_S
from services.ingestor.newest import Newest
from services.ingestor.room import Room
from services.ingestor.supervise import Surroundings
from services.ingestor.unseal import SealBroken

BEGIN = datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)
BROKEN = "broken"  # a seal that does not open
H264 = SourceFacts(codec="h264", width=2, height=2)


class FakeTime:
    """In the place of the module `time`, and of `now`."""

    def __init__(self):
        self.at_s = 1000.0

    def monotonic(self):
        return self.at_s

    def now(self):
        return BEGIN + timedelta(seconds=self.at_s)


class FakeChild:
    """A camera's process that does what a test says, and ends when it is killed."""

    pid = 4711
    ended_by = None

    def __init__(self, clock):
        self.link, self._theirs = socket.socketpair()
        self._clock = clock
        self._ending_since_s = None
        self.is_over = False

    @property
    def is_ending(self):
        return self._ending_since_s is not None

    def begin_ending(self):
        if self._ending_since_s is None:
            self._ending_since_s = self._clock.monotonic()

    def press(self):
        if self._clock.monotonic() - self._ending_since_s > KILL_AFTER_S:
            self.kill()

    def kill(self):
        self.begin_ending()
        self.end()

    def memory_bytes(self):
        return 1

    def say(self, *messages):
        for message in messages:
            link.send(self._theirs, message, b"jpeg" if isinstance(message, link.Shot) else b"")

    def end(self, *last_words):
        if not self.is_over:
            self.say(*last_words)
            self._theirs.close()
            self.is_over = True


class World:
    """Room, acknowledgements and deliveries come when a test says so."""

    def __init__(self):
        self.clock = FakeTime()
        self.has_room = True
        self.loses = False  # statuses, which the broker then refuses for good
        self.cameras: Room[tuple[int, str]] = Room(1)  # places for them
        self.children = []
        self.said = []
        self.events = []
        self.sent = []
        self.has_refused = False  # a status, since the last one that was taken
        self._unacknowledged: deque[Callable[[], object]] = deque()
        self._receipts: deque[Callable[[bool], None]] = deque()

    def surroundings(self):
        return Surroundings(
            instance="me",
            endpoint="http://x",
            newest=Newest(),
            room=self.cameras,
            start=self._start,
            order=self._order,
            send=self._send,
            say=self._say,
            beat=lambda heartbeat: self.has_room,
            tell=self._tell,
            buffer_bytes=1_000_000,
            heartbeat_s=10,
            retry_base_s=1,
            retry_cap_s=8,
            beginnings=Beginnings(at_once=1),
        )

    def _start(self):
        self.children.append(FakeChild(self.clock))
        return self.children[-1]

    def _order(self, spec: StreamSpec) -> link.Order:
        if spec.sealed_credentials == BROKEN:
            raise SealBroken("damaged")
        return link.Order(
            stream_id=spec.stream_id,
            url=spec.url,
            username=None,
            password=None,
            frame_width=spec.frame_width,
            fps=spec.fps,
            trust_source_clock=False,
            verify_tls=True,
            media_path="",
            allowed=(),
            denied=(),
        )

    def _say(self, status, slot, acknowledged, lost):
        self.has_refused |= not self.has_room or self.loses
        if self.loses:
            lost()
        elif self.has_room:
            self.said.append((status, self.has_refused))
            self.has_refused = False
            self._unacknowledged.append(acknowledged)
        return self.has_room or self.loses

    def _tell(self, event, acknowledged, lost):
        if self.has_room:
            self.events.append(event)
            self._unacknowledged.append(acknowledged)
        return self.has_room

    def _send(self, frame, delivered):
        self.sent.append((frame.epoch, frame.seq))
        self._receipts.append(delivered)
        return True

    def acknowledge(self):
        """All that was said and told."""
        while self._unacknowledged:
            self._unacknowledged.popleft()()

    def deliver(self, *, well):
        """The frames that were sent so far, in order."""
        for _ in range(len(self._receipts)):
            self._receipts.popleft()(well)

    @property
    def last(self):
        """The last status on the topic."""
        return self.said[-1][0] if self.said else None


def shot(clock):
    return link.Shot(
        captured_at_us=int(clock.now().timestamp() * 1_000_000),
        at_s=clock.monotonic(),
        width=2,
        height=2,
        clock=Clock(),
        encode_ms=1,
        captured=1,
        dropped=Dropped(),
    )


def heard(camera, count):
    """Until its reader has read so many messages in all; it is a thread."""
    until_s = time.monotonic() + 5
    while camera._words < count:
        assert time.monotonic() < until_s
        time.sleep(0)


def parted(camera):
    """Until its reader has come to the end of the link."""
    camera._reader.join(5)
    assert not camera._reader.is_alive()
