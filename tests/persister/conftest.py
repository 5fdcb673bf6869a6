"""The sink on a database of the module's own, and the process itself."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import AlterConfigOpType, ConfigEntry, ConfigResource
from confluent_kafka.admin._resource import ResourceType
from sqlalchemy import Engine

from deploy.local.child import Child, Warden
from deploy.local.fetch import cache_folder, fetch_jars, read_lock
from deploy.local.kafka import Broker
from deploy.local.parts import Part, start
from deploy.local.ports import Ports
from deploy.local.postgres import Server
from schemas.migrate import migrate
from schemas.provision import provision
from schemas.topics import PRODUCER_OF_FACTS, Topic
from services.persister.app import Rows
from services.persister.database import open_engine
from services.persister.sink import stage_on_connect
from tests.conftest import FEW_PARTITIONS
from tests.persister.making import TOPIC_OF
from tests.persister.persister_process import PersisterProcess

TRACE = b"00-" + b"1" * 32 + b"-" + b"2" * 16 + b"-01"


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    engine = open_engine(database_url)
    stage_on_connect(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def rows(engine: Engine) -> Rows:
    return Rows(engine)


@pytest.fixture
def start_persister(
    kafka: str, database_url: str, topic_prefix: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., PersisterProcess]]:
    """Starts `python -m services.persister`; settings are given by their names."""
    started: list[PersisterProcess] = []

    def start_one(**settings: str) -> PersisterProcess:
        shared = {
            "KAFKA_BOOTSTRAP_SERVERS": kafka,
            "DATABASE_URL": database_url,
            "SIGHTLOG_TOPIC_PREFIX": topic_prefix,
            "FRAME_STORAGE_PATH": str(tmp_path_factory.getbasetemp() / "frames"),
        }
        log = tmp_path_factory.mktemp("persister") / "persister.log"
        started.append(PersisterProcess(shared | settings, log))
        return started[-1]

    yield start_one
    for process in started:
        process.kill()


@pytest.fixture
def send(kafka: str, topic_prefix: str) -> Callable[..., None]:
    """Messages to their topics, or raw bytes to one that is named; returns when they are there."""
    return sender(kafka, topic_prefix)


def sender(kafka: str, topic_prefix: str) -> Callable[..., None]:
    producer = Producer({"bootstrap.servers": kafka, "log_level": 0} | PRODUCER_OF_FACTS)

    def send(*messages: Any, topic: Topic[Any] | None = None, key: bytes | None = None) -> None:
        for message in messages:
            of = topic or TOPIC_OF[type(message)]
            if message is None or isinstance(message, bytes):
                value: bytes | None = message
                headers: Any = [("traceparent", TRACE)]
            else:
                key, value = of.key(message), of.encode(message)
                headers = of.headers(message, "sightlog/test/1", "")
            producer.produce(of.named(topic_prefix), value, key=key, headers=headers)
            producer.poll(0)
        assert producer.flush(30) == 0

    return send


@dataclass
class OwnPart:
    """A part of the stack that a test may end, and start again."""

    part: Part
    warden: Warden
    child: Child

    def stop(self) -> None:
        self.child.stop()

    def kill(self) -> None:
        self.child.kill()
        self.child.wait()

    def start_again(self) -> None:
        self.child = start(self.part, self.warden, 60)


@pytest.fixture
def own_postgres(tmp_path: Path, warden: Warden) -> Iterator[OwnPart]:
    server = Server(
        folder=tmp_path / "postgres",
        password_file=tmp_path / "secrets" / "pgpass",
        port=Ports(tmp_path / "postgres-port.json", auto=True).port("postgres"),
        log=tmp_path / "postgres.log",
    )
    tmp_path.chmod(0o755)
    own = OwnPart(server, warden, start(server, warden, 60))
    yield own
    own.stop()


@pytest.fixture
def own_database(own_postgres: OwnPart) -> str:
    assert isinstance(own_postgres.part, Server)
    database_url = own_postgres.part.create_database("own")
    migrate(database_url)
    return database_url


@pytest.fixture
def own_kafka(tmp_path: Path, warden: Warden) -> Iterator[OwnPart]:
    """With all topics under the prefix `own.`."""
    ports = Ports(tmp_path / "kafka-ports.json", auto=True)
    broker = Broker(
        folder=tmp_path / "kafka",
        jars=fetch_jars(read_lock(), cache_folder()),
        port=ports.port("kafka"),
        controller_port=ports.port("kafka-controller"),
        log=tmp_path / "kafka.log",
    )
    own = OwnPart(broker, warden, start(broker, warden, 60))
    provision({"bootstrap.servers": broker.bootstrap_servers}, "own.", FEW_PARTITIONS)
    yield own
    own.stop()


@pytest.fixture(scope="module")
def short_session(kafka: str, topic_prefix: str) -> None:
    """A killed member's partitions go to the next one after 5 s instead of 10."""
    group = ConfigResource(ResourceType.GROUP, f"{topic_prefix}persister")
    for name, value in (
        ("consumer.session.timeout.ms", "5000"),
        ("consumer.heartbeat.interval.ms", "1000"),
    ):
        group.add_incremental_config(
            ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
        )
    admin = AdminClient({"bootstrap.servers": kafka})
    admin.incremental_alter_configs([group])[group].result(10)
