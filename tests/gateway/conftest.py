"""The gateway's parts on the real broker and database, and clients for its app."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from nacl.public import PrivateKey
from sqlalchemy import Engine, create_engine

from deploy.local.environment import minimal_environment
from schemas.tables import engine_url
from services.gateway import database
from services.gateway.access import Access
from services.gateway.app import create_app
from services.gateway.owners import Owners
from services.gateway.parts import Parts
from tests.gateway.gateway_process import running
from tests.gateway.parts import INTERNAL_KEY, Nudges, key_of, make_parts


@pytest.fixture(scope="module")
def sealing_key() -> PrivateKey:
    return PrivateKey.generate()


@pytest.fixture(scope="module")
def nudges() -> Nudges:
    return Nudges()


@pytest.fixture(scope="module")
def parts(
    database_url: str,
    tmp_path_factory: pytest.TempPathFactory,
    sealing_key: PrivateKey,
    nudges: Nudges,
) -> Iterator[Parts]:
    folder: Path = tmp_path_factory.mktemp("frames")
    made = make_parts(database_url, folder, key_of(sealing_key), nudges)
    yield made
    made.database.close()


@pytest.fixture
async def client(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[httpx.AsyncClient]:
    """Of a gateway on loopback without keys, as the replaced system's clients know it. Where
    Postgres is away is tested elsewhere: here a machine that stands still is no outage."""
    monkeypatch.setattr(database, "PATIENCE_S", 20.0)
    monkeypatch.setattr(database, "SIGN_OF_LIFE_S", 20.0)
    owners = Owners(INTERNAL_KEY)  # its connections belong to this test's loop
    app = create_app(replace(parts, owners=owners), Access(None, []))
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        yield client
    await owners.close()


@pytest.fixture(scope="module")
def engine(database_url: str) -> Iterator[Engine]:
    engine = create_engine(engine_url(database_url))
    yield engine
    engine.dispose()


@pytest.fixture
def environment(database_url, kafka, topic_prefix, tmp_path) -> dict[str, str]:
    return minimal_environment() | {
        "DATABASE_URL": database_url,
        "KAFKA_BOOTSTRAP_SERVERS": kafka,
        "SIGHTLOG_TOPIC_PREFIX": topic_prefix,
        "SIGHTLOG_INTERNAL_KEY": INTERNAL_KEY,
        "FRAME_STORAGE_PATH": str(tmp_path / "frames"),
        "GATEWAY_AUTH": "off",
    }


@pytest.fixture
def run(environment, tmp_path):
    return lambda **more: running(environment | more, tmp_path)
