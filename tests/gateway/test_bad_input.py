"""A clear 4xx problem, nothing stored, nothing repeated that could be a secret."""

import json
from dataclasses import replace
from typing import Any, cast

import httpx
import pytest
from sqlalchemy import Engine, func, select

from schemas.tables import streams
from services.gateway.access import Access
from services.gateway.app import create_app
from services.gateway.pages import Pages
from services.gateway.parts import Parts
from tests.forbidden import FORBIDDEN

GOOD = {"name": "door", "rtspUrl": "rtsp://10.0.0.9/live"}
ULID = "01KAPZ0000000000000000000A"

URLS: list[Any] = [
    *(url.format(inside=8554, inside6=8554, web=8000) for url in FORBIDDEN),
    "file:list.m3u8",
    "rtsp://[fe80::1%25eth0]/",
    "rtsp://rtsp://host/",
    "file:../secret.mp4",
    "file:a/b.mp4",
    "file:%2e%2e.mp4",
    "file:",
    "file:a.mp4?loop=2",
    "concat:a|b",
    "subfile:a",
    "data:,x",
    "",
    " ",
    "rtsp:",
    "rtsp://",
    "rtsp:///live",
    "rtsp://:554/live",
    "rtsp://host:0/",
    "rtsp://host:99999/",
    "rtsp://host:5x/",
    "rtsp://-i/",
    "rtsp://a..b/",
    "rtsp://a b/",
    "rtsp://a/\r\nX: y",
    "rtsp://a/#x",
    "rtsp://user:canary/pass@host/",
    "rtsp://user:canary#pass@host/",
    "rtsp://user:1?canary@host/",
    "rtsp://[::1/",
    "rtsp://[zz]/",
    "rtsp://169.254.169.254/",
    "rtsp://127.0.0.1/",
    "rtsp://[::1]/",
    "rtsp://[::ffff:127.0.0.1]/",
    "rtsp://0x7f.1/",
    "rtsp://2130706433/",
    "rtsp://127.1/",
    "http://10.0.0.9/a.m3u8",
    "rtmp://10.0.0.9/",
    "rtsp://" + "a" * 3000,
    17,
    None,
    ["rtsp://10.0.0.9/"],
]
FIELDS: list[tuple[str, Any]] = [
    ("fps", value) for value in (0, 31, -1, 1.5, "5", "5; rm", True, None, [5], 10**400)
] + [
    ("name", value)
    for value in ("", "   ", "a" * 101, "a" * 60_000, "a\nb", "a\0b", "a\u202eb", "\ud800", 5, None)
]
FIELDS += [
    ("labels", ["a,b"]),
    ("labels", ["a\nb"]),
    ("labels", "person"),
    ("labels", ["x"] * 101),
    ("minConfidence", 1.1),
    ("minConfidence", "0.5"),
    ("frameWidth", 0),
    ("maxFrameAgeMs", 0),
    ("model", "../x"),
    ("detectionEnabled", "yes"),
    ("tags", [""]),
    ("password", "canary-without-username"),
    ("password", {"canary": 1}),
    ("sources", [{"url": "pipe:0"}]),
    ("sources", [{"url": "rtsp://10.0.0.8/other"}]),
    ("sources", [{"url": "rtsp://10.0.0.9/live", "roles": ["spy"]}]),
    ("sources", [{"url": "rtsp://u:canary@10.0.0.9/live"}]),
    ("id", "mine"),
    ("status", "RUNNING"),
]


@pytest.fixture(autouse=True)
def nothing_is_stored(engine: Engine):
    count = select(func.count()).select_from(streams)
    with engine.connect() as connection:
        before = connection.execute(count).scalar_one()
    yield
    with engine.connect() as connection:
        assert connection.execute(count).scalar_one() == before


def check_problem(answer: httpx.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert problem["status"] == status
    assert problem["type"].startswith("https://sightlog.dev/problems/")
    assert problem["title"]
    assert problem["detail"]
    assert problem["instance"]
    assert len(answer.content) < 8000
    for secret in ("canary", "Traceback", "/work", "site-packages", "postgresql"):
        assert secret not in answer.text
    return problem


@pytest.mark.parametrize("url", URLS, ids=lambda url: repr(url)[:40])
async def test_an_address_that_is_no_cameras_is_refused(client, url):
    for path, body in (("/streams", GOOD), ("/streams/probe", {})):
        answer = await client.post(path, json=body | {"rtspUrl": url})
        problem = check_problem(answer, 422)
        assert problem["errors"][0]["pointer"] == "/rtspUrl"


@pytest.mark.parametrize(
    ("field", "value"), FIELDS, ids=[f"{name}={value!r}"[:40] for name, value in FIELDS]
)
async def test_a_wrong_field_is_named(client, field, value):
    content = json.dumps(GOOD | {field: value})
    answer = await client.post(
        "/streams", content=content, headers={"Content-Type": "application/json"}
    )
    problem = check_problem(answer, 422)
    assert field in json.dumps(problem["errors"])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "door"),
        ("id", ULID),
        ("fps", 5),
        ("verifyTls", "no"),
        ("username", 5),
        ("username", "a\nb"),
        ("username", "u" * 257),
        ("password", "canary-without-username"),
        ("password", {"canary": 1}),
    ],
)
async def test_a_wrong_field_of_a_probe_is_named(client, field, value):
    answer = await client.post("/streams/probe", json={"rtspUrl": GOOD["rtspUrl"], field: value})
    problem = check_problem(answer, 422)
    assert field in json.dumps(problem["errors"])


async def test_a_file_is_given_no_password(client):
    body = {"rtspUrl": "file:a.mp4", "username": "u", "password": "canary-of-a-file"}
    problem = check_problem(await client.post("/streams/probe", json=body), 422)
    assert problem["errors"][0]["pointer"] == "/username"


@pytest.mark.parametrize(
    ("content", "status"),
    [
        ("", 422),
        ("{", 400),
        ("[]", 422),
        ("null", 422),
        ('"x"', 422),
        ("NaN", 422),
        ('{"name": "a", "rtspUrl": "rtsp://10.0.0.9/", "fps": NaN}', 422),
        ('{"name": "a", "rtspUrl": "rtsp://10.0.0.9/", "minConfidence": NaN}', 422),
        ("[" * 50_000, 400),
        ('{"a":' * 10_000, 400),
        (b"\xff\xfe", 400),
        (b"\x80", 400),
        ("1" * 60_000, 400),
        (b" " * (64 * 1024 + 1), 413),
    ],
    ids=lambda value: repr(value)[:24],
)
async def test_a_body_that_is_no_stream_is_refused(client, content, status):
    headers = {"Content-Type": "application/json"}
    for path in ("/streams", "/streams/probe"):
        check_problem(await client.post(path, content=content, headers=headers), status)


async def test_a_body_of_unknown_length_is_cut_off(client):
    async def endless():
        for _ in range(1000):
            yield b" " * 1024

    headers = {"Content-Type": "application/json"}
    check_problem(await client.post("/streams", content=endless(), headers=headers), 413)


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", None])
async def test_only_json_is_read(client, kind):
    headers = {} if kind is None else {"Content-Type": kind}
    answer = await client.post("/streams", content=json.dumps(GOOD), headers=headers)
    check_problem(answer, 415)


@pytest.mark.parametrize("change", [{"name": None}, {"fps": None}, {"username": "u"}, {"x": 1}])
async def test_a_wrong_change_changes_nothing(client, change, engine: Engine):
    id = (await client.post("/streams", json=GOOD)).json()["id"]
    check_problem(await client.patch(f"/streams/{id}", json=change), 422)
    assert (await client.get(f"/streams/{id}")).json()["generation"] == 1
    with engine.begin() as connection:
        connection.execute(streams.delete())


@pytest.mark.parametrize(
    "id", ["x", "..%2fx", "%2e%2e%2f", "..%5c", "%00", ULID, "a" * 10_000, "'; DROP", "%ff"]
)
async def test_an_unknown_stream_is_not_found(client, id):
    paths = [f"/streams/{id}", f"/streams/{id}/frame", f"/streams/{id}/live"]
    for path in [*paths, f"/streams/{id}/history", f"/streams/{id}/ledger"]:
        check_problem(await client.get(path), 404)
    check_problem(await client.post(f"/streams/{id}/start"), 404)
    check_problem(await client.patch(f"/streams/{id}", json={}), 404)
    check_problem(await client.delete(f"/streams/{id}"), 404)


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=-1",
        "limit=1000000000",
        "limit=1.5",
        "limit=5;rm",
        "limit=",
        "limit=1&limit=2",
        "cursor=",
        "cursor=forged",
        "cursor=%00",
        "cursor=" + "A" * 10_000,
        "unknown=1",
        "%00=1",
    ],
)
async def test_a_wrong_query_is_refused_by_every_list(client, query):
    for path in ("/streams", "/detections", f"/detections/stream/{ULID}"):
        problem = check_problem(await client.get(f"{path}?{query}"), 422)
        assert problem["errors"][0]["pointer"].startswith("?")


@pytest.mark.parametrize(
    "query",
    [
        "from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z",
        "from=2026-01-01",
        "from=yesterday",
        "to=2026-01-01T00:00:00",
        "minConfidence=NaN",
        "minConfidence=2",
        "label=%00",
        "label=" + "a" * 101,
        "streamId=%2e%2e%2f",
        "streamid=" + ULID,
    ],
)
async def test_a_wrong_search_for_detections_is_refused(client, query):
    check_problem(await client.get(f"/detections?{query}"), 422)


@pytest.mark.parametrize(
    ("stream", "name"),
    [
        (ULID, "../x"),
        (ULID, "%2e%2e%2fx"),
        (ULID, "..%5cx"),
        (ULID, "x%00.jpg"),
        (ULID, "20260101T000000000000Z_1_2.png"),
        (ULID, "20260101T000000000000Z_1_2.jpg%00"),
        (ULID, "20260101T000000000000Z_-1_2.jpg"),
        (ULID, "a" * 10_000),
        ("..", "20260101T000000000000Z_1_2.jpg"),
        ("%2e%2e", "20260101T000000000000Z_1_2.jpg"),
        (ULID.lower(), "20260101T000000000000Z_1_2.jpg"),
    ],
)
async def test_a_name_that_is_no_pictures_is_not_found(client, stream, name):
    check_problem(await client.get(f"/detections/screenshot/{stream}/{name}"), 404)


async def test_unknown_paths_and_methods_are_problems(client):
    check_problem(await client.get("/nothing"), 404)
    check_problem(await client.get("/streams/"), 404)
    answer = await client.put("/streams")
    check_problem(answer, 405)
    assert answer.headers["Allow"] == "GET, POST"


async def test_a_bug_shows_nothing_of_itself(parts: Parts):
    class Broken:
        def position(self, path: str, query: object) -> None:
            raise RuntimeError("canary")

    app = create_app(replace(parts, pages=cast(Pages, Broken())), Access(None, []))
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        check_problem(await client.get("/detections"), 500)
