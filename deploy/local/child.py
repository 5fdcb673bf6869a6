"""Child processes that never outlive the one that started them, not even its kill -9."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Self

HERE = Path(__file__).parent
BARE_PYTHON = (sys.executable, "-I", "-S")
LAST_BYTES = 16_384


@dataclass(frozen=True)
class Command:
    """What to run and how it wants to be stopped."""

    argv: Sequence[str]
    environment: Mapping[str, str]
    folder: Path
    log: Path
    stop_signal: signal.Signals = signal.SIGTERM
    death_signal: signal.Signals = signal.SIGKILL
    user: str | None = None


class Warden:
    """The one process that ends all children when this process dies; see `warden.py`.

    It holds the file `keep_open` open until it ends: a lock can say that children may live.
    """

    def __init__(self, keep_open: int | None = None) -> None:
        self._keep_open = () if keep_open is None else (keep_open,)
        self._lock = threading.Lock()
        self._noted: dict[int, int] = {}
        self._open()

    def _open(self) -> None:
        reading, self._note_fd = os.pipe()
        self._process = subprocess.Popen(
            [*BARE_PYTHON, str(HERE / "warden.py")],
            stdin=reading,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            pass_fds=self._keep_open,
            start_new_session=True,
        )
        os.close(reading)

    def ensure(self) -> None:
        """Start it again, with all notes, if somebody ended it."""
        with self._lock:
            if self._process.poll() is None:
                return
            os.close(self._note_fd)
            self._open()
            for pid, number in self._noted.items():
                os.write(self._note_fd, f"+{pid} {number}\n".encode())

    def spawn(self, command: Command, log: IO[bytes]) -> "subprocess.Popen[bytes]":
        """The command, started through `launch.py`, which notes itself here first.

        In a group of its own, which can be ended as one, and in our session: Linux (autogroup)
        gives each session the same share of the processor, an ingestor with all its cameras as
        much as a gateway.
        """
        launcher = [*BARE_PYTHON, str(HERE / "launch.py")]
        with self._lock:
            arguments = [str(self._note_fd), str(int(command.death_signal)), command.user or "-"]
            process = subprocess.Popen(
                [*launcher, *arguments, "--", *command.argv],
                env=dict(command.environment),
                cwd=command.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[self._note_fd],
                process_group=0,
            )
            self._noted[process.pid] = command.death_signal
        return process

    def forget(self, pid: int) -> None:
        """Must be told of each reaped child: its number may soon be another process's."""
        with self._lock:
            noted = self._noted.pop(pid, None)
            if noted is None:
                return
            with suppress(BrokenPipeError):  # it was killed: `ensure` will tell its successor
                os.write(self._note_fd, f"-{pid}\n".encode())

    def close(self) -> None:
        """Ends whatever still runs."""
        with self._lock:
            self._noted.clear()
            os.close(self._note_fd)
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class Child:
    """A running command, leader of a process group of its own."""

    def __init__(self, command: Command, warden: Warden) -> None:
        self.command = command
        self._warden = warden
        self._clearing = threading.Lock()
        self._cleared = False
        with command.log.open("ab") as log:
            self._log_start = log.seek(0, os.SEEK_END)
            self._process = warden.spawn(command, log)

    @property
    def pid(self) -> int:
        return self._process.pid

    def poll(self) -> int | None:
        """Its exit status, or None while it runs; negative: the signal that ended it."""
        return self._process.poll()

    def wait(self, timeout_s: float | None = None) -> int | None:
        """Its exit status once it ended and its group is empty, or None after the timeout."""
        try:
            status = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None
        self._clear_group()
        return status

    def ask_to_stop(self) -> None:
        if self.poll() is None:
            self._process.send_signal(self.command.stop_signal)

    def stop(self, grace_s: float = 10.0) -> int:
        """Ask, wait, then kill the whole group; returns the exit status."""
        self.ask_to_stop()
        if self.wait(grace_s) is None:
            self.kill()
        status = self.wait()
        assert status is not None  # noqa: S101 - there was no timeout
        return status

    def kill(self) -> None:
        """SIGKILL to everything in its process group; the caller still has to `wait`."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    def last_words(self, count: int = 15) -> str:
        """The last lines that this very process, and no earlier one, has logged."""
        with self.command.log.open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            said = size - self._log_start if size >= self._log_start else size  # it was rotated
            log.seek(size - min(said, LAST_BYTES))
            text = log.read().decode(errors="replace")
        return "\n".join(text.splitlines()[-count:])

    def _clear_group(self) -> None:
        """End what the child left behind in its group, and free its number."""
        with self._clearing:
            if not self._cleared:
                self.kill()
                self._warden.forget(self.pid)
            self._cleared = True
