"""The pipeline, top to bottom, and what happens when a step fails.

Three lanes, each a thread and a member of the group: detections, observations, snapshots. Where
what a lane writes to is away, that lane alone pauses; it stays in the group and tries again.
Statuses don't wait for a backlog of detections, and each topic's partitions are spread over all
persisters (the group's assignor spreads a member's whole subscription, whichever topics it is of).
"""

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any, TypeVar

import structlog
from obstore.store import ObjectStore
from sqlalchemy import Connection, Engine

from schemas.messages import DetectionRecord, Event, Heartbeat, Instance, StreamStatus
from schemas.topics import (
    DETECTIONS,
    EVENTS,
    HEARTBEATS,
    INSTANCES,
    SNAPSHOTS,
    STREAM_STATUS,
    Origin,
    Topic,
)
from services.persister import metrics
from services.persister.arrival import Arrival, Refusal
from services.persister.bury import Graveyard, LettersAway
from services.persister.checkpoint import PRUNED_AT_ONCE, prune, store_checkpoints
from services.persister.consume import Subscription
from services.persister.database import (
    DatabaseAway,
    RowRefused,
    answers,
    lock,
    purged,
    transaction,
)
from services.persister.decode import decode
from services.persister.judge import Judgement, block_of, judge
from services.persister.keep import StoreAway, keep, key_of
from services.persister.observe import store_heartbeats, store_statuses, stream_of
from services.persister.partition import make_days
from services.persister.sink import read_blocks, write_blocks, write_rows
from services.persister.tally import Tally
from services.process.crash import crash_point

log = structlog.get_logger()

ANSWERS: tuple[Topic[Any], ...] = (DETECTIONS,)
OBSERVATIONS: tuple[Topic[Any], ...] = (STREAM_STATUS, HEARTBEATS, EVENTS, INSTANCES)
"""Events and instances are read only so that what is none gets its dead letter."""
PICTURES: tuple[Topic[Any], ...] = (SNAPSHOTS,)

_NOT_STORED = (Event, Instance)

FIRST_RETRY_S, LONGEST_RETRY_S = 0.2, 1.0
PARTITIONS_RETRY_S = 60.0
PRUNE_EVERY_S = 3600.0
END_S = 6.0  # for the lanes to finish after a stop; a batch or a commit that hangs is left

AWAY = (DatabaseAway, StoreAway, LettersAway)

Done = TypeVar("Done")
Store = Callable[[Sequence[Arrival]], list[Refusal]]
"""Stores all but those it returns; raises DatabaseAway or StoreAway."""


class Stopping(Exception):
    """The process ends while something is away: the batch stays in Kafka."""


@dataclass(frozen=True)
class Lane:
    """Some topics, and where their messages go."""

    name: str
    topics: Mapping[str, Topic[Any]]  # by full name
    subscription: Subscription
    store: Store
    tally: Tally = field(default_factory=Tally)


def run(lanes: Sequence[Lane], graveyard: Graveyard, stop: threading.Event) -> None:
    """Until the stop; a lane that fails ends the other and raises here."""
    failures: list[BaseException] = []

    def follow(lane: Lane) -> None:
        try:
            persist(lane, graveyard, stop)
        except BaseException as error:  # noqa: BLE001 -- handed to the main thread, which raises it
            failures.append(error)
            stop.set()

    threads = [
        threading.Thread(target=follow, args=(lane,), name=lane.name, daemon=True) for lane in lanes
    ]
    for thread in threads:
        thread.start()
    stop.wait()
    deadline = time.monotonic() + END_S
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    if failures:
        raise failures[0]
    log.info(
        "persister.stopped", unfinished=[thread.name for thread in threads if thread.is_alive()]
    )


def readiness(lanes: Sequence[Lane], engine: Engine) -> tuple[bool, dict[str, Any]]:
    assigned = {lane.name: lane.subscription.is_assigned() for lane in lanes}
    postgres = answers(engine)
    return postgres and all(assigned.values()), {"assigned": assigned, "postgres": postgres}


def persist(lane: Lane, graveyard: Graveyard, stop: threading.Event) -> None:
    try:
        while not stop.is_set():
            if batch := lane.subscription.batch():
                _settle(lane, batch, graveyard, stop)
            lane.tally.report(lane.name)
    except Stopping:
        log.info("batch.left", lane=lane.name)
    finally:
        lane.tally.report(lane.name, at_once=True)
        lane.subscription.close()


def _settle(
    lane: Lane, batch: Sequence[Origin], graveyard: Graveyard, stop: threading.Event
) -> None:
    """Stored or set aside, then committed, in this order."""
    begin = time.monotonic()
    arrivals, refusals = decode(batch, lane.topics)
    refusals += _until_done(lane, lambda: lane.store(arrivals), stop)
    if refusals:
        _tell_of(refusals)
        left = deque(refusals)
        _until_done(lane, lambda: graveyard.bury(left), stop)
    if any(lane.topics[origin.topic] is DETECTIONS for origin in batch):
        crash_point("sink.before_offsets_commit")
    lane.subscription.commit(batch)
    metrics.messages.labels(lane.name).inc(len(batch))
    metrics.batch_seconds.labels(lane.name).observe(time.monotonic() - begin)
    lane.tally.add(len(batch), len(refusals))


def _tell_of(refusals: Sequence[Refusal]) -> None:
    for refusal in refusals:
        metrics.dead_letters.labels(refusal.reason).inc()
        log.warning(
            "message.refused",
            reason=refusal.reason,
            topic=refusal.origin.topic,
            partition=refusal.origin.partition,
            offset=refusal.origin.offset,
        )


def _until_done(lane: Lane, attempt: Callable[[], Done], stop: threading.Event) -> Done:
    """Pauses the lane where what it needs is away. Raises Stopping."""
    try:
        return attempt()
    except AWAY as away:
        log.warning("lane.paused", lane=lane.name, error=str(away))
    lane.subscription.pause()
    metrics.paused.labels(lane.name).set(1)
    try:
        return _retry(lane, attempt, stop)
    finally:
        metrics.paused.labels(lane.name).set(0)
        lane.subscription.resume()
        log.info("lane.resumed", lane=lane.name)


def _retry(lane: Lane, attempt: Callable[[], Done], stop: threading.Event) -> Done:
    delay = FIRST_RETRY_S
    while True:
        lane.subscription.wait(delay * random.uniform(0.5, 1), stop)
        if stop.is_set():
            raise Stopping
        try:
            return attempt()
        except AWAY:
            delay = min(2 * delay, LONGEST_RETRY_S)


class Rows:
    """The store of a lane that writes to Postgres."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._days_made: date | None = None  # as seen on that day
        self._make_days_from = 0.0
        self._prune_from = 0.0

    def store(self, arrivals: Sequence[Arrival]) -> list[Refusal]:
        if any(isinstance(one.message, DetectionRecord) for one in arrivals):
            self._make_days()
        if any(isinstance(one.message, Heartbeat) for one in arrivals):
            self._prune()
        return self._store([one for one in arrivals if not isinstance(one.message, _NOT_STORED)])

    def _store(self, arrivals: Sequence[Arrival]) -> list[Refusal]:
        """In one transaction; if Postgres refuses that, half by half, down to the poison."""
        if not arrivals:
            return []
        try:
            self._store_together(arrivals)
        except RowRefused as error:
            if len(arrivals) == 1:
                return [Refusal(arrivals[0].origin, "ROW_REFUSED", str(error))]
            middle = len(arrivals) // 2
            return self._store(arrivals[:middle]) + self._store(arrivals[middle:])
        return []

    def _store_together(self, arrivals: Sequence[Arrival]) -> None:
        with transaction(self._engine) as connection:
            lock(connection, {(one.origin.topic, one.origin.partition) for one in arrivals})
            kept = without(arrivals, purged(connection, map(stream_of, arrivals)))
            records = live_records(kept)
            judgement, rows = _store_records(connection, records)
            store_statuses(connection, [one for one in kept if is_status(one)])
            heartbeats = [one.message for one in kept if isinstance(one.message, Heartbeat)]
            store_heartbeats(connection, heartbeats)
            store_checkpoints(connection, heartbeats)
            if records:
                crash_point("sink.before_rows_commit")
        _count(judgement, rows)
        metrics.skipped.labels("purged").inc(len(arrivals) - len(kept))

    def _make_days(self) -> None:
        """Without them rows go to the default partition, so that a failure can wait."""
        today = datetime.now(UTC).date()
        if self._days_made == today or time.monotonic() < self._make_days_from:
            return
        try:
            with transaction(self._engine) as connection:
                made = make_days(connection, today)
        except (DatabaseAway, RowRefused) as error:
            self._make_days_from = time.monotonic() + PARTITIONS_RETRY_S
            log.warning("partitions.not_made", error=str(error))
            return
        self._days_made = today
        log.info("partitions.made", names=made)

    def _prune(self) -> None:
        """A portion at a time; where that fails, later."""
        if time.monotonic() < self._prune_from:
            return
        self._prune_from = time.monotonic() + PRUNE_EVERY_S
        try:
            with transaction(self._engine) as connection:
                pruned = prune(connection, datetime.now(UTC))
        except (DatabaseAway, RowRefused) as error:
            log.warning("checkpoints.not_pruned", error=str(error))
            return
        if pruned == PRUNED_AT_ONCE:
            self._prune_from = 0.0


def _store_records(
    connection: Connection, records: Sequence[DetectionRecord]
) -> tuple[Judgement, int]:
    if not records:
        return Judgement(), 0
    blocks = read_blocks(connection, map(block_of, records))
    judgement = judge(records, blocks)
    write_blocks(connection, judgement.blocks)
    return judgement, write_rows(connection, judgement.answered)


def live_records(arrivals: Sequence[Arrival]) -> list[DetectionRecord]:
    """Those of the live model; a replay's or a shadow model's answer nothing about a frame."""
    records = [one.message for one in arrivals if isinstance(one.message, DetectionRecord)]
    live = [record for record in records if record.result_set is None]
    metrics.skipped.labels("result_set").inc(len(records) - len(live))
    return live


def without(arrivals: Iterable[Arrival], gone: Collection[str]) -> list[Arrival]:
    """A tombstone of a stream that is gone stays: it takes away."""
    return [one for one in arrivals if one.message is None or stream_of(one) not in gone]


def is_status(arrival: Arrival) -> bool:
    return arrival.message is None or isinstance(arrival.message, StreamStatus)


def _count(judgement: Judgement, rows: int) -> None:
    metrics.rows.inc(rows)
    metrics.repeats.inc(judgement.repeats)
    for outcome, number in judgement.outcomes.items():
        metrics.outcomes.labels(outcome).inc(number)


class Pictures:
    """The store of the lane that writes to the object store, opened when first needed."""

    def __init__(self, open_store: Callable[[], ObjectStore], engine: Engine) -> None:
        self._open_store = open_store
        self._engine = engine
        self._opened: ObjectStore | None = None

    def store(self, arrivals: Sequence[Arrival]) -> list[Refusal]:
        if self._opened is None:
            self._opened = self._open_store()
        kept = without(arrivals, self._purged(arrivals))
        new, refusals = keep(self._opened, kept)
        metrics.snapshots.inc(new)
        metrics.skipped.labels("purged").inc(len(arrivals) - len(kept))
        return refusals

    def _purged(self, arrivals: Sequence[Arrival]) -> set[str]:
        """Asks only for names that can be one."""
        named = {one.message.stream_id for one in arrivals if key_of(one.message) is not None}
        if not named:
            return set()
        with transaction(self._engine) as connection:
            return purged(connection, named)
