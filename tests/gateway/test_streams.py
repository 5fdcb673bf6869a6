"""`/streams` over REST, on a real database."""

import asyncio
import base64
import json
import re
from dataclasses import replace
from datetime import timedelta
from typing import Any

import httpx
import msgspec
import pytest
from nacl.public import PrivateKey, SealedBox
from sqlalchemy import Engine, select, text

from schemas.messages import Heartbeat, Reason, SourceFacts, Status, now
from schemas.tables import streams
from services.gateway.access import Access
from services.gateway.app import create_app
from services.gateway.parts import Parts
from services.gateway.seal import Seal
from tests.gateway.parts import Nudges, failed, said

CANARY = "s3cret@:/#?%ü"


async def created(client: httpx.AsyncClient, **fields: object) -> dict[str, Any]:
    body = {"name": "door", "rtspUrl": "rtsp://10.0.0.9/live"} | fields
    answer = await client.post("/streams", json=body)
    assert answer.status_code == 201, answer.text
    stream: dict[str, Any] = answer.json()
    return stream


def row_of(engine: Engine, id: str):
    with engine.connect() as connection:
        return connection.execute(select(streams).where(streams.c.id == id)).one()


def opened(private: PrivateKey, sealed: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(SealedBox(private).decrypt(base64.b64decode(sealed)))
    return content


async def test_the_replaced_systems_body_makes_a_stopped_stream(client, nudges: Nudges):
    before = nudges.count
    answer = await client.post(
        "/streams",
        json={
            "name": "door",
            "rtspUrl": "rtsp://10.0.0.9:8554/live",
            "fps": 5.0,
            "detectionEnabled": True,
        },
    )
    stream = answer.json()
    assert answer.status_code == 201
    assert answer.headers["Location"] == f"/streams/{stream['id']}"
    assert answer.headers["ETag"] == '"1"'
    assert re.fullmatch(r"[0-9A-HJKMNP-TV-Z]{26}", stream["id"])
    assert stream["name"] == "door"
    assert stream["rtspUrl"] == "rtsp://10.0.0.9:8554/live"
    assert (stream["fps"], stream["effectiveFps"], stream["status"]) == (5, 5, "STOPPED")
    assert stream["detectionEnabled"] is True
    assert stream["hasCredentials"] is False
    assert stream["frameWidth"] == 640
    assert stream["maxFrameAgeMs"] == 2000
    assert stream["generation"] == 1
    assert stream["observedGeneration"] is None
    assert stream["lastHeartbeat"] is None
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", stream["createdAt"])
    assert nudges.count == before + 1
    assert (await client.get(f"/streams/{stream['id']}")).json() == stream


async def test_a_stream_may_be_started_with_its_creation(client):
    assert (await created(client, running=True))["status"] == "STARTING"


async def test_max_fps_bounds_what_a_stream_gets(client):
    stream = await created(client, fps=30)
    assert (stream["fps"], stream["effectiveFps"]) == (30, 20)


async def test_streams_are_spread_over_the_slots(client, engine: Engine):
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM streams"))
    await asyncio.gather(*(created(client) for _ in range(8)))
    with engine.connect() as connection:
        slots = connection.execute(select(streams.c.slot)).scalars().all()
    assert sorted(slots) == [0, 0, 1, 1, 2, 2, 3, 3]


async def test_a_password_is_sealed_for_its_place_and_shown_nowhere(
    client, engine, sealing_key, caplog
):
    caplog.set_level("DEBUG")
    stream = await created(client, username="admin", password=CANARY)
    assert stream["hasCredentials"] is True
    row = row_of(engine, stream["id"])
    assert opened(sealing_key, row.sealed_credentials) == {
        "streamId": stream["id"],
        "scheme": "rtsp",
        "host": "10.0.0.9",
        "port": 554,
        "username": "admin",
        "password": CANARY,
    }
    shown = json.dumps(stream, ensure_ascii=False) + str(row) + caplog.text
    assert "s3cret" not in shown


async def test_credentials_in_the_url_are_taken_out_of_it(client, engine, sealing_key):
    stream = await created(client, rtspUrl="rtsp://admin:p%40ss@10.0.0.9:8554/live?a=b")
    assert stream["rtspUrl"] == "rtsp://10.0.0.9:8554/live?a=b"
    sealed = opened(sealing_key, row_of(engine, stream["id"]).sealed_credentials)
    assert (sealed["username"], sealed["password"], sealed["port"]) == ("admin", "p@ss", 8554)


async def test_only_given_fields_are_changed_and_the_generation_rises(client):
    stream = await created(client, tags=["a"])
    answer = await client.patch(f"/streams/{stream['id']}", json={"fps": 2, "frameWidth": None})
    changed = answer.json()
    assert answer.status_code == 200
    assert (changed["fps"], changed["frameWidth"], changed["generation"]) == (2, None, 2)
    same = ("id", "name", "rtspUrl", "tags", "status", "createdAt", "detectionEnabled")
    assert {name: changed[name] for name in same} == {name: stream[name] for name in same}


async def test_what_changes_nothing_makes_no_new_generation(client):
    stream = await created(client, labels=["person"])
    answer = await client.patch(
        f"/streams/{stream['id']}", json={"name": "door", "labels": ["person"]}
    )
    assert answer.json()["generation"] == 1


@pytest.mark.parametrize(
    ("change", "kept"),
    [
        ({"rtspUrl": "rtsp://10.0.0.9/other"}, True),
        ({"rtspUrl": "RTSP://10.0.0.9:554/other"}, True),
        ({"fps": 3}, True),
        ({"rtspUrl": "rtsp://10.0.0.8/live"}, False),
        ({"rtspUrl": "rtsp://10.0.0.9:8554/live"}, False),
        ({"sources": [{"url": "rtsp://10.0.0.8/live"}]}, False),
        ({"username": None}, False),
        ({"rtspUrl": "file:walk.mp4"}, False),
    ],
)
async def test_a_password_goes_to_no_place_it_was_not_meant_for(client, change, kept):
    stream = await created(client, username="admin", password=CANARY)
    answer = await client.patch(f"/streams/{stream['id']}", json=change)
    assert answer.status_code == 200
    assert answer.json()["hasCredentials"] is kept


async def test_a_certificate_is_verified_unless_the_stream_says_so_for_all_to_see(client):
    stream = await created(client, rtspUrl="rtsps://10.0.0.9/live")
    assert stream["verifyTls"] is True
    path = f"/streams/{stream['id']}"
    assert (await client.patch(path, json={"verifyTls": False})).status_code == 200
    assert (await client.get(path)).json()["verifyTls"] is False


async def test_a_new_place_with_the_password_keeps_credentials(client, engine, sealing_key):
    stream = await created(client, username="admin", password="old")
    await client.patch(
        f"/streams/{stream['id']}",
        json={"rtspUrl": "rtsp://10.0.0.8/", "username": "root", "password": "new"},
    )
    sealed = opened(sealing_key, row_of(engine, stream["id"]).sealed_credentials)
    assert (sealed["host"], sealed["username"], sealed["password"]) == ("10.0.0.8", "root", "new")


async def test_a_change_of_something_already_changed_is_refused(client):
    stream = await created(client)
    path = f"/streams/{stream['id']}"
    first = await client.patch(path, json={"fps": 2}, headers={"If-Match": '"1"'})
    stale = await client.patch(path, json={"fps": 3}, headers={"If-Match": '"1"'})
    again = await client.patch(path, json={"fps": 3}, headers={"If-Match": first.headers["ETag"]})
    assert (first.status_code, stale.status_code, again.status_code) == (200, 412, 200)
    assert stale.json()["type"].endswith("/changed-meanwhile")


async def test_start_and_stop_may_be_repeated(client):
    path = f"/streams/{(await created(client))['id']}"
    started = await client.post(f"{path}/start")
    again = await client.post(f"{path}/start")
    assert (started.status_code, started.json()["status"]) == (202, "STARTING")
    assert again.json()["generation"] == started.json()["generation"] == 2
    stopped = await client.post(f"{path}/stop")
    assert (stopped.status_code, stopped.json()["generation"]) == (202, 3)
    assert (await client.post(f"{path}/stop")).json()["generation"] == 3


async def test_a_running_stream_shows_what_its_owner_says(client, parts: Parts):
    id = (await created(client, running=True))["id"]
    source = SourceFacts(codec="h264", width=1920, height=1080, fps=25)
    parts.observed.note_status(0, said(id, Status.RUNNING, 1, source=source), now())
    heartbeat = Heartbeat(stream_id=id, epoch=7, at=now(), window_s=10)
    parts.observed.note_heartbeat(heartbeat, now())
    stream = (await client.get(f"/streams/{id}")).json()
    assert (stream["status"], stream["owner"], stream["epoch"]) == ("RUNNING", "ingestor-1", 7)
    assert stream["source"] == {"codec": "h264", "width": 1920, "height": 1080, "fps": 25}
    assert stream["lastHeartbeat"] == msgspec.to_builtins(heartbeat.at)
    assert stream["measured"]["fps"] == 0
    stopping = await client.post(f"/streams/{id}/stop")
    assert stopping.json()["status"] == "STOPPING"
    parts.observed.note_status(0, said(id, Status.STOPPED, 2), now())
    assert (await client.get(f"/streams/{id}")).json()["status"] == "STOPPED"


async def test_starting_a_file_that_has_ended_begins_anew(client, parts: Parts):
    id = (await created(client, rtspUrl="file:walk.mp4", running=True))["id"]
    parts.observed.note_status(0, said(id, Status.STOPPED, 1, reason=Reason.ENDED), now())
    ended = (await client.get(f"/streams/{id}")).json()
    assert (ended["status"], ended["reason"]) == ("STOPPED", "ENDED")
    started = (await client.post(f"/streams/{id}/start")).json()
    assert (started["status"], started["generation"]) == ("STARTING", 2)


async def test_a_deleted_stream_is_gone_at_once(client, engine: Engine):
    id = (await created(client, running=True))["id"]
    answer = await client.delete(f"/streams/{id}")
    assert (answer.status_code, answer.content) == (204, b"")
    assert (await client.get(f"/streams/{id}")).status_code == 404
    assert (await client.delete(f"/streams/{id}")).status_code == 404
    assert (await client.post(f"/streams/{id}/start")).status_code == 404
    assert id not in {stream["id"] for stream in (await client.get("/streams")).json()}
    assert row_of(engine, id).running is False


async def test_streams_come_newest_first_by_pages(client, engine: Engine):
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM streams"))
    made = [
        (await created(client, name=f"{n}", tags=["x"] if n % 2 else []))["id"] for n in range(5)
    ]
    seen, url = [], "/streams?limit=2"
    while url:
        answer = await client.get(url)
        page = answer.json()
        assert isinstance(page, list)
        seen += [stream["id"] for stream in page]
        url = answer.links["next"]["url"] if "next" in answer.links else ""
    assert seen == sorted(made, reverse=True)
    tagged = (await client.get("/streams?tag=x")).json()
    assert {stream["name"] for stream in tagged} == {"1", "3"}


async def test_streams_of_one_status_are_found(client, parts: Parts, engine: Engine):
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM streams"))
    ids = [(await created(client, running=True))["id"] for _ in range(3)]
    parts.observed.note_status(0, failed(ids[1], 1, Reason.AUTH_FAILED), now())
    found = (await client.get("/streams?status=ERROR&limit=1")).json()
    assert [(one["id"], one["reason"], one["hint"]) for one in found] == [
        (ids[1], "AUTH_FAILED", "what to do")
    ]


async def test_health_names_the_streams_that_are_not_well(client, parts: Parts, engine: Engine):
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM streams"))
    assert (await client.get("/streams/health")).json()["status"] == "healthy"
    well, silent, broken = [(await created(client, running=True))["id"] for _ in range(3)]
    with engine.begin() as connection:
        connection.execute(text("UPDATE streams SET updated_at = now() - interval '1 minute'"))
    began = now() - timedelta(minutes=1)
    for id in (well, silent):
        parts.observed.note_status(0, said(id, Status.RUNNING, 1, since=began), began)
    parts.observed.note_status(0, failed(broken, 1, Reason.AUTH_FAILED), now())
    parts.observed.note_heartbeat(Heartbeat(stream_id=well, epoch=7, at=now(), window_s=10), now())
    health = (await client.get("/streams/health")).json()
    assert (health["status"], health["total"]) == ("degraded", 3)
    assert (health["running"], health["error"]) == (2, 1)
    assert {one["id"]: one["reason"] for one in health["unhealthy"]} == {
        silent: "NO_HEARTBEAT",
        broken: "AUTH_FAILED",
    }


@pytest.mark.parametrize("ahead", [timedelta(hours=-1), timedelta(hours=1)])
async def test_health_goes_by_when_an_owner_spoke_not_by_its_clock(
    client, parts: Parts, engine: Engine, ahead
):
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM streams"))
    well, silent = [(await created(client, running=True))["id"] for _ in range(2)]
    began = now() - timedelta(minutes=1)
    with engine.begin() as connection:
        connection.execute(text("UPDATE streams SET updated_at = now() - interval '1 minute'"))
    for id, spoke in ((well, now()), (silent, began)):
        parts.observed.note_status(0, said(id, Status.RUNNING, 1, since=began + ahead), began)
        beat = Heartbeat(stream_id=id, epoch=7, at=spoke + ahead, window_s=10)
        parts.observed.note_heartbeat(beat, spoke)
    health = (await client.get("/streams/health")).json()
    assert [one["id"] for one in health["unhealthy"]] == [silent]


async def test_a_stream_that_changed_a_moment_ago_has_time_to_be_heard_of(
    client, parts: Parts, engine: Engine
):
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM streams"))
    id = (await created(client, running=True))["id"]
    with engine.begin() as connection:
        connection.execute(text("UPDATE streams SET updated_at = now() - interval '1 hour'"))
    parts.observed.note_status(0, said(id, Status.RUNNING, 1, since=now()), now())
    assert (await client.get("/streams/health")).json()["status"] == "healthy"


async def test_history_comes_newest_first_by_pages(client, engine: Engine):
    id = (await created(client))["id"]
    with engine.begin() as connection:
        for n in range(3):
            connection.execute(
                text(
                    "INSERT INTO status_history VALUES (:id, 0, :n, 'RUNNING', null, null, null,"
                    " timestamptz '2026-01-01Z' + :n * interval '1 s', 0, 'me', 7, :n)"
                ),
                {"id": id, "n": n},
            )
    first = await client.get(f"/streams/{id}/history?limit=2")
    rest = await client.get(first.links["next"]["url"])
    seen = first.json() + rest.json()
    assert [one["observedGeneration"] for one in seen] == [2, 1, 0]
    assert seen[0]["since"] == "2026-01-01T00:00:02.000000Z"


async def test_without_a_sealing_key_credentials_are_refused(parts: Parts):
    keyless = replace(parts, seal=Seal(""))
    transport = httpx.ASGITransport(create_app(keyless, Access(None, [])))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        answer = await client.post(
            "/streams",
            json={"name": "a", "rtspUrl": "rtsp://10.0.0.9/", "username": "u", "password": CANARY},
        )
    assert answer.status_code == 422
    assert "SIGHTLOG_SEAL_PUBLIC_KEY" in answer.json()["detail"]
    assert "s3cret" not in answer.text


async def test_a_stream_whose_address_is_accepted_no_more_can_be_changed(
    client, engine, sealing_key
):
    id = (await created(client, username="u", password="p"))["id"]
    with engine.begin() as connection:
        connection.execute(
            streams.update().where(streams.c.id == id).values(url="http://10.0.0.9/live")
        )
    answer = await client.patch(f"/streams/{id}", json={"name": "gate"})
    assert (answer.status_code, answer.json()["hasCredentials"]) == (200, True)
    for action in ("start", "stop"):
        assert (await client.post(f"/streams/{id}/{action}")).status_code == 202
    sealed = {"username": "u", "password": "p"}
    answer = await client.patch(f"/streams/{id}", json=sealed)
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/username")
    moved = {"rtspUrl": "rtsp://10.0.0.9/live"}
    answer = await client.patch(f"/streams/{id}", json=moved)
    assert (answer.status_code, answer.json()["hasCredentials"]) == (200, False)
    answer = await client.patch(f"/streams/{id}", json=sealed)
    assert (answer.status_code, answer.json()["hasCredentials"]) == (200, True)
