"""A camera to which no connection lasts, and what an ingestor holds meanwhile."""

import os
import select
import socket
import struct
import threading
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from itertools import cycle
from statistics import linear_regression

import psutil

from tests.ports import free_port

MOST_BYTES = 40_000  # of one connection: some pictures of a small clip
SHUT_S = 0.3
AT_ONCE = 1 << 16
LINGER_NOT = struct.pack("ii", 1, 0)
USUAL_TURNS = ("end", "reset", "garbage", "end", "refuse", "reset")


class Flapping:
    """Each connection takes its turn: `end` and `reset` come after some pictures, `garbage` at
    once, and at `refuse` the port is shut for a while."""

    def __init__(self, camera_port: int, turns: Iterable[str] = USUAL_TURNS) -> None:
        self._camera_port = camera_port
        self._turns = cycle(turns)
        self.port = free_port()
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._is_closed = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="flapping", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._is_closed.set()
        self._thread.join()

    def _listen(self) -> None:
        while not self._is_closed.is_set():
            turn = next(self._turns)
            if turn == "refuse":
                self._listener.close()
                self._is_closed.wait(SHUT_S)
                self._listener = socket.create_server(("127.0.0.1", self.port))
            else:
                self._await_reader(turn)
        self._listener.close()

    def _await_reader(self, turn: str) -> None:
        self._listener.settimeout(0.2)
        while not self._is_closed.is_set():
            with suppress(TimeoutError):
                reader, _ = self._listener.accept()
                with reader, suppress(OSError):
                    self._serve(reader, turn)
                return

    def _serve(self, reader: socket.socket, turn: str) -> None:
        if turn == "garbage":
            reader.sendall(os.urandom(4096))
            return
        with socket.create_connection(("127.0.0.1", self._camera_port)) as camera:
            _relay(reader, camera, MOST_BYTES)
        if turn == "reset":
            reader.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NOT)


def _relay(reader: socket.socket, camera: socket.socket, most_bytes: int) -> None:
    """In one thread: a socket that another still reads from is not closed by its closing."""
    passed = 0
    while passed < most_bytes:
        for source in select.select([reader, camera], [], [])[0]:
            data = source.recv(AT_ONCE)
            if not data:
                return
            (reader if source is camera else camera).sendall(data)
            passed += len(data)


@dataclass(frozen=True)
class Held:
    """By an ingestor and its fork server, after so many reconnects."""

    reconnects: int
    memory_kib: float
    descriptors: int
    threads: int
    children: int


class Household:
    """An ingestor and what it has started, cameras apart."""

    def __init__(self, pid: int) -> None:
        ingestor = psutil.Process(pid)
        self._kept = [ingestor, *ingestor.children()]  # the fork server and a tracker of its own
        self._ingestor = ingestor
        self._seen: list[Held] = []

    def look(self, reconnects: int) -> None:
        family = self._ingestor.children(recursive=True)
        self._seen.append(
            Held(
                reconnects=reconnects,
                memory_kib=sum(each.memory_info().rss for each in self._kept) / 1024,
                descriptors=sum(each.num_fds() for each in self._kept),
                threads=sum(each.num_threads() for each in self._kept),
                children=len(family) - len(self._kept) + 1,
            )
        )

    def least(self, run: int) -> list[Held]:
        """Of each run of so many reconnects: what was held when the camera was away."""
        runs: dict[int, list[Held]] = {}
        for held in self._seen:
            runs.setdefault(held.reconnects // run, []).append(held)
        return [
            Held(*(min(getattr(held, name) for held in run) for name in Held.__dataclass_fields__))
            for run in runs.values()
        ]


def slope(held: list[Held], name: str) -> float:
    """Per reconnect."""
    return linear_regression(
        [each.reconnects for each in held], [getattr(each, name) for each in held]
    ).slope
