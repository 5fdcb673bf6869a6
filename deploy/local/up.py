"""Runs a stack until it is told to stop, in this process or in one of its own."""

import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import IO

from deploy.local.camera import Camera
from deploy.local.cameras import put_cameras
from deploy.local.child import Warden
from deploy.local.fetch import FetchFailed, cache_folder, fetch_jars, read_lock
from deploy.local.parts import PartFailed
from deploy.local.place import AlreadyRunning, Described, Place
from deploy.local.plan import Wish
from deploy.local.ports import PortTaken
from deploy.local.postgres import programs
from deploy.local.report import explain, report
from deploy.local.stack import Interrupted, NotReady, SettingRefused, Stack
from deploy.local.streams import StreamsRefused, create_streams

POLL_S = 0.1
READY = "READY "


class Exit(IntEnum):
    """As fixed in INTERFACES.md."""

    OK = 0
    UNHEALTHY = 1
    USAGE = 2
    FETCH_FAILED = 3
    NOT_READY = 4
    NO_STACK = 5
    INTERRUPTED = 130


MEANING: dict[type[Exception], Exit] = {
    AlreadyRunning: Exit.USAGE,
    PortTaken: Exit.USAGE,
    SettingRefused: Exit.USAGE,
    FetchFailed: Exit.FETCH_FAILED,
    NotReady: Exit.NOT_READY,
    Interrupted: Exit.INTERRUPTED,
    PartFailed: Exit.UNHEALTHY,
    StreamsRefused: Exit.UNHEALTHY,
}
END: dict[type[Exception], tuple[str, str]] = {
    AlreadyRunning: ("start", "refused"),  # nothing of it has stopped
    Interrupted: ("stop", "interrupted"),
}


@dataclass(frozen=True)
class Start:
    """What `up` was asked for."""

    place: Place
    wish: Wish
    scale: dict[str, int] = field(default_factory=dict)
    cameras: Sequence[Camera] = ()
    auto_create: bool = False
    fps: float | None = None


def up(start: Start) -> Exit:
    """Run the stack in this process until SIGINT or SIGTERM."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # as long as nothing is started, just end
    start.place.make_folders()
    try:
        with start.place.owned() as lock, Warden(keep_open=lock) as warden:
            return run(start, warden)
    except tuple(MEANING) as error:
        stage, state = END.get(type(error), ("stop", "failed"))
        report(stage, state=state)
        explain(str(error))
        return MEANING[type(error)]


def run(start: Start, warden: Warden) -> Exit:
    jars = fetch_jars(read_lock(), cache_folder(), report=tell_fetch)
    report("fetch", state="done")
    programs()  # a machine without any Postgres is told so at once
    start.place.want_only(start.scale)
    if start.cameras:
        put_cameras(start.place.cameras_file, list(start.cameras))
    stack = Stack(start.place, start.wish, warden)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stack.interrupt())
    try:
        stack.start(jars)
        described = stack.open()
        if start.auto_create:
            create(described, start.fps)
        announce(described, start.place)
        stack.tend()
    finally:
        stack.stop()
    for problem in stack.unclean:
        explain(problem)
    return Exit.UNHEALTHY if stack.unclean else Exit.OK


def tell_fetch(state: str) -> None:
    report("fetch", "kafka", state=state)


def create(described: Described, fps: float | None) -> None:
    for name in create_streams(described, fps):
        report("start", "streams", state="created", name=repr(name))


def announce(described: Described, place: Place) -> None:
    """The last line on stdout until the end; before it, what a person wants to know."""
    explain(f"Open the address below. Logs: {place.logs}. Ctrl-C ends all of it.")
    report("ready", state="done")
    kafka = f"kafka://{described['kafkaBootstrapServers']}"
    print(READY + (described["gatewayUrl"] or kafka), flush=True)


def up_detached(place: Place, arguments: Sequence[str]) -> Exit:
    """The same in a process of its own: show its progress until it is ready or has ended."""
    place.make_folders()
    log = place.log("supervisor")
    with log.open("ab") as file, log.open("rb") as reading:
        reading.seek(0, 2)
        process = subprocess.Popen(
            [sys.executable, "-m", "deploy.local", "up", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
        return follow(process, reading)


def follow(process: "subprocess.Popen[bytes]", reading: IO[bytes]) -> Exit:
    """Show what it says until it is ready or has ended. Ctrl-C ends it, too."""
    try:
        while process.poll() is None:
            if any([relay(line) for line in reading]):
                process.returncode = 0  # it lives on: nothing here waits for it
                return Exit.OK
            time.sleep(POLL_S)
    except KeyboardInterrupt:
        process.terminate()
        process.wait()
    for line in reading:
        relay(line)
    return Exit(process.returncode) if process.returncode in list(Exit) else Exit.UNHEALTHY


def relay(line: bytes) -> bool:
    """Show a line of the detached process; whether it says that all is ready."""
    text = line.decode(errors="replace").rstrip("\n")
    is_ready = text.startswith(READY)
    print(text, file=sys.stdout if is_ready else sys.stderr, flush=True)
    return is_ready
