"""`stack.json`: what runs, where, and how to reach it."""

from collections.abc import Sequence
from typing import Any

from deploy.local.keeper import Keeper
from deploy.local.place import Described
from deploy.local.plan import Plan
from deploy.local.service import Service

VERSION = 1


def describe(
    plan: Plan, keepers: Sequence[Keeper], cameras: list[dict[str, Any]], *, ready: bool
) -> Described:
    """The shape that outside scripts rely on; add to it, change nothing."""
    services = [keeper for keeper in keepers if isinstance(keeper.part, Service)]
    parts = [keeper for keeper in keepers if not isinstance(keeper.part, Service)]
    return {
        "version": VERSION,
        "ready": ready,
        "topicPrefix": plan.environment()["SIGHTLOG_TOPIC_PREFIX"],
        "kafkaBootstrapServers": plan.bootstrap_servers,
        "databaseUrl": plan.database_url,
        "gatewayUrl": address(plan, "gateway.1", "http"),
        "wsUrl": address(plan, "gateway.1", "ws", "/ws"),
        "aiUrl": address(plan, "ai.1", "http"),
        "apiKey": plan.secrets.api_key,
        "mediaPath": str(plan.place.media),
        "storagePath": str(plan.place.frames),
        "cameras": cameras,
        "services": [described_service(keeper) for keeper in services],
        "parts": [described_part(keeper) for keeper in parts],
        "held": [keeper.part.name for keeper in keepers if keeper.is_held],
    }


def address(plan: Plan, name: str, scheme: str, path: str = "") -> str | None:
    """None where no services were asked for."""
    if not plan.with_services:
        return None
    return f"{scheme}://127.0.0.1:{plan.ports.port(name)}{path}"


def described_service(keeper: Keeper) -> dict[str, Any]:
    kind, _, replica = keeper.part.name.partition(".")
    return {
        "service": kind,
        "replica": int(replica),
        "pid": keeper.pid,
        "httpPort": keeper.part.port,
        "logFile": str(keeper.part.command().log),
        "restarts": keeper.restarts,
        "startedAt": keeper.started_at.isoformat(timespec="microseconds").replace("+00:00", "Z"),
    }


def described_part(keeper: Keeper) -> dict[str, Any]:
    return {"name": keeper.part.name, "pid": keeper.pid, "port": keeper.part.port}
