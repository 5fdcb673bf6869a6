"""FFmpeg's way to one camera: it dials us, and we have dialled the address that was checked.

FFmpeg alone looks the name up once more (the answer may be another by then), follows an RTSP
redirect to any host and tells that host the camera's password, and checks no certificate. Behind
the relay it knows no address but ours, is given one connection, and that one is cut at a redirect.
"""

import re
import selectors
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from schemas.messages import Reason

DIAL_S = 8.0  # for all addresses of a name together
TALK_S = 10.0  # to hand over what was read
AT_ONCE = 1 << 16  # bytes

# All that FFmpeg takes for the status line of a redirect, and more: it drops each CR, splits at
# blanks and reads the number with atoi. Looked for in media too, so that nothing depends on where
# a message ends; by chance media look so once in 10^17 bytes. It never goes back over what it has
# seen, whatever a camera sends.
REDIRECT = re.compile(rb"RTSP/(?:(?!RTSP/)[^ \t\n])*+[ \t]++\+?0*+3\d\d")
LONGEST_LINE = 4096  # bytes that FFmpeg keeps of a line


class NotReached(Exception):
    """No connection to the camera."""

    def __init__(self, reason: Reason, detail: str | None = None) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class Place:
    """Where to dial. `addresses` are those that were checked, not the name."""

    addresses: Sequence[str]
    port: int
    tls_name: str | None = None  # whom the certificate must name; None: no TLS
    verifies: bool = True


@contextmanager
def relay(place: Place) -> Iterator["Relay"]:
    """Connected to the camera when it begins. Raises NotReached."""
    relayed = Relay(dial(place))
    try:
        yield relayed
    finally:
        relayed.close()


def dial(place: Place) -> socket.socket:
    """The first address that answers. Raises NotReached."""
    until_s = time.monotonic() + DIAL_S
    failure = NotReached(Reason.UNREACHABLE)
    for left, address in zip(range(len(place.addresses), 0, -1), place.addresses, strict=True):
        try:
            plain = _connected(address, place.port, (until_s - time.monotonic()) / left)
            return plain if place.tls_name is None else _secured(plain, place)
        except NotReached as error:
            failure = error
    raise failure


def _connected(address: str, port: int, timeout_s: float) -> socket.socket:
    try:
        camera = socket.create_connection((address, port), max(timeout_s, 0.1))
    except TimeoutError:
        raise NotReached(Reason.TIMEOUT) from None
    except ConnectionRefusedError:
        raise NotReached(Reason.UNREACHABLE, "connection refused") from None
    except OSError as error:
        raise NotReached(Reason.UNREACHABLE, error.strerror) from None
    camera.settimeout(TALK_S)
    camera.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return camera


def _secured(plain: socket.socket, place: Place) -> socket.socket:
    context = ssl.create_default_context()
    if not place.verifies:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        return context.wrap_socket(plain, server_hostname=place.tls_name)
    except ssl.SSLCertVerificationError as error:
        plain.close()
        raise NotReached(Reason.TLS, error.verify_message) from None
    except TimeoutError:  # a camera that speaks none waits for the end of a line
        plain.close()
        raise NotReached(Reason.TLS, "no answer to the handshake") from None
    except OSError as error:  # ssl.SSLError among them: no TLS is spoken there
        plain.close()
        raise NotReached(Reason.TLS, getattr(error, "reason", None) or error.strerror) from None


class Relay:
    """Carries bytes between one client and the camera, in a thread of its own."""

    def __init__(self, camera: socket.socket) -> None:
        self.was_redirected = False
        self.was_hung_up = False  # by the camera, in the middle of the talk
        self._is_taking_leave = False
        self._camera = camera
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1)
        self._listener.settimeout(TALK_S)
        self.port = int(self._listener.getsockname()[1])
        self._seen = b""
        threading.Thread(target=self._run, name="relay", daemon=True).start()

    def close(self) -> None:
        """The thread may still be writing: it ends at the next byte, or with its time-out."""
        for side in (self._camera, self._listener):
            with suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)

    def _run(self) -> None:
        with self._camera, suppress(OSError):
            with self._listener:
                client, _ = self._listener.accept()
            with client:
                client.settimeout(TALK_S)
                self._carry(client)

    def _carry(self, client: socket.socket) -> None:
        """Until one side is done, or the camera speaks of another place."""
        with selectors.DefaultSelector() as readable:
            readable.register(client, selectors.EVENT_READ)
            readable.register(self._camera, selectors.EVENT_READ)
            while True:
                for key, _ in readable.select():
                    carry = self._up if key.fileobj is client else self._down
                    if not carry(client):
                        return

    def _up(self, client: socket.socket) -> bool:
        said = client.recv(AT_ONCE)
        self._is_taking_leave = not said or said.startswith(b"TEARDOWN")
        self._camera.sendall(said)
        return bool(said)

    def _down(self, client: socket.socket) -> bool:
        """What TLS has decrypted already makes no socket readable: it is taken at once."""
        while True:
            said = self._heard()
            if said is None:
                return True
            self.was_hung_up = not said and not self._is_taking_leave
            if self._leads_away(said):
                self.was_redirected = True
                return False
            client.sendall(said)
            if not (said and isinstance(self._camera, ssl.SSLSocket) and self._camera.pending()):
                return bool(said)

    def _heard(self) -> bytes | None:
        """None where what came is no word yet: a part of a TLS record, or TLS's own, as the tickets
        after its handshake. Who waited for more would keep the client's first word back."""
        self._camera.settimeout(0)
        try:
            return self._camera.recv(AT_ONCE)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError, BlockingIOError):
            return None
        except OSError:  # a reset; TLS that ended without its own goodbye
            return b""
        finally:
            self._camera.settimeout(TALK_S)

    def _leads_away(self, said: bytes) -> bool:
        text = self._seen + said.replace(b"\r", b"")
        self._seen = text[-LONGEST_LINE:]
        return REDIRECT.search(text) is not None
