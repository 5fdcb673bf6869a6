"""Faust: frames.v1 as one agent, and what a worker of it is configured with.

Faust is never told that an event is done. It would commit past holes, and it acknowledges events
that it skips in a rebalance; so the topic is read with `acks=False`, and what is committed are the
offsets that we name.
"""

import os
import threading
from collections.abc import Awaitable, Callable, Mapping, Set
from dataclasses import dataclass
from ssl import SSLContext
from typing import Any, Protocol, cast

import faust
import structlog
from faust.auth import SASLCredentials, SSLCredentials
from faust.transport.drivers.aiokafka import Consumer
from faust.types import TP
from faust.types.auth import CredentialsT

log = structlog.get_logger()

LEAVE_S = 3.0
"""To leave the group once all is finished and committed. A member that is still joining can't, for
as long as the others take; then the end of its session does it."""

Commit = Callable[[Mapping[int, int]], Awaitable[bool]]
"""Offsets by partition; false: not committed, e.g. because of a rebalance."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message of frames.v1 as it stood on the broker."""

    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes]]


class Reader(Protocol):
    """What reads the frames. Its methods run in the worker's event loop."""

    async def ready(self) -> None:
        """Returns once a frame may be taken; waits where there are too many already."""

    def take(self, delivery: Delivery) -> None: ...
    async def assigned(self, partitions: Set[int], commit: Commit) -> None: ...
    async def revoked(self, partitions: Set[int]) -> None: ...
    async def drain(self) -> None: ...
    def fail(self, error: BaseException) -> None:
        """Ends the process: an exception that leaves an agent would lose its event."""


@dataclass(frozen=True)
class Broker:
    servers: str  # host:port, comma separated
    credentials: CredentialsT | None
    session_timeout_s: float


def credentials(
    protocol: str, mechanism: str, username: str, password: str, context: SSLContext | None
) -> CredentialsT | None:
    if protocol.startswith("SASL"):
        return SASLCredentials(
            username=username, password=password, mechanism=mechanism, ssl_context=context
        )
    return None if context is None else SSLCredentials(context)


def create_worker(broker: Broker, group: str, topic: str, reader: Reader) -> faust.App:
    """The app; its id is the consumer group's, letter by letter."""
    app = faust.App(
        group,
        version=1,  # any other would be added to the group's name
        broker=";".join(f"kafka://{server.strip()}" for server in broker.servers.split(",")),
        broker_credentials=broker.credentials,
        broker_session_timeout=broker.session_timeout_s,
        broker_heartbeat_interval=broker.session_timeout_s / 5,
        broker_rebalance_timeout=20.0,
        consumer_auto_offset_reset="earliest",
        consumer_max_fetch_size=2 * 1024 * 1024,
        stream_buffer_maxsize=16,
        stream_wait_empty=False,
        topic_allow_declare=False,
        topic_disable_leader=True,
        key_serializer="raw",
        value_serializer="raw",
        store="memory://",
        web_enabled=False,
        worker_redirect_stdouts=False,
    )
    app._create_directories = _no_directories  # type: ignore[method-assign]  # at each kill one was left behind
    frames = app.topic(
        topic,
        key_type=bytes,
        value_type=bytes,
        key_serializer="raw",
        value_serializer="raw",
        acks=False,
    )

    @app.agent(frames, name="detect")
    async def detect(stream: Any) -> None:  # Any: Faust's StreamT does not know `noack`
        async for event in stream.noack().events():
            try:
                await reader.ready()
                if event.message.generation_id == app.consumer_generation_id:
                    reader.take(delivery_of(event.message))
            except Exception as error:  # noqa: BLE001 -- a bug ends the process, see Reader.fail
                reader.fail(error)

    follow_assignment(app, topic, reader)
    return app


def _no_directories() -> None:
    """For no tables."""


def follow_assignment(app: faust.App, topic: str, reader: Reader) -> None:
    async def commit(offsets: Mapping[int, int]) -> bool:
        consumer = cast(Consumer, app.consumer)
        return await consumer._commit({TP(topic, p): offset for p, offset in offsets.items()})

    @app.on_partitions_assigned.connect
    async def assigned(*said: Any, **_: Any) -> None:
        log.info("partitions.assigned", count=len(said[1]))
        await reader.assigned({tp.partition for tp in said[1]}, commit)

    @app.on_partitions_revoked.connect
    async def revoked(*said: Any, **_: Any) -> None:
        await reader.revoked({tp.partition for tp in said[1]})

    @app.on_before_shutdown.connect
    async def drain(*_: Any, **__: Any) -> None:
        await reader.drain()
        threading.excepthook = lose_a_thread
        leave = threading.Timer(LEAVE_S, os._exit, (1 if app.crashed else 0,))
        leave.daemon = True
        leave.start()


def lose_a_thread(died: threading.ExceptHookArgs) -> None:
    """Once all is finished and committed: aiokafka's dies of a broker that is away."""
    log.info("thread.abandoned", cause=died.exc_type.__name__)


def delivery_of(message: Any) -> Delivery:  # Any: Faust types headers as list or dict
    headers = message.headers or []
    return Delivery(
        partition=message.partition,
        offset=message.offset,
        timestamp_ms=round(message.timestamp * 1000),
        key=message.key,
        value=message.value,
        headers=list(headers.items() if isinstance(headers, Mapping) else headers),
    )
