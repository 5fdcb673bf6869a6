"""The search for a canary finds it wherever it is planted: else its silence would mean nothing."""

import base64
import json
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil
import psycopg
import pytest
from confluent_kafka import Producer

from schemas.topics import DEAD_LETTERS, DETECTIONS, PRODUCER_OF_FACTS, STREAMS, Topic
from tests.pipeline import canary as search
from tests.pipeline.canary import Canary
from tests.stack import eventually

CANARY = Canary("viewer", "p@:/#?%ü$(x)")


Plant = tuple[Topic[Any], bytes, bytes, list[tuple[str, str | bytes | None]]]


def spelled() -> Iterator[tuple[str, str]]:
    password = CANARY.password
    yield "raw", password
    yield "percent", quote(password, safe="")
    yield "percent-lower", quote(password, safe="").lower()
    yield "percent-some", quote(password)
    yield "percent-twice", quote(quote(password, safe=""), safe="")
    yield "json", json.dumps({"a": password})
    yield "json-unicode", json.dumps({"a": password}, ensure_ascii=False)
    yield "json-in-json", json.dumps({"a": json.dumps({"b": password})})
    yield "bytes", str(password.encode())
    for name in ("", "u:", "us:", "viewer:"):
        yield f"base64-{name}", base64.b64encode(f"{name}{password}".encode()).decode()
    letter = json.dumps({"url": f"rtsp://{CANARY.in_url}@cam/"}).encode()
    yield "base64-of-json", base64.b64encode(letter).decode()
    yield "base64-url", base64.urlsafe_b64encode(f"viewer:{password}".encode()).decode()


FORMS = dict(spelled())


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_each_form_is_known_in_any_surroundings(form: str, tmp_path: Path) -> None:
    assert CANARY.is_in(f"before {form} after")
    folder = tmp_path / "logs"
    folder.mkdir()
    (folder / "a.log").write_bytes(b"\xff\x00" + form.encode() + b"\x00")
    (folder / "b.log").write_bytes(zlib.compress(b"nothing"))
    assert search.in_files(CANARY, tmp_path) == ["logs/a.log"]
    assert search.in_files(CANARY, tmp_path, but=["a.log"]) == []


def test_what_is_no_secret_is_no_canary() -> None:
    for text in ("viewer", "rtsp://camera/door", "p%40", json.dumps({"password": "***"})):
        assert not CANARY.is_in(text)


def test_it_is_found_across_two_reads_of_a_file_and_in_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "LOOKED_AT_ONCE", 1000)
    (tmp_path / "long").write_bytes(b"x" * 995 + CANARY.password.encode() + b"x" * 2000)
    (tmp_path / quote(CANARY.password, safe="")).touch()
    assert len(search.in_files(CANARY, tmp_path)) == 2


def test_it_is_found_in_key_value_and_headers_of_compressed_batches(
    kafka: str, topic_prefix: str
) -> None:
    producer = Producer(PRODUCER_OF_FACTS | {"bootstrap.servers": kafka, "linger.ms": 200})
    secret = CANARY.password.encode()
    plants: list[Plant] = [
        (STREAMS, secret, b"value", [("name", b"x")]),
        (DETECTIONS, b"key", base64.b64encode(b"viewer:" + secret), [("name", b"x")]),
        (DEAD_LETTERS, b"key", b"value", [("origin_source", quote(CANARY.password).encode())]),
    ]
    for topic, key, value, headers in plants:
        for _ in range(20):
            producer.produce(topic.named(topic_prefix), key=b"k", value=b"harmless" * 20)
        producer.produce(topic.named(topic_prefix), key=key, value=value, headers=headers)
    assert producer.flush(10) == 0
    found = search.in_messages(CANARY, kafka, topic_prefix)
    assert {place.split("/")[0] for place in found} == {
        topic.named(topic_prefix) for topic, *_ in plants
    }
    assert len(found) == 3
    but = [STREAMS.named(topic_prefix)]
    assert len(search.in_messages(CANARY, kafka, topic_prefix, but)) == 2


def test_it_is_found_in_the_database(database_url: str) -> None:
    assert not CANARY.is_in(search.dumped(database_url))
    with psycopg.connect(database_url) as connection:
        connection.execute("CREATE TABLE kept (said text)")
        connection.execute("INSERT INTO kept VALUES (%s)", [FORMS["json"]])
    assert CANARY.is_in(search.dumped(database_url))


@pytest.mark.parametrize("place", ["cmdline", "environ"])
def test_it_is_found_in_what_a_process_was_started_with(place: str) -> None:
    words = [CANARY.password] if place == "cmdline" else []
    environment = {"A": CANARY.in_url} if place == "environ" else {}
    idle = [sys.executable, "-c", "import time; time.sleep(60)", *words]
    with subprocess.Popen(idle, env=environment) as child:
        try:
            name = psutil.Process(child.pid).name()
            wanted = [f"{name} {place}"]
            assert eventually(lambda: search.in_processes(CANARY, child.pid) == wanted, 10)
        finally:
            child.kill()
