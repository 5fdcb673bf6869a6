"""How many cameras run at once, and whose turn it is next: first come, first served."""

from typing import Generic, TypeVar

T = TypeVar("T")


class Room(Generic[T]):
    """Who has a place keeps it until it leaves; nobody is sent away for another."""

    def __init__(self, places: int) -> None:
        self._places = places
        self._inside: dict[T, None] = {}
        self._waiting: dict[T, None] = {}  # who came first is first; none while there is a place

    @property
    def taken(self) -> int:
        return len(self._inside)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def take(self, who: T) -> bool:
        """Whether it has a place; else it waits for one from the first time that it asked."""
        if who not in self._inside and who not in self._waiting:
            free = len(self._inside) < self._places
            (self._inside if free else self._waiting)[who] = None
        return who in self._inside

    def leave(self, who: T) -> None:
        """Also who only waited. The place is the next one's at once."""
        self._waiting.pop(who, None)
        if who in self._inside:
            del self._inside[who]
            first = next(iter(self._waiting), None)
            if first is not None:
                del self._waiting[first]
                self._inside[first] = None
