"""A stream's records leave in the order in which its frames came, whichever was answered first.

A finished frame waits for its predecessors. None waits for ever: each has a deadline by which it is
settled, answered or not.
"""

from collections import deque
from dataclasses import dataclass
from typing import Generic, TypeVar

V = TypeVar("V")


@dataclass(eq=False, slots=True)
class Place(Generic[V]):
    stream_id: str
    value: V | None = None


class Order(Generic[V]):
    """Of all streams of one partition; a stream with nothing under way takes no memory."""

    def __init__(self) -> None:
        self._places: dict[str, deque[Place[V]]] = {}

    def __len__(self) -> int:
        return len(self._places)

    def enter(self, stream_id: str) -> Place[V]:
        place: Place[V] = Place(stream_id)
        self._places.setdefault(stream_id, deque()).append(place)
        return place

    def finish(self, place: Place[V], value: V) -> list[V]:
        """All that may leave now: nothing while a predecessor is under way, else also successors
        that were only waiting for this one."""
        place.value = value
        queue = self._places[place.stream_id]
        leaving: list[V] = []
        while queue and queue[0].value is not None:
            leaving.append(queue[0].value)
            queue.popleft()
        if not queue:
            del self._places[place.stream_id]
        return leaving
