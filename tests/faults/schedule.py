"""A seed and a length in minutes -> which fault when. Pure: the same seed, the same schedule."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from random import Random

from typing_extensions import override

SERVICES = ("ingestor", "detector", "persister", "gateway", "ai")
SESSION_S = 10.0
"""The group session of ingestor, detector and persister in a local stack."""

FAULTS_A_MINUTE = 2.8
AT_LEAST = 6
QUIET_SHARE = 0.2  # of each fault's own time: so some overlap, most don't


@dataclass(frozen=True)
class Kind:
    """A fault that can be planned: what is done (`tests/faults/kinds.py`), to whom, for how long,
    and in which row of the reliability table it stands."""

    name: str
    target: str
    row: int
    lasts: tuple[float, float] = (0.0, 0.0)  # seconds, from and to


@dataclass(frozen=True)
class Planned:
    kind: Kind
    at: float  # seconds since the start
    lasts: float
    pick: int
    """Which of those there are: the replica, the camera."""

    @override
    def __str__(self) -> str:
        lasting = f" for {self.lasts:.0f} s" if self.lasts else ""
        return f"{self.at:6.1f} s  {self.kind.name} {self.kind.target}{lasting}"


SHORT_STOP = (0.3 * SESSION_S, 0.8 * SESSION_S)
LONG_STOP = (2 * SESSION_S, 2.2 * SESSION_S)

KILLS = {
    "ingestor": Kind("kill", "ingestor", 1),
    "detector": Kind("kill", "detector", 3),
    "persister": Kind("kill", "persister", 4),
    "gateway": Kind("kill", "gateway", 5),
    "ai": Kind("kill", "ai", 8),
}
TERMS = [Kind("term", service, 16) for service in SERVICES]
SHORT_STOPS = [
    Kind("stop", service, kill.row if service != "ingestor" else 2, SHORT_STOP)
    for service, kill in KILLS.items()
]
LONG_STOPS = [
    Kind("stop", "ingestor", 2, LONG_STOP),
    Kind("stop", "detector", 3, LONG_STOP),
    Kind("stop", "persister", 4, LONG_STOP),
]
CHILD = Kind("kill", "camera child", 1)
BROKER_KILL = Kind("kill", "kafka", 6)
BROKER_TERM = Kind("term", "kafka", 6)
BROKER_AWAY = Kind("away", "kafka", 6, (5.0, 30.0))
DATABASE_KILL = Kind("kill", "postgres", 7)
DATABASE_AWAY = Kind("away", "postgres", 7, (10.0, 60.0))
DATABASE_SESSIONS = Kind("sessions", "postgres", 7, (5.0, 20.0))
CAMERA_FAULTS = [
    Kind(fault, "camera", 9, (5.0, 20.0)) for fault in ("blackhole", "reset", "halfopen", "garbage")
]

DECK: tuple[Kind, ...] = (
    KILLS["ingestor"],
    BROKER_KILL,
    KILLS["detector"],
    DATABASE_AWAY,
    KILLS["persister"],
    CHILD,
    KILLS["gateway"],
    KILLS["ai"],
    CAMERA_FAULTS[0],
    LONG_STOPS[0],
    DATABASE_SESSIONS,
    BROKER_AWAY,
    *TERMS,
    *KILLS.values(),
    *LONG_STOPS[1:],
    DATABASE_AWAY,
    BROKER_KILL,
    *SHORT_STOPS,
    *KILLS.values(),
    CAMERA_FAULTS[1],
    DATABASE_KILL,
    BROKER_TERM,
    *KILLS.values(),
    *CAMERA_FAULTS[2:],
    CHILD,
    DATABASE_AWAY,
    BROKER_AWAY,
    *KILLS.values(),
    DATABASE_SESSIONS,
    BROKER_KILL,
)
"""What twenty minutes hold; less time holds the first of it, so the first are of many kinds."""

ROWS = frozenset(kind.row for kind in DECK)


def plan(seed: int, minutes: float, rows: Collection[int] = ROWS) -> list[Planned]:
    """In order of time. Raises ValueError where no fault is of these rows."""
    deck = [kind for kind in DECK if kind.row in rows]
    if not deck:
        raise ValueError(f"no fault of these rows; there are {sorted(ROWS)}")
    random = Random(seed)
    kinds = list(islice(cycle(deck), max(AT_LEAST, round(FAULTS_A_MINUTE * minutes))))
    random.shuffle(kinds)
    return spread(kinds, 60 * minutes, random)


def spread(kinds: Sequence[Kind], seconds: float, random: Random) -> list[Planned]:
    """One in each of as many spans; one that lasts may reach into the next."""
    span = seconds / len(kinds)
    longest = max(seconds / 5, SESSION_S)
    return [
        Planned(
            kind=kind,
            at=span * (place + random.uniform(0, 1 - QUIET_SHARE)),
            lasts=lasting(kind, longest, random),
            pick=random.randrange(1000),
        )
        for place, kind in enumerate(kinds)
    ]


def lasting(kind: Kind, longest: float, random: Random) -> float:
    """A stop that outlasts a session does so in a short run, too."""
    shortest, most = kind.lasts
    return random.uniform(shortest, max(shortest, min(most, longest)))
