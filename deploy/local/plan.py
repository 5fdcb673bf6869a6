"""What one stack consists of: each part's place, port and environment."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from deploy.local.cameras import CameraProcess
from deploy.local.child import Command
from deploy.local.environment import minimal_environment
from deploy.local.kafka import Broker
from deploy.local.place import Place
from deploy.local.ports import Ports
from deploy.local.postgres import Server
from deploy.local.secret import Secrets
from deploy.local.service import SERVICES, Service

DATABASE = "sightlog"


@dataclass(frozen=True)
class Wish:
    """What the one who starts a stack can choose."""

    auto_ports: bool
    with_services: bool = True
    timeout_s: float = 180.0
    overrides: Mapping[str, str] = field(default_factory=dict)


class Plan:
    """Makes the parts of a stack; asking twice gives equal parts."""

    def __init__(self, place: Place, wish: Wish) -> None:
        self.place = place
        self.with_services = wish.with_services
        self.secrets = Secrets(place.secrets)
        self.ports = Ports(place.ports_file, auto=wish.auto_ports)
        self._overrides = dict(wish.overrides)

    def broker(self, jars: list[Path]) -> Broker:
        return Broker(
            folder=self.place.folder / "kafka",
            jars=jars,
            port=self.ports.port("kafka"),
            controller_port=self.ports.port("kafka-controller"),
            log=self.place.log("kafka"),
        )

    def server(self) -> Server:
        return Server(
            folder=self.place.folder / "postgres",
            password_file=self.secrets.postgres_password_file,
            port=self.ports.port("postgres"),
            log=self.place.log("postgres"),
        )

    def cameras(self) -> CameraProcess:
        port = self.ports.port("cameras")
        return CameraProcess(self.place.cameras_file, port, self.place.log("cameras"))

    def claim_ports(self) -> None:
        """So that one that is taken is told before anything starts. Raises PortTaken."""
        wished = self.place.scale()
        services = [
            f"{kind}.{replica}"
            for kind in (SERVICES if self.with_services else ())
            for replica in range(1, max(1, wished.get(kind, 1)) + 1)
        ]
        for name in ("kafka", "kafka-controller", "postgres", "cameras", *services):
            self.ports.port(name)

    def service(self, kind: str, replica: int) -> Service:
        name = f"{kind}.{replica}"
        return Service(
            kind=kind,
            replica=replica,
            port=self.ports.port(name),
            environment=self.environment() | self._own(kind) | self._overrides,
            folder=self.place.folder,
            log=self.place.log(name),
        )

    def job(self, job: str) -> Command:
        """`python -m schemas migrate`, and the like."""
        return Command(
            argv=(sys.executable, "-m", "schemas", job),
            environment=self.environment(),
            folder=self.place.folder,
            log=self.place.log(job),
        )

    @property
    def bootstrap_servers(self) -> str:
        return f"127.0.0.1:{self.ports.port('kafka')}"

    @property
    def database_url(self) -> str:
        return self.server().url(DATABASE)

    def environment(self) -> dict[str, str]:
        """What every service and job is told, the user's own words last."""
        shared = {
            "KAFKA_BOOTSTRAP_SERVERS": self.bootstrap_servers,
            "DATABASE_URL": self.database_url,
            "SIGHTLOG_TOPIC_PREFIX": "sightlog.",
            "SIGHTLOG_SIZE": "local",
            "LOG_LEVEL": "INFO",
        }
        return minimal_environment() | shared | self._overrides

    def _own(self, kind: str) -> dict[str, str]:
        """What only services of this kind are told: above all, no secret that is not theirs."""
        tables = {
            "ingestor": self._for_ingestor,
            "detector": self._for_detector,
            "persister": self._for_persister,
            "gateway": self._for_gateway,
        }
        return tables[kind]() if kind in tables else {}

    def _for_ingestor(self) -> dict[str, str]:
        return self._of_sources() | {
            "INGESTOR_MEDIA_PATH": str(self.place.media),
            "SIGHTLOG_SEAL_PRIVATE_KEYS_FILE": str(self.secrets.seal_private_keys_file),
        }

    def _for_detector(self) -> dict[str, str]:
        return {"AI_SERVICE_URL": f"http://127.0.0.1:{self.ports.port('ai.1')}"}

    def _for_persister(self) -> dict[str, str]:
        return {"FRAME_STORAGE_PATH": str(self.place.frames)}

    def _for_gateway(self) -> dict[str, str]:
        return self._of_sources() | {
            "FRAME_STORAGE_PATH": str(self.place.frames),
            "GATEWAY_API_KEYS_FILE": str(self.secrets.api_keys_file),
            "SIGHTLOG_SEAL_PUBLIC_KEY_FILE": str(self.secrets.seal_public_key_file),
        }

    def _of_sources(self) -> dict[str, str]:
        """For those who look where a camera points; the simulated ones are on loopback, which the
        product refuses unless told otherwise."""
        return {
            "SIGHTLOG_SOURCE_NETWORKS_ALLOWED": "127.0.0.0/8",
            "SIGHTLOG_INTERNAL_KEY_FILE": str(self.secrets.internal_key_file),
        }
