"""Frames are kept as long as a run takes, so that the checker sees each of them."""

from confluent_kafka.admin import (  # type: ignore[attr-defined]  # it does
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from schemas.topics import FRAMES
from tests.faults.gather import Stack

TIMEOUT_S = 20.0
KEPT = {"retention.ms": str(24 * 3600 * 1000), "retention.bytes": "-1"}


def keep_frames(stack: Stack) -> None:
    entries = [
        ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
        for name, value in KEPT.items()
    ]
    topic = ConfigResource(
        ResourceType.TOPIC, FRAMES.named(stack.prefix), incremental_configs=entries
    )
    admin = AdminClient({"bootstrap.servers": stack.bootstrap_servers, "log_level": 0})
    for answer in admin.incremental_alter_configs([topic]).values():
        answer.result(TIMEOUT_S)
