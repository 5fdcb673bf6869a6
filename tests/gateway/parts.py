"""Builders: the app's parts, and the messages of an owner."""

import base64
from pathlib import Path
from typing import Any

from nacl.public import PrivateKey

from schemas.messages import Reason, Status, StreamStatus, now
from services.gateway.addresses import Networks
from services.gateway.database import Database
from services.gateway.observed import Observed
from services.gateway.owners import Owners
from services.gateway.pages import Pages
from services.gateway.parts import Parts
from services.gateway.probes import Probes
from services.gateway.seal import Seal
from services.gateway.snapshots import Snapshots

INTERNAL_KEY = "an internal key of these tests"
SLOTS = 4


class Nudges:
    """Counts what the reconciler would be told."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


def key_of(private: PrivateKey) -> str:
    return base64.b64encode(private.public_key.encode()).decode()


def make_parts(database_url: str, folder: Path, seal_key: str, nudges: Nudges) -> Parts:
    observed = Observed()
    observed.note_slots(SLOTS)
    return Parts(
        database=Database(database_url),
        observed=observed,
        owners=Owners(INTERNAL_KEY),
        probes=Probes(INTERNAL_KEY),
        snapshots=Snapshots(folder),
        pages=Pages(INTERNAL_KEY),
        seal=Seal(seal_key),
        networks=Networks(),
        max_fps=20,
        nudge=nudges,
    )


def said(stream_id: str, status: Status, generation: int, **more: Any) -> StreamStatus:
    """What an owner says of its stream."""
    fields: dict[str, Any] = {"owner": "ingestor-1", "epoch": 7, "since": now()} | more
    return StreamStatus(
        stream_id=stream_id, status=status, observed_generation=generation, **fields
    )


def failed(stream_id: str, generation: int, reason: Reason) -> StreamStatus:
    return said(
        stream_id, Status.ERROR, generation, reason=reason, message="why", hint="what to do"
    )
