"""python -m services.detector"""

import os
import signal
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import TimeoutError as NotYet
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import faust
import httpx
import structlog
import uvloop
from mode.loop import use as use_loop

from schemas.topics import FRAMES, PRODUCER_OF_FACTS
from services.detector.app import Detector, Limits, Outside
from services.detector.consume import Broker, create_worker, credentials
from services.detector.fence import Epochs, Fence
from services.detector.look import Looker
from services.detector.publish import Publisher
from services.detector.settings import Settings
from services.detector.unpack import read_any_header_name
from services.detector.watch import Watch, lagging
from services.process.health import serving_health
from services.process.kafka import client_config, ssl_context
from services.process.logging import configure_logging
from services.process.settings import load
from services.process.stop import exit_when_a_thread_dies, stop_on_signal

log = structlog.get_logger()

PICTURES: dict[str, Any] = {"compression.type": "none", "linger.ms": 0}
"""Over PRODUCER_OF_FACTS, for snapshots."""

TAKEN_OVER_S = 1.0


def main() -> None:
    settings = load(Settings)
    configure_logging("detector", settings.log_level)
    exit_when_a_thread_dies()
    stop = stop_on_signal()  # until the worker takes the signals over
    epochs = Epochs()
    with ExitStack() as opened:
        fence = opened.enter_context(
            following(Fence(kafka(settings), settings.topic_prefix, epochs))
        )
        detector = opened.enter_context(pipeline(settings, fence, epochs))
        opened.enter_context(
            serving_health(settings.http_host, settings.http_port, partial(readiness, detector))
        )
        if caught_up(fence, stop):
            worker = opened.enter_context(faust_worker(settings, detector))
            run(worker, stop)


def kafka(settings: Settings) -> dict[str, Any]:
    return client_config(settings, "detector")


@contextmanager
def following(fence: Fence) -> Iterator[Fence]:
    fence.start()
    try:
        yield fence
    finally:
        fence.close()


def caught_up(fence: Fence, stop: threading.Event) -> bool:
    """Waits for the broker too; false if asked to stop meanwhile."""
    done = fence.catch_up()
    while not stop.is_set():
        try:
            done.result(timeout=0.2)
        except NotYet:
            continue
        return True
    return False


@contextmanager
def pipeline(settings: Settings, fence: Fence, epochs: Epochs) -> Iterator[Detector]:
    facts = kafka(settings) | PRODUCER_OF_FACTS
    records, pictures = Publisher(facts), Publisher(facts | PICTURES)
    outside = Outside(
        looker=Looker(ai_client(settings), settings.ai_timeout_s),
        records=records,
        pictures=pictures,
        epochs=epochs,
        catch_up=fence.catch_up,
        prefix=settings.topic_prefix,
        source=f"sightlog/detector/{socket.gethostname()}-{os.getpid()}",
    )
    limits = Limits(
        calls=settings.ai_calls,
        waiting_bytes=settings.waiting_bytes,
        unaccounted_frames=settings.unaccounted_frames,
        snapshots_per_minute=settings.snapshots_per_minute,
        session_timeout_s=settings.session_timeout_s,
    )
    try:
        yield Detector(outside, limits)
    finally:
        records.close()
        pictures.close()


def ai_client(settings: Settings) -> httpx.AsyncClient:
    """No proxy and no credentials from the environment: the address is all there is."""
    bound = httpx.Limits(max_connections=settings.ai_calls)
    timeout = httpx.Timeout(settings.ai_timeout_s)
    return httpx.AsyncClient(
        base_url=str(settings.ai_service_url), timeout=timeout, limits=bound, trust_env=False
    )


def readiness(detector: Detector) -> tuple[bool, dict[str, Any]]:
    return detector.is_ready, {"partitions": sorted(detector.positions)}


@contextmanager
def faust_worker(settings: Settings, detector: Detector) -> Iterator[faust.Worker]:
    """On uvloop; beside it the watch, which ends the process if the worker gets stuck."""
    use_loop("uvloop")
    read_any_header_name()
    group = f"{settings.topic_prefix}detector"
    topic = FRAMES.named(settings.topic_prefix)
    password = settings.kafka_sasl_password.get_secret_value()
    known = credentials(
        settings.kafka_security_protocol,
        settings.kafka_sasl_mechanism,
        settings.kafka_sasl_username,
        password,
        ssl_context(settings),
    )
    broker = Broker(settings.kafka_bootstrap_servers, known, settings.session_timeout_s)
    watch = Watch(
        lambda: lagging(kafka(settings), group, topic, detector.positions), settings.stall_s
    )
    app = create_worker(broker, group, topic, detector)
    watch.start(give_up)
    try:
        worker = faust.Worker(app, quiet=True, override_logging=False, loop=uvloop.new_event_loop())
        worker.spinner = None  # it writes to the terminal, quiet or not
        yield worker
    finally:
        watch.end()


def give_up(why: str) -> None:
    log.critical("detector.stuck", reason=why)
    os._exit(1)


def run(worker: faust.Worker, stop: threading.Event) -> None:
    """Until a signal, or a crash; leaves by SystemExit."""
    worker.loop.call_later(TAKEN_OVER_S, pass_on, stop)
    worker.execute_from_commandline()


def pass_on(stop: threading.Event) -> None:
    """A signal that came before the worker had taken the signals over."""
    if stop.is_set():
        os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
