"""The values that steps hand on: what came from Kafka, decoded or refused, and from where."""

from dataclasses import dataclass
from typing import Any

from schemas.topics import Origin


@dataclass(frozen=True)
class Arrival:
    """A message and where it stood; None: a tombstone."""

    origin: Origin
    message: Any  # of the type its topic carries; each step takes those of its own topic


@dataclass(frozen=True)
class Refusal:
    """A message that can't be stored, and why; it goes to the dead letters."""

    origin: Origin
    reason: str  # a stable code
    error: str
