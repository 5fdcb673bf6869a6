"""Kafka, Postgres or the folder of pictures away under load: what goes on, and what comes back."""

import json
import re
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from deploy.local.streams import exchange
from schemas.messages import now, snapshot_key, wire_time
from schemas.topics import DETECTIONS, SNAPSHOTS, DecodeError
from tests.pipeline.outages import (
    Answers,
    Asking,
    Outage,
    drain,
    full,
    killed,
    listening,
    silent,
    unmount,
    unwritable,
    whole_pictures,
)
from tests.pipeline.seen import (
    Backlog,
    Logs,
    Reader,
    await_running,
    balance,
    headers_of,
    reading,
    runs,
    streams_of,
)
from tests.stack import RunningStack, eventually

SHORT_S, LONG_S = 4.0, 60.0
AGAIN_BAR_S = 15.0  # until detections go on; fails at four times of it
ANSWER_BAR_S = 1.0  # for a 503; fails at eight times of it: machines pause for seconds
DRAIN_BAR = 3.0  # times the live rate; fails at a quarter of it
MOST_LINES_PER_S = 8.0  # of a service, of all kinds; of each kind one

soak = (pytest.mark.soak, pytest.mark.timeout(600))


@pytest.fixture(scope="module")
def stack_options() -> list[str]:
    """Of the long forms: as much as two cores bear."""
    return ["--cameras", "6", "--auto-create", "--fps", "3", "--env", "GATEWAY_AUTH=off"]


@pytest.fixture(params=[SHORT_S, pytest.param(LONG_S, marks=soak)], ids=["short", "long"])
def endured(request: pytest.FixtureRequest) -> tuple[RunningStack, float]:
    """A stack whose streams all run, and how long something is to be away from it."""
    long = request.param == LONG_S
    stack: RunningStack = request.getfixturevalue("stack" if long else "battered")
    await_running(stack, 60)
    assert eventually(lambda: newest_row(stack) > "", 60)
    return stack, request.param


def newest_row(stack: RunningStack) -> str:
    """When the newest detection was captured; such times sort as text."""
    status, answer, _ = exchange(stack.described(), "GET", "/detections?limit=1", None)
    rows = json.loads(answer) if status == 200 else []
    return str(rows[0]["timestamp"]) if rows else ""


def goes_on_after(stack: RunningStack, begun: float, since: str) -> float:
    """Seconds until a detection that was captured since is in the tables."""
    assert eventually(lambda: newest_row(stack) > since, 4 * AGAIN_BAR_S)
    return time.monotonic() - begun


@contextmanager
def quiet_logs(stack: RunningStack) -> Iterator[None]:
    """Of what is no regular work there are few lines."""
    logs, begun = Logs(stack), time.monotonic()
    yield
    seconds = time.monotonic() - begun
    complaints = {
        name: [what for line in lines if (what := complaint(line))]
        for name, lines in logs.lines().items()
    }
    rates = {name: len(said) / seconds for name, said in complaints.items()}
    print("complaints a second:", {name: round(rate, 2) for name, rate in rates.items()})
    assert max(rates.values()) <= MOST_LINES_PER_S, rates
    for name, said in complaints.items():
        often = {line: times for line, times in Counter(said).items() if times > seconds + 2}
        assert not often, f"{name} in {seconds:.0f} s: {often}"


def complaint(line: str) -> str | None:
    """What a line says, numbers aside; None: that all is well."""
    try:
        said = json.loads(line)
    except ValueError:
        return line
    return None if said["level"] == "info" else re.sub(r"\d+", "0", str(said["event"]))[:120]


def test_the_broker_away(endured: tuple[RunningStack, float]) -> None:
    stack, seconds = endured
    before = runs(stack)
    with quiet_logs(stack):
        with killed(stack, "kafka"):
            time.sleep(seconds)  # the length of the outage
        begun, since = time.monotonic(), wire_time(now())
        took = goes_on_after(stack, begun, since)
    print(f"detections go on {took:.1f} s after the broker is back (bar {AGAIN_BAR_S} s)")
    await_running(stack, 60)
    assert runs(stack) == before, "nobody had to be started again"
    balance(stack)


@pytest.mark.parametrize("how", [killed, silent])
def test_postgres_away(endured: tuple[RunningStack, float], how: Outage) -> None:
    stack, seconds = endured
    before, base = runs(stack), stack["gatewayUrl"]
    routes = ("/streams", "/detections", f"/streams/{streams_of(stack)[0]['id']}")
    with reading(stack, "persister") as reader, quiet_logs(stack):
        backlog = Backlog(reader, DETECTIONS)
        published, begun = backlog.published(), time.monotonic()
        with listening(stack["wsUrl"]) as heard, how(stack, "postgres"):
            asking = [Asking(base + route) for route in routes]
            time.sleep(seconds)  # the length of the outage
            told = [each.end() for each in asking]
            events = heard.count("detection")
            stored, ended = backlog.stored(), time.monotonic()
        live = (backlog.published() - published) / (time.monotonic() - begun)
        waited = backlog.waiting()
        took, rate = drain(backlog, stored, ended)
    print(
        f"{waited} records drained in {took:.1f} s: {rate:.0f}/s,"
        f" {rate / live:.1f} times the live {live:.1f}/s (bar {DRAIN_BAR})"
    )
    refused_in_time(dict(zip(routes, told, strict=True)))
    assert events > 0, "the live view needs no Postgres"
    assert rate > (DRAIN_BAR if seconds == LONG_S else 1) * live
    assert runs(stack) == before
    await_running(stack, 30)
    balance(stack)


def refused_in_time(told: dict[str, Answers]) -> None:
    for route, answers in told.items():
        slowest = max(answers.seconds)
        print(f"{route}: {answers.statuses.count(503)} times 503, at most after {slowest:.2f} s")
        refusals = list(zip(answers.statuses, answers.retry_after, strict=True))
        assert {status for status, _ in refusals} <= {200, 503}
        assert (503, None) not in refusals
        assert 503 in answers.statuses
        assert slowest < 8 * ANSWER_BAR_S


def test_the_folder_of_pictures_away(endured: tuple[RunningStack, float]) -> None:
    stack, seconds = endured
    pictures_wait(stack, seconds, unwritable(stack))


def test_the_disk_of_pictures_full(endured: tuple[RunningStack, float]) -> None:
    stack, seconds = endured
    try:
        pictures_wait(stack, seconds, full(stack))
    except PermissionError:
        pytest.skip("needs the right to mount")
    finally:
        unmount(Path(stack["storagePath"]))


def pictures_wait(
    stack: RunningStack, seconds: float, outage: AbstractContextManager[None]
) -> None:
    """Rows flow meanwhile; afterwards every picture is there, whole."""
    before = runs(stack)
    with reading(stack, "persister") as reader, quiet_logs(stack):
        with outage:
            begins = reader.ends(SNAPSHOTS)
            since = wire_time(now())
            time.sleep(seconds)  # the length of the outage
            assert eventually(lambda: newest_row(stack) > since, AGAIN_BAR_S), "rows flow"
            waiting = Backlog(reader, SNAPSHOTS).waiting()
            assert waiting > 0
        begun = time.monotonic()
        assert eventually(lambda: not missing(stack, reader, begins), 4 * AGAIN_BAR_S)
    took = time.monotonic() - begun
    print(f"{waiting} pictures waited, and are there after {took:.1f} s (bar {AGAIN_BAR_S} s)")
    assert runs(stack) == before
    whole_pictures(stack)
    balance(stack)


def missing(stack: RunningStack, reader: Reader, begins: dict[int, int]) -> list[str]:
    """Pictures of records that have no file with these very bytes."""
    gone = []
    for message in reader.read(SNAPSHOTS, begins):
        try:
            snapshot = SNAPSHOTS.decode(message.value(), headers_of(message))
        except DecodeError:
            continue
        key = snapshot_key(snapshot.stream_id, snapshot.path.rpartition("/")[2])
        file = Path(stack["storagePath"]) / key
        if not file.is_file() or file.read_bytes() != snapshot.jpeg:
            gone.append(key)
    return gone
