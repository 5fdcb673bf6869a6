"""`/detections` over REST, on real rows and a real folder of pictures."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Engine, insert

from schemas.messages import image_path, snapshot_filename, snapshot_key
from schemas.tables import detections
from services.gateway import snapshots

NOON = datetime(2026, 1, 1, 12, 0, 0, 1, tzinfo=UTC)
FIRST, SECOND = "01KAPZ0000000000000000000A", "01KAPZ0000000000000000000B"
NAME = snapshot_filename(NOON, 7, 3)


def a_row(number: int, **more) -> dict[str, Any]:
    return {
        "captured_at": NOON + timedelta(seconds=number // 2),  # two of each instant
        "id": UUID(int=number),
        "stream_id": FIRST if number % 3 else SECOND,
        "epoch": 7,
        "seq": number,
        "position": 0,
        "label": "person" if number % 2 else "car",
        "class_id": 1,
        "confidence": number / 20,
        "x": 64,
        "y": 36,
        "width": 128,
        "height": 400,
        "frame_width": 640,
        "frame_height": 360,
        "image_path": image_path(FIRST, NAME),
        "model_name": "yolox",
        "model_version": "1",
        "model_digest": "sha256:0",
        "metadata": {
            "clock": {"source": "arrival", "offsetMs": None, "errorMs": None},
            "attributes": {"colour": "red", "seq": "not ours"},
        },
    } | more


@pytest.fixture(scope="module", autouse=True)
def rows(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(insert(detections), [a_row(number) for number in range(20)])


async def all_of(client, url: str) -> list[dict[str, Any]]:
    found = []
    while url:
        answer = await client.get(url)
        assert answer.status_code == 200, answer.text
        found += answer.json()
        url = answer.links["next"]["url"] if "next" in answer.links else ""
    return found


def numbers(found: list[dict[str, Any]]) -> list[int]:
    return [UUID(one["id"]).int for one in found]


async def test_a_detection_has_the_fields_of_the_contract(client):
    found = (await client.get("/detections?limit=1")).json()
    assert found == [
        {
            "id": str(UUID(int=19)),
            "streamId": FIRST,
            "timestamp": "2026-01-01T12:00:09.000001Z",
            "label": "person",
            "confidence": 0.95,
            "boundingBox": {"x": 64, "y": 36, "width": 128, "height": 400},
            "normalizedBox": {"x": 0.1, "y": 0.1, "width": 0.2, "height": 1},
            "imagePath": f"/detections/screenshot/{FIRST}/20260101T120000000001Z_7_3.jpg",
            "metadata": {
                "colour": "red",
                "frameId": f"{FIRST}/7/19",
                "recordId": f"{FIRST}/7/19",
                "seq": 19,
                "epoch": 7,
                "frame": {"width": 640, "height": 360},
                "clock": {"source": "arrival", "offsetMs": None, "errorMs": None},
                "model": {"name": "yolox", "version": "1", "digest": "sha256:0"},
                "classId": 1,
                "trackId": None,
            },
        }
    ]


async def test_pages_hold_each_row_once_newest_first(client):
    assert numbers(await all_of(client, "/detections?limit=3")) == list(range(19, -1, -1))


async def test_detections_of_one_stream(client):
    wanted = [number for number in range(19, -1, -1) if number % 3 == 0]
    assert numbers(await all_of(client, f"/detections/stream/{SECOND}?limit=2")) == wanted
    assert numbers(await all_of(client, f"/detections?streamId={SECOND}")) == wanted
    assert await all_of(client, "/detections/stream/01KAPZ0000000000000000000C") == []


async def test_detections_by_label_confidence_and_time(client):
    url = "/detections?label=car&minConfidence=0.5&from=2026-01-01T12:00:06Z"
    assert numbers(await all_of(client, f"{url}&to=2026-01-01T13:00:08.5%2B01:00")) == [16, 14, 12]


async def test_a_cursor_is_good_only_for_its_own_query(client):
    answer = await client.get("/detections?limit=2&label=car")
    cursor = dict(part.split("=") for part in answer.links["next"]["url"][12:].split("&"))["cursor"]
    good = await client.get(f"/detections?label=car&limit=9&cursor={cursor}")
    assert good.status_code == 200
    for foreign in (
        f"/detections?label=person&cursor={cursor}",
        f"/detections?cursor={cursor}",
        f"/detections/stream/{FIRST}?label=car&cursor={cursor}",
        f"/streams?cursor={cursor}",
        f"/detections?label=car&cursor={cursor[:-2]}",
        f"/detections?label=car&cursor=A{cursor[1:]}",
        f"/detections?label=car&cursor={cursor}A",
    ):
        answer = await client.get(foreign)
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["pointer"] in {"?cursor", "?label"}


async def test_the_picture_of_a_detection_is_answered_for_ever(client, parts):
    place = parts.snapshots._folder / snapshot_key(FIRST, NAME)
    place.parent.mkdir(parents=True)
    place.write_bytes(b"\xff\xd8 a jpeg")
    answer = await client.get(image_path(FIRST, NAME))
    assert (answer.status_code, answer.content) == (200, b"\xff\xd8 a jpeg")
    assert answer.headers["Content-Type"] == "image/jpeg"
    assert "immutable" in answer.headers["Cache-Control"]
    assert (await client.get(image_path(SECOND, NAME))).status_code == 404


async def test_a_picture_not_yet_stored_is_waited_for(client, monkeypatch):
    monkeypatch.setattr(snapshots, "WAIT_S", 0.2)
    answer = await client.get(image_path(FIRST, snapshot_filename(NOON, 7, 4)))
    assert answer.status_code == 404
    assert answer.headers["Retry-After"] == "1"


async def test_a_link_is_not_followed(client, parts, tmp_path, monkeypatch):
    monkeypatch.setattr(snapshots, "WAIT_S", 0)
    secret = tmp_path / "secret"
    secret.write_text("secret")
    name = snapshot_filename(NOON, 7, 5)
    place = parts.snapshots._folder / snapshot_key(FIRST, name)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(secret)
    assert (await client.get(image_path(FIRST, name))).status_code == 404
