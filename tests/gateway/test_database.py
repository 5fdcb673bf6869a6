"""Postgres away, in each of the ways it can be."""

import asyncio
import socket
import time
from dataclasses import replace

import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url

from services.gateway import database
from services.gateway.access import Access
from services.gateway.app import create_app
from services.gateway.database import Database, DatabaseAway
from services.gateway.parts import Parts
from tests.gateway.relay import Relay

WITHIN_S = 8 * 1.0  # the bar is 1 s on a quiet machine


def a_client(parts: Parts) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(create_app(parts, Access(None, [])))
    return httpx.AsyncClient(transport=transport, base_url="http://localhost")


async def check_away(client: httpx.AsyncClient) -> None:
    begun = time.monotonic()
    answer = await client.get("/streams")
    assert time.monotonic() - begun < WITHIN_S
    assert answer.status_code == 503
    assert answer.headers["Retry-After"] == "1"
    assert answer.headers["Content-Type"] == "application/problem+json"


async def test_a_server_that_is_not_there_is_a_503_at_once(parts: Parts):
    database = Database("postgresql://nobody:canary@127.0.0.1:1/none")
    async with a_client(replace(parts, database=database)) as client:
        await check_away(client)
    database.close()


async def test_a_server_that_accepts_and_is_silent_is_a_503_within_a_second(parts: Parts):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        database = Database(f"postgresql://nobody@127.0.0.1:{silent.getsockname()[1]}/none")
        async with a_client(replace(parts, database=database)) as client:
            await asyncio.gather(*(check_away(client) for _ in range(40)))
        database.close()


@pytest.fixture
def relay(database_url: str):
    url = make_url(database_url)
    relay = Relay(url.host or "", url.port or 0)
    yield relay
    relay.close()


@pytest.fixture
def relayed(database_url: str, relay: Relay):
    url = make_url(database_url).set(port=relay.port)
    query = {name: value for name, value in url.query.items() if name != "passfile"}
    if "passfile" in url.query:  # it names the server's own port
        with open(str(url.query["passfile"])) as file:
            url = url.set(password=file.read().strip().rsplit(":", 1)[1])
    made = Database(url.set(query=query).render_as_string(hide_password=False))
    yield made
    made.close()


async def until_open(client):
    """Until ten requests at once find their connections, which may take its time to open them."""
    deadline = time.monotonic() + 10
    while True:
        answers = await asyncio.gather(*(client.get("/streams") for _ in range(10)))
        if {answer.status_code for answer in answers} == {200}:
            return
        assert time.monotonic() < deadline


async def until_there(database):
    """Until it has a connection."""
    deadline = time.monotonic() + 15
    while not await database.ping():
        assert time.monotonic() < deadline


async def test_a_server_that_freezes_is_a_503_within_a_second_and_comes_back(
    parts: Parts, relay: Relay, relayed: Database
):
    async with a_client(replace(parts, database=relayed)) as client:
        await until_open(client)
        relay.freeze()
        await asyncio.gather(*(check_away(client) for _ in range(60)))
        assert (await client.get("/health/ready")).json()["database"] is False
        assert (await client.get("/health/live")).status_code == 200
        relay.thaw()
        deadline = time.monotonic() + 15
        while (await client.get("/streams")).status_code != 200:
            assert time.monotonic() < deadline


async def test_a_statement_that_takes_long_has_its_time_on_a_server_that_is_well(
    relayed: Database, monkeypatch
):
    """Longer than anybody waits for a server that is away."""
    monkeypatch.setattr(database, "SIGN_OF_LIFE_S", 5.0)  # this machine may stand still
    await until_there(relayed)
    slow = text("SELECT 'well' FROM pg_sleep(1.5)")
    assert await relayed.run(lambda connection: connection.execute(slow).scalar_one()) == "well"


async def test_a_write_that_was_given_up_is_not_done_later(relay: Relay, relayed: Database):
    await until_there(relayed)
    await relayed.run(lambda connection: connection.execute(text("CREATE TABLE notes (n int)")))
    relay.freeze()
    with pytest.raises(DatabaseAway):
        await relayed.run(
            lambda connection: connection.execute(text("INSERT INTO notes VALUES (1)"))
        )
    relay.thaw()
    count = text("SELECT count(*) FROM notes")
    deadline = time.monotonic() + 15
    while True:
        try:
            found = await relayed.run(lambda connection: connection.execute(count).scalar_one())
            break
        except DatabaseAway:
            assert time.monotonic() < deadline
    await relayed.run(lambda connection: connection.execute(text("DROP TABLE notes")))
    assert found == 0


async def test_backends_that_are_terminated_are_replaced(relayed: Database):
    kill = text(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE application_name = 'sightlog-gateway' AND pid <> pg_backend_pid()"
    )
    await asyncio.gather(*(relayed.ping() for _ in range(5)))
    for _ in range(3):
        await relayed.run(lambda connection: connection.execute(kill))
        deadline = time.monotonic() + 15
        while not all(await asyncio.gather(*(relayed.ping() for _ in range(5)))):
            assert time.monotonic() < deadline
