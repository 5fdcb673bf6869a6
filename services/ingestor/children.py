"""Camera processes: started by a fork server, ended for sure."""

import ctypes
import importlib
import multiprocessing
import os
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

TERM_AFTER_S = 1.0  # after being asked to stop over the link
KILL_AFTER_S = 1.5
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
FIRST_FILE = 3  # after standard input, output and error
PR_SET_PDEATHSIG = 1  # linux/prctl.h

Target = Callable[[socket.socket], None]

_registry = threading.Lock()
"""multiprocessing keeps a list of the children and asks all of them whenever one is started: a
process that another thread closes in that moment would end the start, or be asked by a number that
is another file's by then."""


def fork_server(preload: Sequence[str]) -> ForkServerContext:
    """A server that has the preloaded modules in memory, which its children then share.

    It keeps the environment as it is now.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(preload))
    forkserver.ensure_running()
    return context


def await_ready(context: ForkServerContext, preload: Sequence[str]) -> None:
    """Until the server has loaded its modules: the first start waits for that, and whoever starts
    cameras would do nothing else meanwhile. Raises RuntimeError where one can't be loaded: the
    server itself says nothing of that, or ends over it."""
    process = context.Process(target=_load, args=(preload,), daemon=True)
    try:
        with _registry:
            process.start()
    except (EOFError, OSError) as error:
        raise RuntimeError(f"{', '.join(preload)}: a server ended over one of these") from error
    process.join()
    status = process.exitcode
    process.close()
    if status != 0:
        raise RuntimeError(f"{', '.join(preload)}: one of these can't be loaded, as said above")


def _load(modules: Sequence[str]) -> None:
    """In the child, which finds them loaded."""
    for module in modules:
        importlib.import_module(module)


class Child:
    """A process and our end of the link to it."""

    def __init__(self, process: ForkServerProcess, link: socket.socket) -> None:
        self._process = process
        self.link = link
        self.pid = process.pid or 0
        self._ending_since_s: float | None = None
        self._is_over = False
        self._status: int | None = None

    @property
    def is_ending(self) -> bool:
        return self._ending_since_s is not None

    @property
    def is_over(self) -> bool:
        """Whether it has ended; it is reaped by asking. While another thread starts a process, the
        answer is the last one: who asks has others to look after."""
        if _registry.acquire(blocking=False):
            try:
                self._reap()
            finally:
                _registry.release()
        return self._is_over

    def _reap(self) -> None:
        if not self._is_over and self._process.exitcode is not None:
            self._status = self._process.exitcode
            self._process.close()
            self._is_over = True

    @property
    def ended_by(self) -> str | None:
        """The signal that ended it; None while it lives, or where it ended by itself."""
        if self._status is None or self._status >= 0:
            return None
        return signal.Signals(-self._status).name

    def begin_ending(self) -> None:
        """It was asked, over the link, to stop: from now on patience runs out."""
        if self._ending_since_s is None:
            self._ending_since_s = time.monotonic()

    def press(self) -> None:
        """SIGTERM, then SIGKILL, once it has taken its time."""
        if self._ending_since_s is None or self.is_over:
            return
        waited_s = time.monotonic() - self._ending_since_s
        if waited_s > KILL_AFTER_S:
            self.kill()
        elif waited_s > TERM_AFTER_S:
            self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """At once: it may hang in C, where nothing gentler reaches it."""
        self.begin_ending()
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        """It may have ended since it was asked."""
        if not self.is_over:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def memory_bytes(self) -> int | None:
        """Resident, pages shared with other cameras included; None where the system can't tell."""
        try:
            return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * PAGE_BYTES
        except (OSError, IndexError, ValueError):
            return None


def start(context: ForkServerContext, target: Target, memory_bytes: int) -> Child:
    """A new process that runs `target` with its end of the link, in so much memory."""
    ours, theirs = socket.socketpair()
    with theirs, _registry:
        process = context.Process(target=_run, args=(target, theirs, memory_bytes), daemon=True)
        process.start()
    return Child(process, ours)


def _run(target: Target, link: socket.socket, memory_bytes: int) -> None:
    """In the child. The fork server, its parent, ends with the ingestor, and the kernel then kills
    the child: also one that is stopped, in which no thread can notice the end of the link.

    The fork server ends when nobody holds the other end of a pipe, which each child is handed too:
    nothing but the link is kept open.
    """
    os.closerange(FIRST_FILE, link.fileno())
    os.closerange(link.fileno() + 1, os.sysconf("SC_OPEN_MAX"))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    # What is written to, stacks included; pages shared with the fork server count, files do not.
    resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
    target(link)


def end(children: Iterable[Child]) -> None:
    """Wait for those that were asked to stop, all at once; at most for `KILL_AFTER_S` and a bit."""
    left = list(children)
    for child in left:
        child.begin_ending()
    while left := [child for child in left if not child.is_over]:
        for child in left:
            child.press()
        time.sleep(0.01)
