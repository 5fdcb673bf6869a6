"""What a gateway would have refused, forged onto the topic: nobody goes there, no password leaves.

Each stream has credentials, sealed for its very address. On each target a listener counts who
comes and keeps what they say.
"""

import json
import socket
from base64 import b64encode
from itertools import count
from urllib.parse import quote

import pytest
from msgspec.structs import replace

from schemas.messages import Reason, Status, StreamSpec
from tests.forbidden import FORBIDDEN
from tests.ingestor.conftest import eventually, sealed
from tests.ingestor.rigged.cameras import Names
from tests.ingestor.scripted import Scripted, showing

NEVER_S = str(10**9)  # the waits are uniform from 0: of a short one, some would end in the test
CANARY = "canary-7f3a@:/#?%ü"
BASIC = 'WWW-Authenticate: Basic realm="x"\r\n'
DIGEST = 'WWW-Authenticate: Digest realm="x", nonce="y"\r\n'
PLAYLISTS = {
    "list.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://{web}/a.ts\n",
    "list.mp4": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://{web}/a.ts\n",
    "list.ffconcat": "ffconcat version 1.0\nfile rtsp://{inside}/x\nfile /etc/passwd\n",
    "list.sdp": "v=0\no=- 0 0 IN IP4 {web}\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 96\n",
    "list.mpd": '<?xml version="1.0"?><MPD><BaseURL>http://{web}/</BaseURL></MPD>',
    "list.txt": "rtsp://{inside}/x\n",
}
NAMES = {
    "inside.test": [["127.0.0.2"]],
    "both.test": [["127.0.0.1", "127.0.0.2"]],
    "mapped.test": [["::ffff:127.0.0.2"]],
    "translated.test": [["64:ff9b::127.0.0.2"]],
    "metadata.test": [["169.254.169.254"]],
    "unknown.test": [None],
}
_slots = count()


def refusing(challenge):
    return lambda method, request: f"401 Unauthorized\r\n{challenge}\r\n"


def redirecting(at, status, location, challenge):
    """A camera that wants the password first, and then sends whoever has it elsewhere."""
    usual = showing("video", "H264/90000")

    def answer(method, request):
        if method != "OPTIONS" and b"Authorization:" not in request:
            return f"401 Unauthorized\r\n{challenge}\r\n"
        if method == at:
            return f"{status} Elsewhere\r\nLocation: {location}\r\n\r\n"
        return usual(method, request)

    return answer


def pointing(location, challenge):
    """A camera whose description names another host for its tracks."""
    usual = showing("video", "H264/90000")

    def answer(method, request):
        if b"Authorization:" not in request:
            return f"401 Unauthorized\r\n{challenge}\r\n"
        elsewhere = usual(method, request).replace("a=control:track", f"a=control:{location}")
        return elsewhere.replace("200 OK\r\n", f"200 OK\r\nContent-Base: {location}\r\n")

    return answer


class Targets:
    """Where nobody may come: of hosts that are forbidden, and of a port that nobody asked for."""

    def __init__(self):
        self.inside = Scripted(refusing(BASIC), "127.0.0.2")
        self.inside6 = Scripted(refusing(DIGEST), "::1" if has_ipv6() else "127.0.0.2")
        self.web = Scripted(refusing(DIGEST))
        self.all = (self.inside, self.inside6, self.web)

    @property
    def places(self):
        return {
            "inside": f"127.0.0.2:{self.inside.port}",
            "inside6": f"[::1]:{self.inside6.port}",
            "web": f"127.0.0.1:{self.web.port}",
        }

    @property
    def ports(self):
        return {"inside": self.inside.port, "inside6": self.inside6.port, "web": self.web.port}

    @property
    def hits(self):
        return sum(each.hits for each in self.all)

    @property
    def passwords(self):
        """Of proofs by Digest, the header is all that could be recognised."""
        forms = [CANARY, quote(CANARY, safe=""), b64encode(f"viewer:{CANARY}".encode()).decode()]
        known = [*(form.encode() for form in forms), b"Authorization"]
        return sum(each.heard.count(form) for each in self.all for form in known)


def has_ipv6():
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


@pytest.fixture(scope="module")
def targets():
    try:
        targets = Targets()
    except OSError:
        pytest.skip("needs 127.0.0.2, which Linux has")
    yield targets
    for each in targets.all:
        each.close()


@pytest.fixture(scope="module")
def cameras(targets):
    """Those at an allowed address that lead elsewhere; by what they do."""
    made = {}
    for name, place in targets.places.items():
        url = f"rtsp://{place}/x"
        for number, status in enumerate((301, 302, 303, 305, 307)):
            challenge = (BASIC, DIGEST)[number % 2]
            made[f"{status} to {name}"] = redirecting("DESCRIBE", status, url, challenge)
        for at in ("OPTIONS", "SETUP", "PLAY"):
            made[f"302 of {at} to {name}"] = redirecting(at, 302, url, BASIC)
        made[f"tracks of {name}"] = pointing(url, BASIC)
    made["302 to http"] = redirecting("DESCRIBE", 302, f"http://{targets.places['web']}/", DIGEST)
    made["302 to TLS"] = redirecting("DESCRIBE", 302, f"rtsps://{targets.places['web']}/", BASIC)
    served = {name: Scripted(answer) for name, answer in made.items()}
    yield served
    for each in served.values():
        each.close()


@pytest.fixture(scope="module")
def moving(targets):
    """A camera at the allowed address with the port of the forbidden target; it hangs up."""
    camera = Scripted(lambda method, request: "", port=targets.inside.port)
    yield camera
    camera.close()


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    file = tmp_path_factory.mktemp("names") / "names.json"
    file.write_text(json.dumps(NAMES | {"moving.test": [["127.0.0.1"], ["127.0.0.2"]]}))
    return Names(file)


@pytest.fixture(scope="module")
def media(tmp_path_factory, targets):
    folder = tmp_path_factory.mktemp("files") / "media"
    folder.mkdir()
    (folder.parent / "secret.mp4").write_text(CANARY)
    (folder / "link.mp4").symlink_to(folder.parent / "secret.mp4")
    for name, text in PLAYLISTS.items():
        (folder / name).write_text(text.format(**targets.places))
    return folder


@pytest.fixture(scope="module")
def urls(targets, cameras, moving, media):
    urls = {url: url.format(**targets.ports) for url in FORBIDDEN}
    urls |= {name: f"rtsp://127.0.0.1:{camera.port}/x" for name, camera in cameras.items()}
    urls |= {name: f"file:{name}" for name in PLAYLISTS}
    urls |= {name: f"rtsp://{name}:{targets.inside.port}/x" for name in NAMES}
    return urls | {"moving.test": f"rtsp://moving.test:{moving.port}/x", "link": "file:link.mp4"}


@pytest.fixture(scope="module")
def streams(topics, urls):
    """All of them, forged, by what their row is called."""

    def forge(name, url):
        slot = next(_slots)
        stream_id = f"S{slot:03}"
        seal = sealed(stream_id, url, CANARY)
        plain = {"generation": 1, "running": True, "name": name[:100], "url": url}
        return StreamSpec(stream_id=stream_id, slot=slot % 4, sealed_credentials=seal, **plain)

    return {name: topics.want(forge(name, url)) for name, url in urls.items()}


@pytest.fixture(scope="module")
def ingestor(start_ingestor, streams, names, media):
    return start_ingestor(
        ["tests.ingestor.rigged", "names", str(names.file)],
        INGESTOR_MEDIA_PATH=str(media),
        INGESTOR_RETRY_BASE_S=NEVER_S,
        INGESTOR_RETRY_CAP_S=NEVER_S,
        SIGHTLOG_SOURCE_NETWORKS_ALLOWED="127.0.0.1/32",
    ).wait_ready()


@pytest.fixture(scope="module")
def said(ingestor, topics, streams):
    """The first complaint about each; what it takes for all of them to be tried."""

    def complaints():
        found = {
            name: next((each for each in topics.statuses(spec.stream_id) if each.reason), None)
            for name, spec in streams.items()
        }
        return found if all(found.values()) else None

    return eventually(complaints, 120)


def expected(name):
    if name in PLAYLISTS:
        return Reason.NO_VIDEO
    if name in {"unknown.test", "moving.test"}:
        return Reason.UNREACHABLE
    return Reason.SOURCE_FORBIDDEN


def test_each_is_refused_for_what_it_is(said):
    asked = {name: expected(name) for name in said if not name.startswith("tracks")}
    assert {name: said[name].reason for name in asked} == asked
    assert all(each.message and each.hint for each in said.values())
    assert not any(CANARY in repr(each) for each in said.values())


def test_a_name_that_changes_its_answer_is_judged_by_each_answer(said, topics, streams, names):
    assert said["moving.test"].reason is Reason.UNREACHABLE  # it hung up, where it may be
    topics.want(replace(streams["moving.test"], generation=2))
    stream_id = streams["moving.test"].stream_id
    topics.wait_status(stream_id, Status.ERROR, Reason.SOURCE_FORBIDDEN)
    asked = names.asked.read_text().split()
    assert asked.count("moving.test") == 2  # once for each attempt
    assert {asked.count(name) for name in NAMES} == {1}


def test_nobody_came_to_any_of_them_and_no_password_did(said, targets, cameras, moving):
    print(f"rows: {len(said)}, hits: {targets.hits}, passwords: {targets.passwords}")
    assert (targets.hits, targets.passwords) == (0, 0)
    assert all(camera.hits == 1 for camera in cameras.values())
    told = [camera for name, camera in cameras.items() if "OPTIONS" not in name]
    assert all(b"Authorization" in camera.heard for camera in told)  # who asks for it is told
    assert moving.hits == 1
