"""What stands between FFmpeg and a camera."""

import socket
import threading
import time
from itertools import islice

import pytest

from deploy.local.camera import Camera, digest_ha1
from schemas.messages import Reason
from services.ingestor.camera import opened
from services.ingestor.link import Order
from services.ingestor.locate import Forbidden
from services.ingestor.relay import REDIRECT, NotReached, Place, Relay, dial
from tests.certificate import write_certificate
from tests.deploy.camera_process import WALK, running
from tests.ingestor.conftest import CLIPS
from tests.ports import free_port

CANARY = "canary-7f3a"


class Target:
    """Counts who comes, and keeps what they say."""

    def __init__(self):
        self.hits = 0
        self.heard = b""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self):
        while True:
            try:
                guest, _ = self._listener.accept()
            except OSError:
                return
            self.hits += 1
            challenge = b'RTSP/1.0 401 No\r\nCSeq: 1\r\nWWW-Authenticate: Basic realm="x"\r\n\r\n'
            with guest:
                while said := guest.recv(4096):
                    self.heard += said
                    guest.sendall(challenge)

    def close(self):
        self._listener.close()


@pytest.fixture
def target():
    target = Target()
    yield target
    target.close()


def order(url, username=None, password=None):
    return Order(
        stream_id="S1",
        url=url,
        username=username,
        password=password,
        frame_width=640,
        fps=5,
        trust_source_clock=False,
        verify_tls=True,
        media_path=str(CLIPS),
        allowed=("127.0.0.0/8",),
        denied=(),
    )


def pictures(wanted, count):
    with opened(wanted) as (source, _):
        units = islice(source.units(loops=False, wait=lambda _: None), 3 * count)
        return sum(unit.picture is not None for unit in units)


def test_a_camera_with_a_password_is_read_as_if_nothing_were_between(tmp_path):
    camera = Camera("door", WALK, username="viewer", ha1=digest_ha1("viewer", "p@:/#?%ü$(x)"))
    with running(tmp_path, camera) as process:
        url = f"rtsp://127.0.0.1:{process.port}/door"
        assert pictures(order(url, "viewer", "p@:/#?%ü$(x)"), 5) >= 5


def test_nobody_goes_where_a_camera_redirects_to_and_no_password_gets_there(tmp_path, target):
    away = f"redirect=rtsp://127.0.0.1:{target.port}/x"
    with running(tmp_path, Camera("door", WALK, fault=away)) as process:
        url = f"rtsp://127.0.0.1:{process.port}/door"
        with (
            pytest.raises(Forbidden, match="redirects"),
            opened(order(url, "viewer", CANARY)),
        ):
            pytest.fail("opened")
    assert target.hits == 0
    assert CANARY.encode() not in target.heard


@pytest.mark.parametrize("status", [b"301", b"302", b"305", b"307", b"+302", b"0302", b"302x"])
@pytest.mark.parametrize("line", [b"RTSP/1.0 %s", b"RTSP/1.0\t %s Moved", b"R\rTSP/9 \r%s"])
def test_whatever_ffmpeg_takes_for_a_redirect_is_cut(line, status):
    ours, camera = socket.socketpair()
    relay = Relay(ours)
    with socket.create_connection(("127.0.0.1", relay.port)) as client, camera:
        camera.sendall(b"RTSP/1.0 200 OK\r\n\r\n")
        client.settimeout(5)
        assert client.recv(100) == b"RTSP/1.0 200 OK\r\n\r\n"
        said = line % status + b"\r\nLocation: rtsp://10.0.0.1/\r\n\r\n"
        for byte in said:
            try:
                camera.sendall(bytes([byte]))
            except OSError:
                break
        heard = b"".join(iter(lambda: client.recv(100), b""))
        assert not heard.endswith(b"\n")
        assert relay.was_redirected


def test_other_answers_and_media_are_no_redirect():
    for said in (b"RTSP/1.0 200 OK\nCSeq: 302\n", b"RTSP/1.0 404 No\n", b"RTSP/1.0 454 301\n"):
        assert not REDIRECT.search(said)


@pytest.mark.parametrize("said", [b"RTSP/", b"RTSP/ ", b"RTSP/1.0 0", b"RTSP/1.0 +0"])
def test_no_camera_can_make_the_search_long(said):
    def took(count):
        began = time.process_time()
        assert not REDIRECT.search(said * count)
        return time.process_time() - began

    took(1000)
    assert took(16_000) < 0.05 + 10 * took(4000)


def test_a_redirect_behind_a_beginning_of_one_is_found():
    assert REDIRECT.search(b"RTSP/RTSP/1.0 302")
    assert REDIRECT.search(b"RTSP/1.0 200\nRTSP/1.0  +00302")


def test_the_relay_takes_one_client_only():
    ours, camera = socket.socketpair()
    relay = Relay(ours)
    with socket.create_connection(("127.0.0.1", relay.port)) as client, camera:
        client.sendall(b"first")
        assert camera.recv(100) == b"first"
        with pytest.raises(OSError):
            socket.create_connection(("127.0.0.1", relay.port), 1)


def test_the_end_of_one_side_is_the_end_of_the_other():
    ours, camera = socket.socketpair()
    relay = Relay(ours)
    with socket.create_connection(("127.0.0.1", relay.port)) as client:
        client.settimeout(5)
        camera.close()
        assert client.recv(1) == b""


def test_a_refused_port_is_told_from_one_that_is_reached_at_the_second_address():
    with pytest.raises(NotReached) as refused:
        dial(Place(["127.0.0.1"], free_port()))
    assert (refused.value.reason, refused.value.detail) == (
        Reason.UNREACHABLE,
        "connection refused",
    )
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        dial(Place(["127.0.0.2", "127.0.0.1"], port)).close()


# TLS


@pytest.fixture
def secured(tmp_path):
    """A camera behind a certificate for 127.0.0.1."""
    pem = write_certificate(tmp_path / "camera.pem", "127.0.0.1")
    with running(tmp_path, Camera("door", WALK), options=["--certificate", str(pem)]) as process:
        yield process.port, pem


def test_a_camera_over_tls_is_read_where_its_certificate_is_trusted(secured, monkeypatch):
    port, trusted = secured
    monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
    assert pictures(order(f"rtsps://127.0.0.1:{port}/door"), 5) >= 5


def test_a_certificate_that_nobody_vouches_for_is_refused(secured):
    port, _ = secured
    with pytest.raises(NotReached, match="self-signed") as failure:
        dial(Place(["127.0.0.1"], port, "127.0.0.1"))
    assert failure.value.reason is Reason.TLS


def test_a_certificate_for_another_name_is_refused(secured, monkeypatch):
    port, trusted = secured
    monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
    with pytest.raises(NotReached) as failure:
        dial(Place(["127.0.0.1"], port, "camera.lan"))
    assert failure.value.reason is Reason.TLS


def test_who_was_told_to_may_skip_the_check(secured):
    port, _ = secured
    dial(Place(["127.0.0.1"], port, "camera.lan", verifies=False)).close()


def test_a_camera_that_speaks_no_tls_is_told_so(tmp_path):
    with running(tmp_path, Camera("door", WALK)) as process, pytest.raises(NotReached) as failure:
        dial(Place(["127.0.0.1"], process.port, "127.0.0.1"))
    assert failure.value.reason is Reason.TLS


def test_a_word_that_comes_long_after_the_handshake_is_carried_at_once(secured):
    port, _ = secured
    relay = Relay(dial(Place(["127.0.0.1"], port, "127.0.0.1", verifies=False)))
    with socket.create_connection(("127.0.0.1", relay.port)) as client:
        time.sleep(0.5)  # in which the tickets of TLS come, that nobody waits for
        client.settimeout(5)
        client.sendall(b"OPTIONS rtsp://127.0.0.1/door RTSP/1.0\r\nCSeq: 1\r\n\r\n")
        assert client.recv(100).startswith(b"RTSP/1.0 200")
