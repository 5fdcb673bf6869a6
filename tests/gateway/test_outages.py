"""Postgres and Kafka away under a gateway that serves: by the real cause, each."""

import asyncio
import json
import os
import signal
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import psycopg
import pytest
from confluent_kafka import Producer
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from deploy.local.child import Warden
from deploy.local.environment import minimal_environment
from deploy.local.fetch import cache_folder, fetch_jars, read_lock
from deploy.local.kafka import Broker
from deploy.local.parts import start
from deploy.local.ports import Ports
from deploy.local.postgres import Server
from schemas.migrate import migrate
from schemas.provision import Size, provision
from schemas.topics import HEARTBEATS
from tests.gateway.gateway_process import Gateway, create, running
from tests.gateway.messages import a_heartbeat
from tests.gateway.parts import INTERNAL_KEY
from tests.gateway.topic import last_values, wait_until

PREFIX = "outages."
LEEWAY = 4  # a bar is missed by chance on a busy machine, up to so many times
ANSWERED_WITHIN_S = 1.0
BACK_WITHIN_S = 2.0
SAID_WITHIN_S = 5.0
AT_ONCE = 50
ULID = "01KAPZ0000000000000000000A"
BODY = {"name": "door", "rtspUrl": "rtsp://10.0.0.9/"}
ASKED: list[tuple[str, str, Any]] = [
    ("GET", "/streams", None),
    ("GET", "/streams/health", None),
    ("GET", f"/streams/{ULID}", None),
    ("GET", f"/streams/{ULID}/frame", None),
    ("GET", f"/streams/{ULID}/live", None),
    ("GET", f"/streams/{ULID}/history", None),
    ("GET", "/detections", None),
    ("GET", f"/detections/stream/{ULID}", None),
    ("POST", "/streams", BODY),
    ("PATCH", f"/streams/{ULID}", {"name": "gate"}),
    ("DELETE", f"/streams/{ULID}", None),
    ("POST", f"/streams/{ULID}/start", None),
    ("POST", f"/streams/{ULID}/stop", None),
]
"""Every route that needs the database."""


class Site:
    """A broker, a Postgres and a gateway, the first two to be taken away and given back."""

    def __init__(self, folder: Path, warden: Warden) -> None:
        self._warden = warden
        self._folder = folder
        ports = Ports(folder / "ports.json", auto=True)
        self.server = Server(
            folder=folder / "postgres",
            password_file=folder / "secrets" / "pgpass",
            port=ports.port("postgres"),
            log=folder / "postgres.log",
            durable=False,
        )
        self.broker = Broker(
            folder=folder / "kafka",
            jars=fetch_jars(read_lock(), cache_folder()),
            port=ports.port("kafka"),
            controller_port=ports.port("kafka-controller"),
            log=folder / "kafka.log",
        )
        self.postgres = start(self.server, warden, 60)
        self.kafka = start(self.broker, warden, 60)
        self.database = self.server.create_database("outages")
        migrate(self.database)
        self.config = {"bootstrap.servers": self.broker.bootstrap_servers}
        provision(self.config, PREFIX, Size(data=2, slots=2))

    @property
    def environment(self) -> dict[str, str]:
        return minimal_environment() | {
            "DATABASE_URL": self.database,
            "KAFKA_BOOTSTRAP_SERVERS": self.broker.bootstrap_servers,
            "SIGHTLOG_TOPIC_PREFIX": PREFIX,
            "SIGHTLOG_INTERNAL_KEY": INTERNAL_KEY,
            "FRAME_STORAGE_PATH": str(self._folder / "frames"),
            "GATEWAY_AUTH": "off",
        }

    def start_postgres(self) -> None:
        self.postgres = start(self.server, self._warden, 60)

    def start_kafka(self) -> None:
        self.kafka = start(self.broker, self._warden, 60)

    def signal_postgres(self, number: signal.Signals) -> None:
        """To the server and all its backends."""
        parent = psutil.Process(self.postgres.pid)
        for process in (parent, *parent.children(recursive=True)):
            process.send_signal(number)

    def said(self) -> set[str]:
        """The streams that streams.v1 tells of."""
        return {id for _, id in last_values(self.broker.bootstrap_servers, PREFIX)}

    def close(self) -> None:
        self.postgres.kill()
        self.kafka.kill()
        self.postgres.wait()
        self.kafka.wait()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, warden: Warden) -> Iterator[Site]:
    made = Site(tmp_path_factory.mktemp("outages"), warden)
    yield made
    made.close()


@pytest.fixture(scope="module")
def gateway(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with running(site.environment, tmp_path_factory.mktemp("gateway")) as gateway:
        yield gateway
        assert "Traceback" not in gateway.log.read_text()


@contextmanager
def listening(gateway: Gateway) -> Iterator[ClientConnection]:
    with connect(f"{gateway.ws}/ws") as client:
        assert '"snapshot"' in str(client.recv(10))
        yield client


def say_heartbeat(site: Site) -> None:
    producer = Producer(site.config)
    message = a_heartbeat()
    value, key = HEARTBEATS.encode(message), HEARTBEATS.key(message)
    producer.produce(HEARTBEATS.named(PREFIX), value, key)
    assert producer.flush(10) == 0


def check_told(client: ClientConnection, event: str, within_s: float = 10) -> None:
    deadline = time.monotonic() + within_s
    while json.loads(client.recv(max(0.0, deadline - time.monotonic())))["event"] != event:
        assert time.monotonic() < deadline


async def timed(
    client: httpx.AsyncClient, method: str, path: str, body: Any
) -> tuple[float, httpx.Response]:
    begun = time.monotonic()
    answer = await client.request(method, path, json=body)
    return time.monotonic() - begun, answer


def check_away(gateway: Gateway, how: str) -> None:
    """Each route, then many at once: 503 in time, and the process says why."""

    async def ask() -> list[tuple[float, httpx.Response]]:
        async with httpx.AsyncClient(base_url=gateway.url, timeout=30) as client:
            many = [ASKED[number % len(ASKED)] for number in range(AT_ONCE)]
            return list(await asyncio.gather(*(timed(client, *one) for one in many)))

    found = asyncio.run(ask())
    for _, answer in found:
        assert answer.status_code == 503, (answer.request.url, answer.text)
        assert answer.headers["Retry-After"] == "1"
        assert answer.headers["Content-Type"] == "application/problem+json"
    took = sorted(seconds for seconds, _ in found)
    p95 = statistics.quantiles(took, n=20)[-1]
    print(f"{how}: 503 after {took[0]:.2f} to {took[-1]:.2f} s, p50 {took[25]:.2f}, p95 {p95:.2f}")
    assert took[-1] < 2 * LEEWAY * ANSWERED_WITHIN_S  # machines pause for seconds
    assert httpx.get(f"{gateway.url}/health/ready", timeout=10).json()["database"] is False
    assert httpx.get(f"{gateway.url}/health/live").status_code == 200


def check_back(site: Site, gateway: Gateway, how: str) -> None:
    """REST answers, and what is written is said on the topic."""
    begun = time.monotonic()
    wait_until(lambda: httpx.get(f"{gateway.url}/streams").status_code == 200)
    took = time.monotonic() - begun
    id = create(gateway)
    wait_until(lambda: id in site.said(), LEEWAY * SAID_WITHIN_S)
    said = time.monotonic() - begun
    print(f"{how}: back after {took:.2f} s, the reconciler after {said:.2f} s")
    assert took < LEEWAY * BACK_WITHIN_S


def test_a_postgres_that_hangs_is_a_503_in_time_and_realtime_goes_on(site, gateway):
    create(gateway)
    with listening(gateway) as client:
        site.signal_postgres(signal.SIGSTOP)
        try:
            check_away(gateway, "hung")
            say_heartbeat(site)
            check_told(client, "stream:heartbeat")
        finally:
            site.signal_postgres(signal.SIGCONT)
        check_back(site, gateway, "hung")


def waits_for_a_lock(site) -> bool:
    """Somebody's statement, in Postgres."""
    with psycopg.connect(site.database) as connection:
        query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        row = connection.execute(query).fetchone()
    return row is not None and row[0] > 0


def test_a_statement_that_was_running_when_postgres_hung_is_given_up_in_time(site, gateway):
    """It waits for a row that another holds."""
    id = create(gateway)
    with psycopg.connect(site.database) as holder:
        holder.execute("SELECT 1 FROM streams WHERE id = %s FOR UPDATE", [id])

        async def ask() -> float:
            async with httpx.AsyncClient(base_url=gateway.url, timeout=30) as client:
                patch = asyncio.create_task(
                    timed(client, "PATCH", f"/streams/{id}", {"name": "gate"})
                )
                await asyncio.to_thread(wait_until, lambda: waits_for_a_lock(site))
                site.signal_postgres(signal.SIGSTOP)
                hung_at = time.monotonic()
                _, answer = await patch
                assert answer.status_code == 503
                return time.monotonic() - hung_at

        try:
            took = asyncio.run(ask())
        finally:
            site.signal_postgres(signal.SIGCONT)
        print(f"given up {took:.2f} s after the server hung")
        assert took < 2 * LEEWAY * ANSWERED_WITHIN_S
    check_back(site, gateway, "hung in a statement")


def test_a_postgres_that_stops_is_a_503_at_once_and_comes_back(site, gateway):
    with listening(gateway) as client:
        site.postgres.stop()
        try:
            check_away(gateway, "stopped")
            say_heartbeat(site)
            check_told(client, "stream:heartbeat")
        finally:
            site.start_postgres()
        check_back(site, gateway, "stopped")


def test_writes_are_whole_or_not_at_all_while_backends_are_terminated(site, gateway):
    """Each change sets name and tags to the same number; each deletion asks for a purge too."""
    changed, deleted = create(gateway, name="0", tags=["0"]), [create(gateway) for _ in range(10)]
    answered: Counter[int] = Counter()
    stop = asyncio.Event()

    async def write(client: httpx.AsyncClient, worker: int) -> None:
        number = worker
        while not stop.is_set():
            both = {"name": str(number), "tags": [str(number)]}
            answers = [
                await client.post("/streams", json={**BODY, **both}),
                await client.patch(f"/streams/{changed}", json=both),
                await client.delete(f"/streams/{deleted[worker]}?purge=true"),
            ]
            answered.update(answer.status_code for answer in answers)
            number += 10

    async def terminate() -> None:
        kill = (
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
            " WHERE application_name LIKE 'sightlog-%'"
        )
        with psycopg.connect(site.database, autocommit=True) as connection:
            until = time.monotonic() + 4
            while time.monotonic() < until:
                connection.execute(kill)
                await asyncio.sleep(0.05)
        stop.set()

    async def both() -> None:
        async with httpx.AsyncClient(base_url=gateway.url, timeout=30) as client:
            await asyncio.gather(terminate(), *(write(client, worker) for worker in range(10)))

    asyncio.run(both())
    print(f"answers while backends were terminated: {dict(answered)}")
    assert answered.keys() <= {200, 201, 204, 404, 503}
    assert answered[503]
    assert answered[201]
    with psycopg.connect(site.database) as connection:
        rows = connection.execute(
            "SELECT id, name, tags, deleted_at, purge, running FROM streams"
        ).fetchall()
    assert all(tags in ([], [name]) for _, name, tags, *_ in rows)
    assert all((deleted_at is not None) == purge for *_, deleted_at, purge, _ in rows)
    assert sum(1 for _, _, tags, *_ in rows if tags) - 1 >= answered[201], "an answer was a lie"
    check_back(site, gateway, "terminated")
    alive = {id for id, _, _, deleted_at, *_ in rows if deleted_at is None}
    wait_until(lambda: alive <= site.said())


def test_a_broker_that_is_killed_stops_neither_rest_nor_subscribers(site, gateway):
    with listening(gateway) as client:
        before = len(gateway.log.read_text())
        site.kafka.kill()
        site.kafka.wait()
        killed_at = time.monotonic()
        ids = [create(gateway) for _ in range(3)]
        httpx.patch(f"{gateway.url}/streams/{ids[0]}", json={"name": "gate"}).raise_for_status()
        httpx.get(f"{gateway.url}/streams").raise_for_status()
        time.sleep(max(0.0, killed_at + 4 - time.monotonic()))  # of which the log is looked at
        lines = gateway.log.read_text()[before:].splitlines()
        site.start_kafka()
        begun = time.monotonic()
        say_heartbeat(site)
        check_told(client, "stream:heartbeat", LEEWAY * 5)
        told = time.monotonic() - begun
        wait_until(lambda: set(ids) <= site.said(), LEEWAY * SAID_WITHIN_S)
    kinds = Counter(json.loads(line)["event"][:40] for line in lines)
    print(f"subscribers told again after {told:.2f} s; {len(lines)} lines: {dict(kinds)}")
    assert len(lines) <= 4 * LEEWAY * 3


@pytest.mark.parametrize("away", ["postgres", "kafka", "both"])
def test_it_ends_with_status_0_whatever_is_away(site, tmp_path, away):
    with running(site.environment, tmp_path) as gateway, listening(gateway) as client:
        if away != "kafka":
            site.signal_postgres(signal.SIGSTOP)
        if away != "postgres":
            site.kafka.kill()
            site.kafka.wait()
        try:
            took, code = ended(gateway, client)
        finally:
            if away != "kafka":
                site.signal_postgres(signal.SIGCONT)
            if away != "postgres":
                site.start_kafka()
    print(f"{away} away: ended after {took:.1f} s")
    assert code == 1001
    assert took < 10
    assert "Traceback" not in gateway.log.read_text()


def ended(gateway: Gateway, client: ClientConnection) -> tuple[float, int | None]:
    """By SIGTERM while a request runs: how long it took, and how the client was told."""

    async def ask_and_end() -> None:
        sent = asyncio.Event()

        async def note(event: str, _: Any) -> None:
            if event == "http11.send_request_body.complete":
                sent.set()

        async with httpx.AsyncClient(base_url=gateway.url, timeout=30) as rest:
            await rest.get("/health/live")  # the connection is accepted
            request = rest.build_request("POST", "/streams", json=BODY, extensions={"trace": note})
            asked = asyncio.create_task(rest.send(request))
            await sent.wait()
            os.kill(gateway.process.pid, signal.SIGTERM)
            assert (await asked).status_code in {201, 503}

    begun = time.monotonic()
    asyncio.run(ask_and_end())
    with pytest.raises(ConnectionClosed) as closed:
        while True:
            client.recv(10)
    assert gateway.wait() == 0, gateway.log.read_text()
    return time.monotonic() - begun, closed.value.rcvd.code if closed.value.rcvd else None
