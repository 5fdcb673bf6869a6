"""python -m services.persister"""

import os
import socket
from collections.abc import Sequence
from typing import Any

from confluent_kafka import Consumer, Producer

from schemas.topics import PRODUCER_OF_FACTS, Topic
from services.persister.app import (
    ANSWERS,
    OBSERVATIONS,
    PICTURES,
    Lane,
    Pictures,
    Rows,
    Store,
    readiness,
    run,
)
from services.persister.bury import Graveyard
from services.persister.consume import MEMBER, Bounds, Subscription
from services.persister.database import open_engine
from services.persister.keep import open_folder
from services.persister.settings import Settings
from services.persister.sink import stage_on_connect
from services.process.health import serving_health
from services.process.kafka import client_config
from services.process.logging import configure_logging
from services.process.settings import load
from services.process.stop import stop_on_signal


def main() -> None:
    settings = load(Settings)
    configure_logging("persister", settings.log_level)
    stop = stop_on_signal()
    instance = f"persister-{socket.gethostname()}-{os.getpid()}"
    engine = open_engine(settings.database_url.get_secret_value())
    stage_on_connect(engine)
    pictures = Pictures(lambda: open_folder(settings.frame_storage_path), engine)
    lanes = [
        open_lane(settings, instance, "detections", ANSWERS, Rows(engine).store),
        open_lane(settings, instance, "observations", OBSERVATIONS, Rows(engine).store),
        open_lane(settings, instance, "snapshots", PICTURES, pictures.store),
    ]
    producer = Producer(client_config(settings, instance) | PRODUCER_OF_FACTS)
    graveyard = Graveyard(producer, settings.topic_prefix, instance)
    with serving_health(settings.http_host, settings.http_port, lambda: readiness(lanes, engine)):
        run(lanes, graveyard, stop)
    engine.dispose()


def open_lane(
    settings: Settings, instance: str, name: str, topics: Sequence[Topic[Any]], store: Store
) -> Lane:
    by_name = {topic.named(settings.topic_prefix): topic for topic in topics}
    group = {"group.id": f"{settings.topic_prefix}persister"}
    consumer = Consumer(client_config(settings, f"{instance}-{name}") | MEMBER | group)
    bounds = Bounds(settings.batch_size, settings.batch_bytes, settings.batch_seconds)
    return Lane(name, by_name, Subscription(consumer, list(by_name), bounds), store)


if __name__ == "__main__":
    main()
