"""Specs without a topic: keeps what is said by them."""

from math import inf

from schemas.messages import Event, StreamSpec
from services.gateway.reconciler.specs import Place


class Spoken:
    def __init__(self, *, delivers: bool = True, holds: float = inf) -> None:
        """`holds`: as many messages as the client's queue does."""
        self.delivers = delivers
        self.waits = 0  # how often somebody waited until all is delivered
        self.passes = 0
        self.slots = 4
        self.current = True
        self.said: dict[Place, StreamSpec | None] = {}
        self.told: list[Event] = []
        self.forgotten: list[Place] = []
        self._holds = holds

    def read(self) -> None:
        self.passes += 1

    def tell(self, event: Event) -> None:
        self._check_room()
        self.told.append(event)

    def forget_status(self, place: Place, home: int | None = None) -> None:
        self._check_room()
        self.forgotten.append(place)

    def _check_room(self) -> None:
        if len(self.told) + len(self.forgotten) >= self._holds:
            raise BufferError

    def delivered(self, within_s: float) -> bool:
        self.waits += within_s > 0
        return self.delivers or not (self.told or self.forgotten)

    def close(self) -> None:
        self.current = False
