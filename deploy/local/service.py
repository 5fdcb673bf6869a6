"""One replica of one of the five services as a child process."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from deploy.local.child import Command, Warden

# In the order in which they are stopped: first who takes in work, last who answers the others.
SERVICES = ("gateway", "ingestor", "detector", "persister", "ai")


@dataclass(frozen=True)
class Service:
    """`python -m services.KIND`, listening on loopback."""

    kind: str
    replica: int
    port: int
    environment: Mapping[str, str]
    folder: Path
    log: Path

    @property
    def name(self) -> str:
        return f"{self.kind}.{self.replica}"

    def prepare(self, warden: Warden) -> None:
        """Nothing: a service needs only its environment."""

    def command(self) -> Command:
        prefix = self.kind.upper()
        listening = {f"{prefix}_HTTP_HOST": "127.0.0.1", f"{prefix}_HTTP_PORT": str(self.port)}
        return Command(
            argv=(sys.executable, "-m", f"services.{self.kind}"),
            environment=listening | dict(self.environment),
            folder=self.folder,
            log=self.log,
        )

    def is_ready(self) -> bool:
        return says_ready(self.kind, self.port)


def says_ready(kind: str, port: int) -> bool:
    """Whether a service's readiness check answers 200. No proxy of the machine is asked."""
    path = "/v2/health/ready" if kind == "ai" else "/health/ready"
    connection = HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()
