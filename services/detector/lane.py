"""What is under way of one partition, for as long as it is held this time."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from schemas.messages import DetectionRecord, Frame, Timing, from_unix_us
from services.detector.order import Order, Place
from services.detector.prefix import Prefix, Ticket
from services.detector.record import Finding, frame_facts, record_of


@dataclass(eq=False)
class Lane:
    """After a rebalance there is a new one, also for a partition that was held before: what is not
    committed is delivered again."""

    partition: int
    held: bool = True
    prefix: Prefix = field(default_factory=Prefix)
    order: "Order[Settled]" = field(default_factory=Order)
    committed: int | None = None  # by us, since it was assigned
    tasks: "set[asyncio.Task[None]]" = field(default_factory=set)

    def drop(self) -> None:
        self.held = False
        for task in self.tasks:
            task.cancel()


@dataclass(eq=False, slots=True)
class Job:
    """One frame under way."""

    frame: Frame  # without its JPEG once that is settled
    published_ms: int  # the broker's append time, Unix
    lane: Lane
    ticket: Ticket
    place: "Place[Settled]"
    traceparent: str
    age_ms: float  # when received
    received: float = field(default_factory=time.monotonic)
    began: float | None = None  # its call of the AI service
    answered: float | None = None

    @property
    def stream_id(self) -> str:
        return self.frame.stream_id

    @property
    def size(self) -> int:
        return len(self.frame.jpeg)

    @property
    def age_now_ms(self) -> float:
        return self.age_ms + (time.monotonic() - self.received) * 1000

    def settle(self, finding: Finding) -> "list[Settled]":
        """The frame has its outcome; returns the records that may leave now, in seq order."""
        settled = self.settled_as(finding)
        self.frame = msgspec.structs.replace(self.frame, jpeg=b"")
        return self.lane.order.finish(self.place, settled)

    def settled_as(self, finding: Finding) -> "Settled":
        facts = frame_facts(self.frame, from_unix_us(self.published_ms * 1000))
        return Settled(self, record_of(facts, self.stream_id, finding, self._timing()))

    def _timing(self) -> Timing:
        return Timing(
            queue_ms=_ms(self.received, self.began),
            infer_ms=_ms(self.began, self.answered),
            since_capture_ms=self.age_now_ms,
        )


@dataclass(frozen=True, slots=True)
class Settled:
    job: Job
    record: DetectionRecord


def unaccounted(lanes: Mapping[int, Lane]) -> int:
    return sum(len(lane.prefix) for lane in lanes.values())


def _ms(since: float | None, until: float | None) -> float | None:
    return None if since is None or until is None else (until - since) * 1000
