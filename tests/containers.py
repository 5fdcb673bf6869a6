"""The same two servers from Docker, for `SIGHTLOG_TEST_STACK=containers`."""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from psycopg import sql
from testcontainers.community.kafka import KafkaContainer
from testcontainers.community.postgres import PostgresContainer

KAFKA_IMAGE = "confluentinc/cp-kafka:8.1.0"  # Apache Kafka 4.1
POSTGRES_IMAGE = "postgres:18-alpine"
# As in deploy/local: one broker, small internal topics, sessions short enough for tests of failure.
KAFKA_SETTINGS = {
    "KAFKA_MESSAGE_MAX_BYTES": "2000000",
    "KAFKA_REPLICA_FETCH_MAX_BYTES": "2100000",
    "KAFKA_AUTO_CREATE_TOPICS_ENABLE": "false",
    "KAFKA_OFFSETS_TOPIC_NUM_PARTITIONS": "4",
    "KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR": "1",
    "KAFKA_TRANSACTION_STATE_LOG_MIN_ISR": "1",
    "KAFKA_SHARE_COORDINATOR_STATE_TOPIC_REPLICATION_FACTOR": "1",
    "KAFKA_SHARE_COORDINATOR_STATE_TOPIC_MIN_ISR": "1",
    "KAFKA_GROUP_MIN_SESSION_TIMEOUT_MS": "1000",
    "KAFKA_GROUP_CONSUMER_MIN_SESSION_TIMEOUT_MS": "5000",
    "KAFKA_GROUP_CONSUMER_SESSION_TIMEOUT_MS": "10000",
    "KAFKA_GROUP_CONSUMER_MIN_HEARTBEAT_INTERVAL_MS": "500",
    "KAFKA_GROUP_CONSUMER_HEARTBEAT_INTERVAL_MS": "2000",
}


def kafka() -> Iterator[str]:
    """Bootstrap servers of a broker that lives as long as the generator."""
    skip_without_docker()
    container = KafkaContainer(KAFKA_IMAGE).with_kraft()
    for name, value in KAFKA_SETTINGS.items():
        container.with_env(name, value)
    with container as broker:
        yield broker.get_bootstrap_server()


def postgres() -> Iterator[Callable[..., str]]:
    """Makes databases on a server that lives as long as the generator."""
    skip_without_docker()
    with PostgresContainer(POSTGRES_IMAGE, driver=None) as server:
        address = server.get_connection_url()

        def create_database(name: str, template: str = "template1") -> str:
            create = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
            with psycopg.connect(address, autocommit=True) as connection:
                connection.execute(create.format(sql.Identifier(name), sql.Identifier(template)))
            return str(urlunsplit(urlsplit(address)._replace(path=f"/{name}")))

        yield create_database


def skip_without_docker() -> None:
    """Before anything of testcontainers: it leaves sockets open where no Docker answers."""
    client = shutil.which("docker")
    answer = client and subprocess.run([client, "info"], capture_output=True, check=False)
    if not answer or answer.returncode != 0:
        pytest.skip("SIGHTLOG_TEST_STACK=containers needs a Docker that answers `docker info`")
