"""python -m services.gateway"""

import socket
from uuid import uuid4

import structlog
import uvicorn
from typing_extensions import override

from services.gateway.access import Access, Role
from services.gateway.addresses import Networks
from services.gateway.app import create_app
from services.gateway.database import Database
from services.gateway.observed import Observed
from services.gateway.owners import Owners
from services.gateway.pages import Pages
from services.gateway.parts import Parts
from services.gateway.probes import Probes
from services.gateway.realtime.follow import Follower
from services.gateway.realtime.hub import Hub
from services.gateway.realtime.news import News
from services.gateway.realtime.replay import Replays
from services.gateway.realtime.sockets import WEBSOCKETS
from services.gateway.reconciler.bury import Burial
from services.gateway.reconciler.move import Moves
from services.gateway.reconciler.reconcile import Reconciler
from services.gateway.reconciler.silence import Silences
from services.gateway.reconciler.specs import Specs
from services.gateway.routes.page import page
from services.gateway.routes.realtime import realtime
from services.gateway.seal import Seal
from services.gateway.settings import Settings, words
from services.gateway.snapshots import Snapshots
from services.process.kafka import client_config
from services.process.logging import configure_logging
from services.process.settings import load
from services.process.stop import exit_when_a_thread_dies, stop_on_signal

log = structlog.get_logger()


class Server(uvicorn.Server):
    """Ends the live views first, which have no end of their own to be waited for, and probes."""

    def __init__(self, config: uvicorn.Config, parts: Parts) -> None:
        super().__init__(config)
        self._owners, self._probes = parts.owners, parts.probes

    @override
    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._probes.end()
        await self._owners.end_views()
        await super().shutdown(sockets)
        await self._owners.close()
        await self._probes.close()


def main() -> None:
    settings = load(Settings)
    configure_logging("gateway", settings.log_level)
    exit_when_a_thread_dies()
    stop_on_signal()  # uvicorn ends by the signal itself, once it is done: this makes it status 0
    instance = f"{socket.gethostname()}-{uuid4().hex[:8]}"
    kafka = client_config(settings, f"gateway-{instance}")
    prefix = settings.topic_prefix
    observed, hub = Observed(), Hub[News]()
    snapshots = Snapshots(settings.frame_storage_path)
    internal_key = settings.internal_key.get_secret_value()
    reconciler = Reconciler(
        settings.database_url.get_secret_value(),
        lambda: Specs(kafka, prefix, f"sightlog/gateway/{instance}"),
        Burial(observed, snapshots.remove),
        Moves(observed),
        Silences(observed),
    )
    parts = Parts(
        database=Database(settings.database_url.get_secret_value()),
        observed=observed,
        owners=Owners(internal_key),
        probes=Probes(internal_key),
        snapshots=snapshots,
        pages=Pages(internal_key),
        seal=Seal(settings.seal_public_key),
        networks=Networks(
            words(settings.source_networks_allowed), words(settings.source_networks_denied)
        ),
        max_fps=settings.max_fps,
        nudge=reconciler.nudge,
    )
    app = create_app(
        parts, access(settings), [realtime(hub, observed, Replays(kafka, prefix)), page()]
    )
    follower = Follower(kafka, prefix, observed, hub)
    for thread in (follower, reconciler):
        thread.start()
    try:
        Server(config(settings, app), parts).run()
    finally:
        for thread in (reconciler, follower):
            thread.stop()
        parts.database.close()


def access(settings: Settings) -> Access:
    if settings.auth == "off":
        log.warning("access.off", meaning="everybody on this machine may do everything")
        return Access(None, words(settings.allowed_hosts))
    entries = words(settings.api_keys.get_secret_value())
    keys = {key: Role[role.upper()] for role, _, key in (entry.partition(":") for entry in entries)}
    return Access(keys, words(settings.allowed_hosts))


def config(settings: Settings, app: object) -> uvicorn.Config:
    return uvicorn.Config(
        app,  # type: ignore[arg-type]  # an ASGI app
        host=settings.http_host,
        port=settings.http_port,
        http="h11",  # bounds what it reads of a request's head
        loop="uvloop",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        lifespan="off",
        **WEBSOCKETS,
    )


if __name__ == "__main__":
    main()
