"""A real Kafka and a real Postgres, started only if a test asks for one, ended with the session.

`SIGHTLOG_TEST_STACK=containers` takes them from Docker instead of `deploy.local`.
"""

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import hypothesis
import pytest
from typing_extensions import override
from xdist.remote import Producer  # type: ignore[import-untyped]  # so it is
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]  # so it is

from deploy.local.child import Warden
from deploy.local.fetch import cache_folder, fetch_jars, read_lock
from deploy.local.kafka import Broker
from deploy.local.parts import start
from deploy.local.ports import Ports
from deploy.local.postgres import Server
from schemas.migrate import migrate
from schemas.provision import Size, provision
from tests.stack import RunningStack

IN_CONTAINERS = os.environ.get("SIGHTLOG_TEST_STACK", "local") == "containers"
WHOLE_STACKS = ("tests/pipeline/", "tests/faults/test_suite.py")
SHORT = ("tests/ai/", "tests/process/", "tests/schemas/")
START_TIMEOUT_S = 60.0
FEW_PARTITIONS = Size(data=4, slots=4)

BROKER_SESSION_S = 9.0  # so long may the machine stand still; nobody waits for this one's death

hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

CreateDatabase = Callable[..., str]


class Sharing(LoadScopeScheduling):  # type: ignore[misc]  # its base is untyped
    """What stays in one process where several share the work (`make test`): a file, and all that
    start a whole stack: two at a time would be too much for two cores."""

    @override
    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "whole stacks" if file.startswith(WHOLE_STACKS) else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Sharing:
    return Sharing(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest begins, and the short ones end: so all processes end at about the same time."""

    def turn(item: pytest.Item) -> int:
        return 0 if item.nodeid.startswith(WHOLE_STACKS) else 1 + item.nodeid.startswith(SHORT)

    items.sort(key=turn)


@pytest.fixture(scope="session")
def warden() -> Iterator[Warden]:
    """Ends every child of this session if the session itself is killed."""
    with Warden() as warden:
        yield warden


@pytest.fixture(scope="session")
def session_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="sightlog-test-") as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def kafka(request: pytest.FixtureRequest) -> Iterator[str]:
    """The bootstrap servers of this session's one broker."""
    if IN_CONTAINERS:
        from tests import containers  # noqa: PLC0415 -- a second to import, and seldom needed

        yield from containers.kafka()
        return
    folder, warden = (request.getfixturevalue(name) for name in ("session_folder", "warden"))
    ports = Ports(folder / "kafka-ports.json", auto=True)
    broker = Broker(
        folder=folder / "kafka",
        jars=fetch_jars(read_lock(), cache_folder()),
        port=ports.port("kafka"),
        controller_port=ports.port("kafka-controller"),
        log=folder / "kafka.log",
        session_s=BROKER_SESSION_S,
    )
    child = start(broker, warden, START_TIMEOUT_S)
    yield broker.bootstrap_servers
    child.stop()


@pytest.fixture(scope="session")
def postgres(request: pytest.FixtureRequest) -> Iterator[CreateDatabase]:
    """Makes a database on this session's one server: `postgres(name, template="template1")` is
    its address, in libpq's form and with the password reachable through it."""
    if IN_CONTAINERS:
        from tests import containers  # noqa: PLC0415 -- a second to import, and seldom needed

        yield from containers.postgres()
        return
    folder, warden = (request.getfixturevalue(name) for name in ("session_folder", "warden"))
    server = Server(
        folder=folder / "postgres",
        password_file=folder / "secrets" / "pgpass",
        port=Ports(folder / "postgres-ports.json", auto=True).port("postgres"),
        log=folder / "postgres.log",
        durable=False,
    )
    child = start(server, warden, START_TIMEOUT_S)
    yield server.create_database
    child.stop()


@pytest.fixture(scope="session")
def migrated_template(postgres: CreateDatabase) -> str:
    """The name of a database at the newest migration, to be copied in a few milliseconds."""
    migrate(postgres("migrated"))
    return "migrated"


@pytest.fixture(scope="module")
def database_url(postgres: CreateDatabase, migrated_template: str) -> str:
    """A new database for this module, migrated and empty."""
    return postgres(f"test_{uuid4().hex[:12]}", template=migrated_template)


@pytest.fixture(scope="module")
def topic_prefix(kafka: str) -> str:
    """A prefix nobody used before, with all topics behind it, few partitions each.

    Topics are never re-created: a group that runs meanwhile would lose messages silently.
    """
    prefix = f"test-{uuid4().hex[:12]}."
    provision({"bootstrap.servers": kafka}, prefix, FEW_PARTITIONS)
    return prefix


@pytest.fixture(scope="module")
def stack_options() -> list[str]:
    """What `up` is told in this module; a module that wants more has its own fixture so named."""
    return ["--cameras", "2"]


@pytest.fixture(scope="module")
def stack(
    stack_options: list[str], warden: Warden, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningStack]:
    """A whole Sightlog for this module, on ports of its own: see `RunningStack`."""
    running = RunningStack(tmp_path_factory.mktemp("stack") / "data", stack_options, warden)
    yield running
    running.stop()
