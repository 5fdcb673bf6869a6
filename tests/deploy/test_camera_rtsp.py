"""The RTSP conversation and the packets, as they are on the wire."""

import asyncio
import base64
import hashlib
import struct
import time
from itertools import islice, takewhile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import override

from deploy.local import rtsp_playback
from deploy.local.camera_list import Camera
from deploy.local.rtsp import offered_channels
from deploy.local.rtsp_auth import digest_ha1
from deploy.local.rtsp_media import read_clip, retimed
from deploy.local.rtsp_payload import CODECS, nal_units
from deploy.local.rtsp_playback import BACKLOG_LIMIT_BYTES, Playback
from tests.deploy.camera_process import BIKES, WALK, Client, challenge_nonce, running, wall_clock

TCP = "RTP/AVP/TCP;unicast;interleaved=4-5"


@pytest.fixture(scope="module")
def port(tmp_path_factory):
    locked = Camera("locked", WALK, username="anna", ha1=digest_ha1("anna", "secret"))
    folder = tmp_path_factory.mktemp("rtsp")
    with running(folder, Camera("open", WALK), locked) as process:
        yield process.port


@pytest.fixture
def client(port):
    with Client(port) as client:
        yield client


def md5(text):
    return hashlib.md5(text.encode()).hexdigest()


def test_a_whole_conversation(client):
    status, headers, _ = client.ask("OPTIONS", "*")
    assert (status, headers["CSeq"]) == (200, "1")
    assert {"DESCRIBE", "SETUP", "PLAY", "PAUSE", "TEARDOWN"} <= set(headers["Public"].split(", "))
    status, headers, body = client.ask("DESCRIBE", "open", Accept="application/sdp")
    assert (status, headers["Content-Type"]) == (200, "application/sdp")
    assert headers["Content-Base"] == f"{client.base}/open/"
    assert b"packetization-mode=1; profile-level-id=64001f; sprop-parameter-sets=Z2QAH" in body
    assert b"a=framerate:10\r\n" in body
    status, headers, _ = client.ask("SETUP", "open/trackID=0", Transport=TCP)
    assert (status, headers["Transport"]) == (200, TCP)
    session, timeout = headers["Session"].split(";")
    assert timeout == "timeout=60"
    assert client.ask("GET_PARAMETER", "open", Session=session)[0] == 200
    status, headers, _ = client.ask("PLAY", "open", Session=session)
    info = dict(pair.split("=") for pair in headers["RTP-Info"].split(";")[1:])
    assert status == 200
    channel, report = client.packet()
    assert (channel, report[1]) == (5, 200)
    channel, packet = client.packet()
    assert channel == 4
    assert struct.unpack_from(">HI", packet, 2) == (int(info["seq"]), int(info["rtptime"]))
    assert client.ask("TEARDOWN", "open", Session=session)[0] == 200
    assert client.stream.read() == b""


def test_the_first_report_is_there_before_the_first_picture_and_tells_the_time(client):
    before = time.time()
    client.play("open")
    channel, report = client.packet()
    assert channel == 1
    assert before - 0.1 < wall_clock(report) < time.time() + 0.1


def test_a_pause_is_silent_and_time_goes_on_after_it(client):
    client.play("open")
    before, began = next(client.media()), time.monotonic()
    assert client.ask("PAUSE", "open")[0] == 200
    assert client.ask("PLAY", "open")[0] == 200
    after, seconds = next(client.media()), time.monotonic() - began
    sooner, later = (struct.unpack_from(">I", packet, 4)[0] for packet in (before, after))
    assert before[8:12] == after[8:12]
    assert (later - sooner) % 2**32 < (seconds + 1) * 90_000


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("DESCRIBE", "nobody", {}, 404),
        ("DESCRIBE", "%6Fpen?x=1", {}, 200),
        ("DESCRIBE", "../open", {}, 404),
        ("SETUP", "open/trackID=0", {"Transport": "RTP/AVP;unicast;client_port=5000-5001"}, 461),
        ("SETUP", "open/trackID=1", {"Transport": TCP}, 404),
        ("SETUP", "open", {}, 461),
        ("PLAY", "open", {}, 455),
        ("PLAY", "open", {"Session": "of-another"}, 454),
        ("RECORD", "open", {}, 501),
        ("DESCRIBE", "locked", {}, 401),
        ("DESCRIBE", "locked", {"Authorization": "Basic !"}, 401),
        ("DESCRIBE", "locked", {"Authorization": "Digest username=anna, response=é"}, 401),
        ("DESCRIBE", "locked", {"Authorization": "Bearer x"}, 401),
    ],
)
def test_what_can_not_be_done_is_answered_so(client, method, path, headers, status):
    assert client.ask(method, path, **headers)[0] == status


def test_both_ways_of_proving_the_password_are_offered(client):
    offered = client.ask("DESCRIBE", "locked")[1]["WWW-Authenticate"]
    assert offered.startswith("Digest ")
    assert 'Basic realm="sightlog"' in offered


@pytest.mark.parametrize("qop", [False, True])
def test_digest_is_understood_with_and_without_quality_of_protection(client, qop):
    nonce = challenge_nonce(client.ask("DESCRIBE", "locked")[1])
    url = f"{client.base}/locked"
    extra = 'nc=00000001, cnonce="abc", qop=auth' if qop else ""
    middle = f"{nonce}:00000001:abc:auth" if qop else nonce
    proof = md5(f"{md5('anna:sightlog:secret')}:{middle}:{md5(f'DESCRIBE:{url}')}")
    fields = f'username="anna", realm="sightlog", nonce="{nonce}", uri="{url}", {extra}'
    digest = f'Digest {fields}, response="{proof}"'
    assert client.ask("DESCRIBE", "locked", Authorization=digest)[0] == 200
    assert client.ask("SETUP", "locked", Authorization=digest, Transport=TCP)[0] == 401


def test_a_proof_is_good_for_one_connection_only(client, port):
    nonce = challenge_nonce(client.ask("DESCRIBE", "locked")[1])
    proof = md5(f"{md5('anna:sightlog:secret')}:{nonce}:{md5('DESCRIBE:x')}")
    digest = f'Digest username="anna", nonce="{nonce}", uri="x", response="{proof}"'
    assert client.ask("DESCRIBE", "locked", Authorization=digest)[0] == 200
    with Client(port) as other:
        assert other.ask("DESCRIBE", "locked", Authorization=digest)[0] == 401


def test_a_password_is_asked_for_at_every_step(client):
    basic = f"Basic {base64.b64encode(b'anna:secret').decode()}"
    assert client.ask("SETUP", "locked", Transport=TCP, Authorization=basic)[0] == 200
    assert client.ask("PLAY", "locked")[0] == 401
    assert client.ask("PLAY", "locked", Authorization=basic)[0] == 200


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"DESCRIBE rtsp://[ RTSP/1.0\r\nCSeq: 1\r\n\r\n",
        b"DESCRIBE x RTSP/1.0\r\nCSeq: 1\r\nContent-Length: -1\r\n\r\n",
        b"DESCRIBE x RTSP/1.0\r\nCSeq: 1\r\nContent-Length: 99999\r\n\r\n",
        b"x" * 200_000,
    ],
)
def test_what_is_not_rtsp_ends_the_connection(client, garbage):
    client.socket.sendall(garbage)
    try:
        assert client.stream.read().startswith(b"RTSP/1.0 400 Bad Request\r\n")
    except ConnectionResetError:
        assert len(garbage) > 65_536  # what was not read any more


@pytest.mark.parametrize(
    ("transport", "channels"),
    [
        ("RTP/AVP/TCP;unicast;interleaved=0-1", (0, 1)),
        ("RTP/AVP;unicast;client_port=1-2, RTP/AVP/TCP; interleaved=6-7", (6, 7)),
        ("RTP/AVP/TCP;unicast", (0, 1)),
        ("RTP/AVP/TCP;interleaved=255-256", None),
        ("RTP/AVP/TCP;interleaved=a-b", None),
        ("", None),
    ],
)
def test_the_first_offer_of_tcp_is_taken(transport, channels):
    assert offered_channels(transport) == channels


def joined(payloads, header_bytes):
    """The NAL unit that fragments were made of."""
    first = payloads[0]
    if header_bytes == 1:
        head = bytes((first[0] & 0xE0 | first[1] & 0x1F,))
    else:
        head = bytes((first[0] & 0x81 | (first[2] & 0x3F) << 1, first[1]))
    return head + b"".join(payload[header_bytes + 1 :] for payload in payloads)


@given(st.binary(min_size=3, max_size=5_000), st.sampled_from([("h264", 1), ("hevc", 2)]))
def test_fragments_make_up_the_unit_they_were_cut_from(unit, codec):
    name, header_bytes = codec
    payloads = list(CODECS[name].payloads(unit))
    assert all(len(payload) <= 1_400 for payload in payloads)
    if len(payloads) == 1:
        assert payloads == [unit]
        return
    edges = [payload[header_bytes] & 0xC0 for payload in payloads]
    assert edges == [0x80, *[0] * (len(payloads) - 2), 0x40]
    assert joined(payloads, header_bytes) == unit


def test_start_codes_of_both_lengths_and_padding_are_cut_off():
    assert nal_units(b"\0\0\0\1ab\0\0\1c\0\0\0\0\1\0\0\3d") == [b"ab", b"c", b"\0\0\3d"]


@pytest.mark.parametrize("clip", [WALK, BIKES])
def test_no_picture_is_sent_before_it_was_taken(clip):
    own = read_clip(Path(clip))
    for timed in (own, retimed(own, 7)):
        assert all(unit.captured_at <= unit.sent_at < timed.period for unit in timed.units)
        assert timed.units[0].is_key


class Transport(asyncio.WriteTransport):
    """Takes all that is written; says that `backlog` bytes wait."""

    def __init__(self):
        super().__init__()
        self.written: list[bytes] = []
        self.backlog = 0

    @override
    def write(self, data):
        self.written.append(bytes(data))

    @override
    def get_write_buffer_size(self):
        return self.backlog

    def units(self):
        """What was written of pictures, an element for each."""
        return [data for data in self.written if data[1] == 0]

    def reports(self):
        return [data[4:] for data in self.written if data[1] == 1]


async def until(condition):
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 -- the transport fake has no event to wait for
            await asyncio.sleep(0.002)


async def test_a_reader_that_fell_behind_goes_on_from_a_key_frame():
    transport = Transport()
    playback = Playback(retimed(read_clip(Path(WALK)), 200), transport, (0, 1))
    playback.cue()
    playback.start()
    await until(lambda: len(transport.units()) >= 3)
    transport.backlog = BACKLOG_LIMIT_BYTES + 1
    before = len(transport.units())
    await until(lambda: playback.lost >= 3)
    assert len(transport.units()) == before
    transport.backlog = 0
    await until(lambda: len(transport.units()) > before)
    playback.stop()
    assert len(transport.units()[before]) > 40_000  # only key frames are that large
    numbers = [struct.unpack_from(">H", data, 6)[0] for data in transport.units()]
    assert (numbers[before] - numbers[before - 1]) % 65536 <= 3  # a loss before, not on, the wire


async def test_reports_keep_coming_and_both_their_clocks_run_alike(monkeypatch):
    monkeypatch.setattr(rtsp_playback, "REPORT_EVERY_S", 0.1)
    transport = Transport()
    playback = Playback(retimed(read_clip(Path(WALK)), 200), transport, (0, 1))
    playback.cue()
    playback.start()
    await until(lambda: len(transport.reports()) >= 3)
    playback.stop()
    first, *_, last = transport.reports()
    sooner, later = (struct.unpack_from(">I", report, 16)[0] for report in (first, last))
    ticked_s = (later - sooner) % 2**32 / 90_000
    assert abs(wall_clock(last) - wall_clock(first) - ticked_s) < 0.2  # 4 x the bar: machines stall
    assert struct.unpack_from(">I", first, 20)[0] == 0
    assert struct.unpack_from(">I", last, 20)[0] > 0


def test_a_picture_ends_with_the_marker_bit(client):
    client.play("open")
    media = client.media()
    picture = [*takewhile(lambda packet: not packet[1] & 0x80, media)]
    following = next(islice(media, 1))
    assert len({packet[4:8] for packet in picture}) == 1
    assert following[4:8] != picture[0][4:8]
