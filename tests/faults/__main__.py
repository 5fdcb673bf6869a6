"""python -m tests.faults --seed N --minutes M [--only 1,3] [--stack DIR] [--cameras 10]

Faults by a schedule that the seed decides, done to a stack under load; then the checker's verdict.
`--only`: faults of these rows of the reliability table alone. Without `--stack` it starts one of
its own.

The first line on stdout is `seed=N`, the schedule follows, and the last is the verdict as JSON.
Exit status 0: it passes, 1: it does not, 2: usage, or no stack to do it to.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NoReturn

import psycopg
from confluent_kafka import KafkaException

from deploy.local.child import Warden
from deploy.local.place import NoStack
from schemas.messages import now
from tests.faults.aftermath import settled
from tests.faults.books import Verdict
from tests.faults.check import check, summary
from tests.faults.evidence import Place
from tests.faults.gather import NotReadable
from tests.faults.pulse import Pulse
from tests.faults.retention import keep_frames
from tests.faults.schedule import ROWS, Planned, plan
from tests.faults.site import Site
from tests.faults.suite import Done, Suite, tell
from tests.stack import RunningStack, StackFailed

GRACE_S = 60.0
LOADED_S = 60.0
FPS = "2"
CAMERA_FPS = "5"
REPLICAS = ("ingestor=2", "detector=2", "persister=2", "gateway=2")
SETTINGS = ("GATEWAY_AUTH=off", "INGESTOR_RETRY_CAP_S=10")
MOST_SHOWN = 100  # violations, for a person
MOST_MINUTES = 24 * 60
POLL_S = 0.25


def main() -> None:
    arguments = parser().parse_args()
    try:
        schedule = plan(arguments.seed, arguments.minutes, arguments.only)
    except ValueError as error:
        usage(str(error))
    print(f"seed={arguments.seed}", *schedule, sep="\n", flush=True)
    try:
        with ExitStack() as after:
            folder = arguments.stack or after.enter_context(own_stack(arguments.cameras))
            done, verdict = run(Site(folder), schedule)
    except (NoStack, StackFailed, OSError, NotReadable, KafkaException, psycopg.Error) as error:
        usage(f"seed={arguments.seed}: {error}")
    if arguments.stack is None and verdict.passes:
        shutil.rmtree(folder.parent)
    for violation in verdict.violations[:MOST_SHOWN]:
        tell(f"seed={arguments.seed}: {violation.kind}: {violation.what} {shown(violation.at)}")
    faults = [one.as_json() for one in done]
    print(json.dumps(summary(verdict) | {"seed": arguments.seed, "faults": faults}))
    sys.exit(0 if verdict.passes else 1)


def run(site: Site, schedule: list[Planned]) -> tuple[list[Done], Verdict]:
    """All of it, then whether everything is well again, then the books."""
    keep_frames(site.stack)
    with Pulse(site.stack) as pulse:
        streams = loaded(site, pulse)
        done = Suite(site, pulse, streams).run(schedule)
    wrong = [violation for one in done for violation in one.violations()]
    wrong += settled(site, streams)
    tell("settled; the checker reads")
    verdict = check(site.stack, grace_s=GRACE_S)
    verdict.violations[:0] = wrong
    return done, verdict


def loaded(site: Site, pulse: Pulse) -> set[str]:
    """The streams that run, once each of them has been answered and stored. Raises NotReadable."""
    began = now()
    deadline = time.monotonic() + LOADED_S
    while not (streams := under_way(site)):
        if time.monotonic() > deadline:
            raise NotReadable("no stream runs in this stack")
        time.sleep(POLL_S)
    while stalled := pulse.stalled(began, streams):
        if time.monotonic() > deadline:
            raise NotReadable(f"nothing is stored of streams {', '.join(sorted(stalled))}")
        time.sleep(POLL_S)
    tell(f"{len(streams)} streams are under way")
    return streams


def under_way(site: Site) -> set[str]:
    return {one["id"] for one in site.streams() if one["status"] in ("RUNNING", "STARTING")}


@contextmanager
def own_stack(cameras: int) -> Iterator[Path]:
    """Its folder; it is for the caller to remove, or to look at."""
    folder = Path(tempfile.mkdtemp(prefix="sightlog-faults-")) / "data"
    with Warden() as warden:
        tell(f"a stack of {cameras} cameras starts in {folder}")
        running = RunningStack(folder, options(cameras), warden)
        try:
            yield running.folder
        finally:
            running.stop()


def options(cameras: int) -> list[str]:
    words = ["--cameras", str(cameras), "--camera-fps", CAMERA_FPS, "--auto-create", "--fps", FPS]
    words += [word for replicas in REPLICAS for word in ("--scale", replicas)]
    return words + [word for setting in SETTINGS for word in ("--env", setting)]


def shown(at: tuple[Place, ...]) -> str:
    return " ".join(map(str, at))


def parser() -> argparse.ArgumentParser:
    added = argparse.ArgumentParser(
        prog="python -m tests.faults",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = added.add_argument
    add("--seed", type=int, required=True, metavar="N")
    add("--minutes", type=minutes, required=True, metavar="M")
    add("--only", type=rows, default=ROWS, metavar="ROW,ROW", help=f"of {sorted(ROWS)}")
    add("--stack", type=Path, metavar="DIR", help="a stack that runs; else its own")
    add("--cameras", type=int, default=10, metavar="N", help="of its own stack")
    return added


def minutes(text: str) -> float:
    number = float(text)
    if not 0 < number <= MOST_MINUTES:
        raise argparse.ArgumentTypeError(f"expected minutes, up to {MOST_MINUTES}")
    return number


def rows(text: str) -> frozenset[int]:
    return frozenset(int(row) for row in text.split(","))


def usage(problem: str) -> NoReturn:
    sys.stderr.write(f"{problem}\n")
    raise SystemExit(2)


if __name__ == "__main__":
    main()
