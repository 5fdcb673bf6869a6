"""python -m services.ingestor [keys|statuses]"""

import os
import secrets
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from typing import Any

from nacl.public import PrivateKey

from schemas.messages import Instance, StreamSpec, now
from schemas.topics import PRODUCER_OF_FACTS, PRODUCER_OF_FRAMES
from services.ingestor import camera_process, guide, metrics
from services.ingestor.announce import Announcer
from services.ingestor.app import Ingestor, Outside, Views
from services.ingestor.arenas import limit_arenas
from services.ingestor.cameras import Beginnings
from services.ingestor.children import Child, Target, await_ready, fork_server, start
from services.ingestor.cores import usable_cores
from services.ingestor.desire import Desires
from services.ingestor.follow import Statuses
from services.ingestor.link import Order
from services.ingestor.newest import Newest
from services.ingestor.orphans import end_orphans, mark
from services.ingestor.probe import Probes
from services.ingestor.publish import FrameProducer
from services.ingestor.room import Room
from services.ingestor.serve import create_app, serving
from services.ingestor.settings import Settings, forget_secrets
from services.ingestor.stamp import ClockWatch
from services.ingestor.supervise import Surroundings
from services.ingestor.unseal import Credentials, SealBroken, new_key_pair, private_keys, unseal
from services.process.kafka import client_config
from services.process.logging import configure_logging
from services.process.redact import hide, hide_passing
from services.process.settings import load
from services.process.stop import exit_when_a_thread_dies, stop_on_signal

PRELOAD = (
    *("av", "numpy", "simplejpeg"),
    *("services.ingestor.camera", "services.ingestor.camera_process"),
    *("services.ingestor.children", "services.ingestor.leave"),
)
STARTS_PER_CORE = 4  # at once: a dead machine's cameras are to be seen again within seconds
MEMBER: dict[str, Any] = {
    "enable.auto.commit": False,
    "auto.offset.reset": "earliest",
    "enable.partition.eof": True,
    "fetch.wait.max.ms": 100,  # how long the end of a partition takes to be noticed
}


def main() -> None:
    if sys.argv[1:] == ["keys"]:
        print_keys()
    elif sys.argv[1:] == ["statuses"]:
        sys.stdout.write(guide.markdown())
    elif sys.argv[1:]:
        sys.exit("usage: python -m services.ingestor [keys|statuses]")
    else:
        ingest(load(Settings), ClockWatch())


def print_keys() -> None:
    """A new pair: gateways seal with the public key, ingestors open with the private one."""
    public, private = new_key_pair()
    sys.stdout.write(f"SIGHTLOG_SEAL_PUBLIC_KEY={public}\nSIGHTLOG_SEAL_PRIVATE_KEYS={private}\n")


def ingest(settings: Settings, clock: ClockWatch, show: Target = camera_process.show) -> None:
    """`show` is what each camera's process runs."""
    limit_arenas()
    configure_logging("ingestor", settings.log_level)
    exit_when_a_thread_dies()
    forget_secrets()  # before the fork server starts, which keeps the environment as it is then
    installation = settings.kafka_bootstrap_servers, settings.topic_prefix
    mark(installation)
    metrics.ORPHANS.inc(end_orphans(installation))
    stop = stop_on_signal()
    instance = f"ingestor-{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(2)}"
    outside = open_outside(settings, instance)
    context = fork_server(PRELOAD)
    start_camera = partial(start, context, show, settings.camera_memory_bytes)
    world = surroundings(settings, instance, outside, start_camera)
    ingestor = Ingestor(outside, world, introduction(settings, world), clock)
    probes = Probes(world.start, orders(settings, hide_passing))
    stopping = threading.Event()
    app = create_app(
        ingestor.readiness,
        Views(world.newest, ingestor.stream),
        probes.begin,
        settings.internal_key.get_secret_value() if settings.internal_key else None,
        stopping,
    )
    with serving(app, settings.http_host, settings.http_port):
        await_ready(context, PRELOAD)  # a member is given cameras that others have stopped
        ingestor.run(stop)
        stopping.set()
        world.newest.wake_all()
        probes.close()


def open_outside(settings: Settings, instance: str) -> Outside:
    kafka, prefix = client_config(settings, instance), settings.topic_prefix
    source = f"sightlog/ingestor/{instance}"
    # The follower is in no group: nothing of it is committed, but librdkafka wants a name.
    follower = kafka | MEMBER | {"group.id": f"{prefix}ingestor-statuses"}
    return Outside(
        frames=FrameProducer(kafka | PRODUCER_OF_FRAMES, prefix, source),
        announcer=Announcer(kafka | PRODUCER_OF_FACTS, prefix, source),
        statuses=Statuses(follower, prefix),
        open_desires=partial(Desires, kafka | MEMBER, prefix),
    )


def surroundings(
    settings: Settings, instance: str, outside: Outside, start_camera: Callable[[], Child]
) -> Surroundings:
    return Surroundings(
        instance=instance,
        endpoint=settings.endpoint or f"http://{settings.http_host}:{settings.http_port}",
        newest=Newest(),
        room=Room(settings.capacity),
        start=start_camera,
        order=orders(settings, hide),
        send=outside.frames.send,
        say=outside.announcer.status,
        beat=outside.announcer.heartbeat,
        tell=outside.announcer.event,
        buffer_bytes=settings.buffer_bytes,
        heartbeat_s=settings.heartbeat_s,
        retry_base_s=settings.retry_base_s,
        retry_cap_s=settings.retry_cap_s,
        beginnings=Beginnings(settings.starts_at_once or STARTS_PER_CORE * usable_cores()),
    )


def orders(settings: Settings, hide: Callable[[str], None]) -> Callable[[StreamSpec], Order]:
    """What a camera is told, its own credentials among it. Raises SealBroken."""
    secret = settings.seal_private_keys
    keys = private_keys(secret.get_secret_value()) if secret else ()

    def order(spec: StreamSpec) -> Order:
        credentials = credentials_of(spec, keys, hide)
        return Order(
            stream_id=spec.stream_id,
            url=spec.url,
            username=credentials.username if credentials else None,
            password=credentials.password if credentials else None,
            frame_width=spec.frame_width,
            fps=min(spec.fps, settings.max_fps),
            trust_source_clock=spec.trust_source_clock,
            verify_tls=spec.verify_tls,
            media_path=str(settings.media_path),
            allowed=tuple(map(str, settings.source_networks_allowed)),
            denied=tuple(map(str, settings.source_networks_denied)),
        )

    return order


def credentials_of(
    spec: StreamSpec, keys: Sequence[PrivateKey], hide: Callable[[str], None]
) -> Credentials | None:
    if spec.sealed_credentials is None:
        return None
    if not keys:
        raise SealBroken("This ingestor has no key: set SIGHTLOG_SEAL_PRIVATE_KEYS")
    return unseal(spec.sealed_credentials, keys, spec.stream_id, spec.url, hide)


def introduction(settings: Settings, world: Surroundings) -> Instance:
    return Instance(
        instance=world.instance,
        service="ingestor",
        version=version("sightlog"),
        endpoint=world.endpoint,
        capacity=settings.capacity,
        load=0,
        started_at=now(),
        at=now(),
    )


if __name__ == "__main__":
    main()
