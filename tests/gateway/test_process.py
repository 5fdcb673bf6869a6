"""The gateway as a process: what it needs, how it dies, how it ends."""

import os
import signal
import time

import httpx
import pytest
from sqlalchemy import Engine, select
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from schemas.messages import Status
from schemas.tables import streams
from services.gateway.settings import Settings
from services.process.settings import load
from tests.gateway.gateway_process import create
from tests.gateway.parts import said
from tests.gateway.serving import serving
from tests.gateway.test_pictures import Owner
from tests.gateway.topic import last_values, messages, say_status, wait_until

KEY = "the-key-of-an-administrator"


def slot_of(engine: Engine, id: str) -> int:
    with engine.connect() as connection:
        slot: int = connection.execute(
            select(streams.c.slot).where(streams.c.id == id)
        ).scalar_one()
        return slot


@pytest.mark.parametrize("point", ["before_publish", "after_publish"])
def test_what_a_killed_gateway_left_half_said_another_completes_within_five_seconds(
    run, kafka, topic_prefix, engine: Engine, point
):
    with run(SIGHTLOG_CRASH_AT=f"reconciler.{point}") as doomed, run() as other:
        id = create(other)
        assert doomed.wait() == -signal.SIGKILL
        killed_at = time.monotonic()
        place = slot_of(engine, id), id
        wait_until(lambda: place in last_values(kafka, topic_prefix), 4 * 5)
        print(f"{point}: said {time.monotonic() - killed_at:.1f} s after the kill (bar 5 s)")
        httpx.delete(f"{other.url}/streams/{id}")
        wait_until(lambda: place not in last_values(kafka, topic_prefix))
    ours = [value for _, key, value in messages(kafka, topic_prefix) if key == id]
    assert [value is None for value in ours] == [False, True], "once said, once taken back"


def test_it_ends_within_ten_seconds_although_people_look_and_listen(
    run, kafka, topic_prefix, engine: Engine
):
    owner = Owner()
    with serving(owner.app, timeout_graceful_shutdown=1) as endpoint, run() as gateway:
        id = create(gateway, running=True)
        status = said(id, Status.RUNNING, 1, endpoint=f"http://{endpoint}")
        say_status(kafka, topic_prefix, slot_of(engine, id), status)
        url = f"{gateway.url}/streams/{id}"
        wait_until(lambda: httpx.get(url).json()["status"] == "RUNNING")
        with (
            httpx.stream("GET", f"{url}/live") as live,
            connect(f"{gateway.ws}/ws") as listener,
        ):
            assert live.status_code == 200
            next(live.iter_raw())
            assert '"snapshot"' in str(listener.recv(5))
            begun = time.monotonic()
            gateway.process.send_signal(signal.SIGTERM)
            assert gateway.wait() == 0, gateway.log.read_text()
            assert time.monotonic() - begun < 10
        assert "Traceback" not in gateway.log.read_text()


def test_with_keys_nobody_else_gets_in(run):
    with run(GATEWAY_AUTH="on", GATEWAY_API_KEYS=f"admin:{KEY}") as gateway:
        assert httpx.get(f"{gateway.url}/streams").status_code == 401
        headers = {"Authorization": f"Bearer {KEY}"}
        assert httpx.get(f"{gateway.url}/streams", headers=headers).status_code == 200
        assert httpx.get(f"{gateway.url}/health/live").status_code == 200
        for refused in (gateway.ws, f"{gateway.ws}/ws?access_token=wrong"):
            with pytest.raises(InvalidStatus, match="401"):
                connect(refused)
        with connect(gateway.ws, additional_headers=headers) as listener:
            assert '"snapshot"' in str(listener.recv(5))
        with connect(f"{gateway.ws}/ws?access_token={KEY}") as listener:
            assert '"snapshot"' in str(listener.recv(5))
        assert KEY not in gateway.log.read_text()


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"DATABASE_URL": None}, "DATABASE_URL"),
        ({"DATABASE_URL": "canary"}, "DATABASE_URL"),
        ({"SIGHTLOG_INTERNAL_KEY": None}, "SIGHTLOG_INTERNAL_KEY"),
        ({"SIGHTLOG_INTERNAL_KEY": "canary"}, "SIGHTLOG_INTERNAL_KEY"),
        ({"GATEWAY_HTTP_HOST": "0.0.0.0"}, "GATEWAY_AUTH"),  # noqa: S104 -- refused
        ({"GATEWAY_AUTH": "maybe"}, "GATEWAY_AUTH"),
        ({"GATEWAY_AUTH": None}, "GATEWAY_API_KEYS"),
        ({"GATEWAY_AUTH": "on", "GATEWAY_API_KEYS": "canary"}, "GATEWAY_API_KEYS"),
        ({"GATEWAY_AUTH": "on", "GATEWAY_API_KEYS": "root:canary"}, "GATEWAY_API_KEYS"),
        ({"GATEWAY_HTTP_PORT": "canary"}, "GATEWAY_HTTP_PORT"),
        ({"MAX_FPS": "0"}, "MAX_FPS"),
        ({"SIGHTLOG_SEAL_PUBLIC_KEY": "canary"}, "SIGHTLOG_SEAL_PUBLIC_KEY"),
        ({"SIGHTLOG_SOURCE_NETWORKS_DENIED": "canary"}, "SIGHTLOG_SOURCE_NETWORKS_DENIED"),
    ],
)
def test_a_wrong_setting_is_named_and_ends_the_process(
    environment, settings, name, monkeypatch, capsys
):
    monkeypatch.setattr(os, "environ", {})
    for variable, value in (environment | settings).items():
        if value is not None:
            monkeypatch.setitem(os.environ, variable, value)
    with pytest.raises(SystemExit) as ended:
        load(Settings)
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith(f"setting {name}: expected ")
    assert told.count("\n") == 1
    assert "canary" not in told
