"""Specs without a topic: keeps what is said by them."""

from schemas.messages import Event
from services.gateway.reconciler.specs import Place


class Spoken:
    def __init__(self, *, delivers: bool = True) -> None:
        self.delivers = delivers
        self.asked = 0  # whether all is delivered, and how often
        self.slots = 4
        self.said: dict[Place, None] = {}
        self.told: list[Event] = []
        self.forgotten: list[Place] = []

    def tell(self, event: Event) -> None:
        self.told.append(event)

    def forget_status(self, place: Place, home: int | None = None) -> None:
        self.forgotten.append(place)

    def delivered(self, within_s: float) -> bool:
        self.asked += 1
        return self.delivers
