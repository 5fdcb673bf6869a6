"""An RTSP server by a script: it counts who comes, keeps what they say, and answers as told."""

import re
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import count

CSEQ = re.compile(rb"(?im)^CSeq: *(\d+)")

PACKETS_A_SECOND = 20
KIND = 96  # of RTP payload

Answer = Callable[[str, bytes], str]
"""From a request's method and its whole text: the status line behind the version, and headers;
nothing: it hangs up."""


class Scripted:
    def __init__(
        self, answer: Answer, host: str = "127.0.0.1", port: int = 0, payload: bytes = b""
    ) -> None:
        """`payload`: what RTP packets carry after PLAY, each the same."""
        self.hits = 0
        self.heard = b""
        self._answer = answer
        self._payload = payload
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, port), family=family)
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while True:
            try:
                guest, _ = self._listener.accept()
            except OSError:
                return
            self.hits += 1
            threading.Thread(target=self._converse, args=(guest,), daemon=True).start()

    def _converse(self, guest: socket.socket) -> None:
        pending = b""
        with guest, suppress(OSError):
            while said := _received(guest):
                self.heard += said
                *requests, pending = (pending + said).split(b"\r\n\r\n")
                for request in requests:
                    reply = self._reply(request)
                    guest.sendall(reply)
                    if not reply:
                        return
                    if request.startswith(b"PLAY"):
                        threading.Thread(target=self._play, args=(guest,), daemon=True).start()

    def _play(self, guest: socket.socket) -> None:
        """Until it is left."""
        with suppress(OSError):
            for number in count():
                head = struct.pack("!BBHII", 0x80, 0x80 | KIND, number & 0xFFFF, number * 160, 1)
                packet = head + self._payload
                guest.sendall(struct.pack("!cBH", b"$", 0, len(packet)) + packet)
                time.sleep(1 / PACKETS_A_SECOND)

    def _reply(self, request: bytes) -> bytes:
        answer = self._answer(request.partition(b" ")[0].decode(errors="replace"), request)
        if not answer:
            return b""
        number = CSEQ.search(request)
        status, *rest = answer.split("\r\n", 1)
        sequence = number[1].decode() if number else "0"
        return "\r\n".join([f"RTSP/1.0 {status}", f"CSeq: {sequence}", *rest]).encode()

    def close(self) -> None:
        self._listener.close()


def _received(guest: socket.socket) -> bytes:
    try:
        return guest.recv(4096)
    except OSError:
        return b""


def showing(media: str, encoding: str) -> Answer:
    """A camera that has one track, as `video` and `VP8/90000`."""
    lines = ["v=0", "o=- 0 0 IN IP4 127.0.0.1", "s=x", "c=IN IP4 0.0.0.0", "t=0 0"]
    lines += [f"m={media} 0 RTP/AVP {KIND}", f"a=rtpmap:{KIND} {encoding}", "a=control:track", ""]
    description = "\r\n".join(lines)
    answers = {
        "OPTIONS": "Public: OPTIONS, DESCRIBE, SETUP, PLAY\r\n\r\n",
        "DESCRIBE": "Content-Type: application/sdp\r\n"
        f"Content-Length: {len(description)}\r\n\r\n{description}",
        "SETUP": "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 1\r\n\r\n",
    }
    return lambda method, _: "200 OK\r\n" + answers.get(method, "Session: 1\r\n\r\n")
