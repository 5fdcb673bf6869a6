"""What the routes work with; made once, by main or by a test."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, cast

from fastapi import Depends
from starlette.requests import HTTPConnection

from services.gateway.addresses import Networks
from services.gateway.database import Database
from services.gateway.observed import Observed
from services.gateway.owners import Owners
from services.gateway.pages import Pages
from services.gateway.probes import Probes
from services.gateway.seal import Seal
from services.gateway.snapshots import Snapshots


@dataclass(frozen=True)
class Parts:
    database: Database
    observed: Observed
    owners: Owners
    probes: Probes
    snapshots: Snapshots
    pages: Pages
    seal: Seal
    networks: Networks
    max_fps: float
    nudge: Callable[[], None]
    """Tells the reconciler that something was written."""


def _parts(connection: HTTPConnection) -> Parts:
    return cast(Parts, connection.app.state.parts)


PartsOf = Annotated[Parts, Depends(_parts)]
