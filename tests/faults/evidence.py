"""What the checker has seen: plain facts of the topics and the tables, each with its place."""

from collections import defaultdict
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from typing_extensions import override

from schemas.messages import Heartbeat, Outcome

Partition = tuple[str, int]
"""A topic (without its prefix) and a partition of it."""


class FrameKey(NamedTuple):
    stream_id: str
    epoch: int
    seq: int

    @override
    def __str__(self) -> str:
        return f"{self.stream_id}/{self.epoch}/{self.seq}"


class Place(NamedTuple):
    topic: str
    partition: int
    offset: int

    @override
    def __str__(self) -> str:
        return f"{self.topic}[{self.partition}]@{self.offset}"


class SeenFrame(NamedTuple):
    at: Place
    key: FrameKey
    captured: int
    dropped: int
    detect: bool


class SeenDetection(NamedTuple):
    """Equal to its row in everything that a reader relies on."""

    id: UUID
    label: str
    confidence: float
    captured_at: datetime
    box: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)


class SeenRecord(NamedTuple):
    """Of the live model; replays are no evidence."""

    at: Place
    key: FrameKey
    outcome: Outcome
    detections: tuple[SeenDetection, ...]
    faults: tuple[str, ...] = ()  # what is wrong with the record by itself


class SeenHeartbeat(NamedTuple):
    at: Place
    heartbeat: Heartbeat


class SeenStatus(NamedTuple):
    at: Place
    stream_id: str
    is_tombstone: bool
    epoch: int = 0


class StoredRow(NamedTuple):
    key: FrameKey
    position: int
    detection: SeenDetection


class StoredStatus(NamedTuple):
    partition: int
    offset: int


@dataclass
class Evidence:
    """Sequences are in the order of their partitions' offsets.

    `cut`: what lies below these offsets must be accounted for everywhere; what lies above is there
    to explain what a live stack did meanwhile.
    """

    frames: list[SeenFrame] = field(default_factory=list)
    records: list[SeenRecord] = field(default_factory=list)
    heartbeats: list[SeenHeartbeat] = field(default_factory=list)
    statuses: list[SeenStatus] = field(default_factory=list)
    undecodable: list[Place] = field(default_factory=list)
    buried: set[Place] = field(default_factory=set)  # whence the dead letters came
    begins: defaultdict[Partition, int] = field(default_factory=lambda: defaultdict(int))
    cut: dict[Partition, int] = field(default_factory=dict)
    behind: list[Place] = field(default_factory=list)  # where the persister still stood
    rows: list[StoredRow] = field(default_factory=list)
    codes: dict[FrameKey, int] = field(default_factory=dict)  # none that is 0
    stored_statuses: dict[str, StoredStatus] = field(default_factory=dict)

    def is_settled(self, at: Place) -> bool:
        """Whether it lies within the cut; without a cut for its partition everything does."""
        return at.offset < self.cut.get((at.topic, at.partition), at.offset + 1)

    def retention_took(self, partition: Partition) -> bool:
        return self.begins[partition] > 0
