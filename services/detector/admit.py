"""Which frame is looked at next: of each stream the newest, and streams take turns."""

from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar


class Waiting(Protocol):
    @property
    def stream_id(self) -> str: ...

    @property
    def size(self) -> int:
        """Bytes."""


W = TypeVar("W", bound=Waiting)


class Admission(Generic[W]):
    """Per stream a mailbox of one frame, and a bound on those in flight.

    A stream with a frame waiting has one place in the queue, whatever it sends; a newer frame takes
    over the place of the older. Streams with nothing waiting and nothing in flight are forgotten.
    """

    def __init__(self, in_flight_per_stream: int, waiting_bytes: int) -> None:
        self._in_flight_limit = in_flight_per_stream
        self._bytes_limit = waiting_bytes
        self._bytes = 0
        self._in_flight: Counter[str] = Counter()
        self._ready: OrderedDict[str, W] = OrderedDict()  # may be taken, next first
        self._blocked: OrderedDict[str, W] = OrderedDict()  # too many of the stream in flight

    @property
    def waiting(self) -> int:
        return len(self._ready) + len(self._blocked)

    @property
    def in_flight(self) -> int:
        return self._in_flight.total()

    @property
    def streams(self) -> int:
        return len(self._in_flight.keys() | self._ready.keys() | self._blocked.keys())

    def offer(self, frame: W) -> list[W]:
        """Frames that lose their place: the one replaced, and the longest waiting of other streams
        where all together are over the limit of bytes."""
        queue = self._queue_of(frame.stream_id)
        replaced = queue.get(frame.stream_id)
        queue[frame.stream_id] = frame
        self._bytes += frame.size
        lost = [] if replaced is None else [replaced]
        self._bytes -= sum(older.size for older in lost)
        while self._bytes > self._bytes_limit and self.waiting > 1:
            lost.append(self._pop_oldest_but(frame.stream_id))
        return lost

    def take(self) -> W | None:
        """The frame whose turn it is, now in flight until `leave`."""
        if not self._ready:
            return None
        stream_id, frame = self._ready.popitem(last=False)
        self._bytes -= frame.size
        self._in_flight[stream_id] += 1
        return frame

    def leave(self, stream_id: str) -> None:
        """One frame of the stream is no longer in flight."""
        self._in_flight[stream_id] -= 1
        if not self._in_flight[stream_id]:
            del self._in_flight[stream_id]
        if stream_id in self._blocked:
            self._ready[stream_id] = self._blocked.pop(stream_id)

    def withdraw(self, is_gone: Callable[[W], bool]) -> None:
        """Forgets waiting frames that are no longer ours to look at."""
        for queue in (self._ready, self._blocked):
            for stream_id in [s for s, frame in queue.items() if is_gone(frame)]:
                self._bytes -= queue.pop(stream_id).size

    def _queue_of(self, stream_id: str) -> OrderedDict[str, W]:
        free = self._in_flight[stream_id] < self._in_flight_limit
        return self._ready if free else self._blocked

    def _pop_oldest_but(self, stream_id: str) -> W:
        for queue in (self._blocked, self._ready):
            for other in queue:
                if other != stream_id:
                    frame = queue.pop(other)
                    self._bytes -= frame.size
                    return frame
        raise LookupError("nothing else waits")
