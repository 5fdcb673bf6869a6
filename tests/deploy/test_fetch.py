"""Only the locked bytes are accepted, whatever happens on the way."""

import hashlib
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from typing_extensions import override

from deploy.local.fetch import FetchFailed, Jar, fetch_jars, read_lock

CONTENT = {f"part{number}": f"jar number {number}".encode() * 99 for number in range(6)}
JARS = [
    Jar(f"org.example:{name}:1.0", hashlib.sha256(content).hexdigest())
    for name, content in CONTENT.items()
]


class Repository(ThreadingHTTPServer):
    """A Maven repository of CONTENT that counts requests and can be told to misbehave."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answer)
        self.asked: Counter[str] = Counter()
        self.corrupt: set[str] = set()
        self.cut_once: set[str] = set()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


class Answer(BaseHTTPRequestHandler):
    server: Repository

    def do_GET(self):
        name = self.path.split("/")[3]
        if not self.path.endswith(".jar"):
            self.send_error(404)
            return
        self.server.asked[name] += 1
        content = CONTENT[name]
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(self.spoilt(name, content))

    def spoilt(self, name, content):
        if name in self.server.cut_once:
            self.server.cut_once.remove(name)
            return content[:50]
        return content[::-1] if name in self.server.corrupt else content

    @override
    def log_message(self, *_):
        """Requests are counted, not printed."""


@pytest.fixture
def repository():
    with Repository() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_fetched_jars_have_the_locked_bytes(repository, tmp_path):
    paths = fetch_jars(JARS, tmp_path, repository.url)
    assert [path.read_bytes() for path in paths] == list(CONTENT.values())


def test_a_corrupted_jar_is_refused_by_name_and_not_kept(repository, tmp_path):
    repository.corrupt = {"part3"}
    with pytest.raises(FetchFailed, match=r"org\.example:part3:1\.0.*locked is"):
        fetch_jars(JARS, tmp_path, repository.url)
    assert not list(tmp_path.rglob("part3*.jar"))


def test_nothing_is_asked_for_twice(repository, tmp_path):
    fetch_jars(JARS, tmp_path, repository.url)
    fetch_jars(JARS, tmp_path, repository.url)
    assert set(repository.asked.values()) == {1}


def test_a_jar_damaged_in_the_cache_is_fetched_again(repository, tmp_path):
    path = fetch_jars(JARS, tmp_path, repository.url)[2]
    path.write_bytes(b"rot")
    assert fetch_jars(JARS, tmp_path, repository.url)[2].read_bytes() == CONTENT["part2"]
    assert repository.asked["part2"] == 2
    assert repository.asked["part1"] == 1


def test_a_download_that_is_cut_is_tried_again(repository, tmp_path):
    repository.cut_once = {"part0", "part5"}
    fetch_jars(JARS, tmp_path, repository.url)
    assert repository.asked["part0"] == 2


def test_after_a_failed_fetch_only_the_rest_is_fetched(repository, tmp_path):
    repository.corrupt = {"part5"}
    with pytest.raises(FetchFailed):
        fetch_jars(JARS, tmp_path, repository.url)
    (tmp_path / "fetch-of-a-killed-process").mkdir()
    repository.corrupt = set()
    fetch_jars(JARS, tmp_path, repository.url)
    assert repository.asked["part0"] == 1
    assert not list(tmp_path.glob("fetch-*/"))


def test_several_at_once_fetch_each_jar_once(repository, tmp_path):
    with ThreadPoolExecutor() as pool:
        fetches = [pool.submit(fetch_jars, JARS, tmp_path, repository.url) for _ in range(3)]
        assert all(len(fetch.result()) == len(JARS) for fetch in fetches)
    assert set(repository.asked.values()) == {1}


def test_a_repository_that_is_away_is_said_to_be(tmp_path):
    with pytest.raises(FetchFailed, match="part0"):
        fetch_jars(JARS[:1], tmp_path, "http://127.0.0.1:1")


def test_the_lock_names_44_jars_and_never_the_unpublished_one():
    jars = read_lock()
    assert len({jar.file_name for jar in jars}) == 44
    assert "org.apache.kafka:kafka_2.13:4.4.0" in {jar.coordinate for jar in jars}
    assert not any("kafka-tools-api" in jar.coordinate for jar in jars)
