"""A simulated camera process, and an RTSP client that shows what is on the wire."""

import json
import re
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from deploy.local.camera_list import Camera, write_cameras

Found = TypeVar("Found")

MEDIA = Path(__file__).parents[2] / "deploy" / "local" / "media"
WALK = str(MEDIA / "vtest_12s.mp4")
BIKES = str(MEDIA / "bikes.mp4")


class CameraProcess:
    """Its log lines arrive in `log` as it writes them."""

    def __init__(self, folder: Path, cameras: Sequence[Camera], *options: str):
        self.file = folder / "cameras.json"
        self.show(*cameras)
        command = [sys.executable, "-m", "deploy.local.camera", "--port", "0", *options]
        self.process = subprocess.Popen(
            [*command, "--cameras", str(self.file)], stderr=subprocess.PIPE, text=True
        )
        self.log: list[dict[str, Any]] = []
        self._reading = threading.Thread(target=self._read_log)
        self._reading.start()
        self.port = int(self.logged("server.started")["port"])

    def show(self, *cameras: Camera) -> None:
        write_cameras(self.file, cameras)

    def url(self, name: str, userinfo: str = "") -> str:
        return f"rtsp://{userinfo}127.0.0.1:{self.port}/{name}"

    def logged(self, event: str, **facts: object) -> dict[str, Any]:
        """The first log line of that event with these facts, waited for."""
        wanted = {"event": event, **facts}.items()
        return awaited(lambda: next((e for e in self.log if wanted <= e.items()), None))

    def stop(self) -> int:
        self.process.terminate()
        status = self.process.wait(5)
        self._reading.join()
        return status

    def _read_log(self) -> None:
        assert self.process.stderr
        with self.process.stderr as lines:
            self.log.extend(map(json.loads, lines))


@contextmanager
def running(folder: Path, *cameras: Camera, options: Sequence[str] = ()) -> Iterator[CameraProcess]:
    process = CameraProcess(folder, cameras, *options)
    try:
        yield process
    finally:
        if process.process.returncode is None:
            process.stop()


class Client:
    """One connection. Interleaved packets that come before a reply are kept."""

    def __init__(self, port: int, receive_buffer: int | None = None):
        self.socket = socket.socket()
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(5)
        self.socket.connect(("127.0.0.1", port))
        self.stream = self.socket.makefile("rb")
        self.base = f"rtsp://127.0.0.1:{port}"
        self.sequence = 0

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.stream.close()
        self.socket.close()

    def send(self, method: str, path: str, **headers: str) -> None:
        self.sequence += 1
        url = path if path == "*" else f"{self.base}/{path}"
        fields = {"CSeq": str(self.sequence), **headers}
        lines = [f"{method} {url} RTSP/1.0", *(f"{k}: {v}" for k, v in fields.items())]
        self.socket.sendall("\r\n".join([*lines, "\r\n"]).encode())

    def ask(self, method: str, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
        self.send(method, path, **headers)
        return self.reply()

    def reply(self) -> tuple[int, dict[str, str], bytes]:
        while (first := self.stream.read(1)) == b"$":
            header = self.stream.read(3)
            self.stream.read(int.from_bytes(header[1:], "big"))
        status = int((first + self.stream.readline()).split()[1])
        headers: dict[str, str] = {}
        while (line := self.stream.readline()) != b"\r\n":
            name, _, value = line.decode().partition(":")
            headers[name] = ", ".join(filter(None, (headers.get(name), value.strip())))
        return status, headers, self.stream.read(int(headers.get("Content-Length", 0)))

    def play(self, name: str, **headers: str) -> None:
        tcp = "RTP/AVP/TCP;unicast;interleaved=0-1"
        assert self.ask("SETUP", f"{name}/trackID=0", Transport=tcp, **headers)[0] == 200
        assert self.ask("PLAY", name, **headers)[0] == 200

    def packet(self) -> tuple[int, bytes]:
        """The next interleaved packet and its channel. Raises TimeoutError when none comes."""
        header = self.stream.read(4)
        if len(header) < 4:
            raise EOFError
        assert header[:1] == b"$"
        return header[1], self.stream.read(int.from_bytes(header[2:], "big"))

    def media(self) -> Iterator[bytes]:
        """RTP packets only, for ever."""
        while True:
            channel, packet = self.packet()
            if channel == 0:
                yield packet


def wall_clock(report: bytes) -> float:
    """The Unix time in an RTCP sender report."""
    kind, seconds, fraction = struct.unpack_from(">xB6xII", report)
    assert kind == 200
    return float(seconds - 2_208_988_800 + fraction / 2**32)


def challenge_nonce(headers: dict[str, str]) -> str:
    match = re.search('nonce="([^"]+)"', headers["WWW-Authenticate"])
    assert match
    return match[1]


def awaited(look: Callable[[], Found | None], timeout_s: float = 10) -> Found:
    deadline = time.monotonic() + timeout_s
    while (found := look()) is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found
