"""Makes streams.v1 agree with the streams table, whatever happened to either.

Every gateway can; an advisory lock picks one. Again and again it compares what the topic says of
each stream with its row, and says what differs. So a publish that was lost, doubled or late, a
foreign message, a rebuilt topic, a gateway killed anywhere are all healed in the same way.

The topic is read first and the rows after it: an entry whose row is not there really has none.
"""

import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import closing, contextmanager
from types import MappingProxyType

import structlog
from confluent_kafka import KafkaException
from prometheus_client import Counter, Gauge
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from schemas.messages import Down, StreamSpec
from schemas.tables import engine_url
from services.gateway.reconciler.bury import Burial
from services.gateway.reconciler.move import Moves, reached, wanted
from services.gateway.reconciler.silence import Silences
from services.gateway.reconciler.specs import Place, Specs, TopicRebuilt
from services.gateway.streams import StreamRow, everything, pass_generation
from services.gateway.tail import TailStuck
from services.process.crash import crash_point

log = structlog.get_logger()

LEADER = 0x5EC0  # the advisory lock of the one that reconciles
EVERY_S = 1.0  # also what another replica wrote is seen after so long
ELECTION_EVERY_S = 1.0
LET_GO = (  # a leader that froze, or whose machine is gone, must not keep the lock for hours
    "-c idle_session_timeout=10s -c tcp_keepalives_idle=5 -c tcp_keepalives_interval=2 "
    "-c tcp_keepalives_count=3"
)
LAST_GENERATION = 2**52  # what is beyond is near the last that can be said at all
FROM_SCRATCH_EVERY_S = 600.0  # what was read of the topic is not trusted for longer
DELIVERED_WITHIN_S = 1.0
STOP_WITHIN_S = 2.0  # of the 10 s that a process has
INTERRUPTIONS = (  # after which it begins anew
    DBAPIError,
    KafkaException,
    BufferError,  # the client's queue is full
    TailStuck,
    TopicRebuilt,
)

LEADING = Gauge("sightlog_gateway_reconciler_leading", "1 where this gateway reconciles")
SAID = Counter("sightlog_gateway_specs_published_total", "Messages that made streams.v1 agree")


Difference = tuple[Place, StreamSpec | None]


def differences(
    rows: Iterable[StreamRow],
    said: Mapping[Place, StreamSpec | None],
    left: Mapping[str, Down | None] = MappingProxyType({}),
) -> Iterator[Difference]:
    """What must be said so that each stream has its spec in its slot, and nothing anywhere else.
    `left`: of those that move, who has left its old slot, and with which event.

    A generation that no row could ever pass (it is forged) is deleted first: after that, readers
    take any.
    """
    specs = dict(wanted(row, left) for row in rows if row.deleted_at is None)
    for place, spec in specs.items():
        known = said.get(place)
        if known is not None and known.generation >= max(LAST_GENERATION, spec.generation + 1):
            yield place, None
        if known != spec:
            yield place, spec
    for place in said:
        if place not in specs:
            yield place, None


class Reconciler:
    """A thread."""

    def __init__(
        self,
        database_url: str,
        specs: Callable[[], Specs],
        burial: Burial,
        moves: Moves,
        silences: Silences,
    ) -> None:
        """`specs` reads the topic anew for each time that this gateway is elected."""
        self._engine = create_engine(
            engine_url(database_url),
            poolclass=NullPool,
            isolation_level="AUTOCOMMIT",
            hide_parameters=True,
            connect_args={
                "connect_timeout": 2,
                "application_name": "sightlog-reconciler",
                "options": "-c timezone=UTC -c statement_timeout=10s " + LET_GO,
                "tcp_user_timeout": 8000,
            },
        )
        self._specs = specs
        self._burial = burial
        self._moves = moves
        self._silences = silences
        self._astray: Set[str] = frozenset()
        self._stop = threading.Event()
        self._nudged = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reconcile", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(STOP_WITHIN_S)

    def nudge(self) -> None:
        """Something was written; from any thread."""
        self._nudged.set()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                with self._elected() as connection:
                    if connection is not None:
                        self._lead(connection)
            except INTERRUPTIONS as error:
                log.warning("reconciler.interrupted", error=type(error).__name__)
            self._stop.wait(ELECTION_EVERY_S)

    @contextmanager
    def _elected(self) -> Iterator[Connection | None]:
        """The lock lives as long as its connection, and every pass asks on that very connection:
        who lost it can publish nothing more."""
        with self._engine.connect() as connection:
            lock = text("SELECT pg_try_advisory_lock(:key)")
            if not connection.execute(lock, {"key": LEADER}).scalar_one():
                yield None
                return
            log.info("reconciler.elected")
            LEADING.set(1)
            try:
                yield connection
            finally:
                LEADING.set(0)

    def _lead(self, connection: Connection) -> None:
        until = time.monotonic() + FROM_SCRATCH_EVERY_S
        due = 0.0
        with closing(self._specs()) as specs:
            while not self._stop.is_set() and time.monotonic() < until:
                specs.read()
                if specs.current and (self._nudged.is_set() or time.monotonic() >= due):
                    self._nudged.clear()
                    more = self._agree(connection, specs)
                    due = time.monotonic() + (0 if more else EVERY_S)

    def _agree(self, connection: Connection, specs: Specs) -> bool:
        """True: there is more to do at once."""
        rows = self._overtaking(connection, everything(connection), specs)
        left = self._moves.left(rows, specs)
        found = list(differences(self._placed(rows, specs.slots), specs.said, left))
        homes = {row.id: row.slot for row in rows if row.deleted_at is None}
        for place, spec in found:
            crash_point("reconciler.before_publish")
            specs.say(place, spec, homes.get(place[1]))
        if found:
            self._await_delivery(connection, specs)
            crash_point("reconciler.after_publish")
            SAID.inc(len(found))
            log.info("specs.published", specs=len(found))
        begun = self._moves.begin(connection, rows, specs.slots)
        return self._conclude(connection, specs, rows) or begun

    def _conclude(self, connection: Connection, specs: Specs, rows: Sequence[StreamRow]) -> bool:
        """Each pass says again what was not delivered. Not while it still waits: a broker that is
        away for long would find all of it a thousand times."""
        if not specs.delivered(0):
            return False
        self._moves.end(connection, rows, specs)
        self._silences.note(connection, specs, rows)
        deleted = [row for row in rows if row.deleted_at is not None]
        return self._burial.bury(connection, specs, deleted)

    def _overtaking(
        self, connection: Connection, rows: Sequence[StreamRow], specs: Specs
    ) -> Sequence[StreamRow]:
        """Readers ignore a generation below one that they saw: where the topic is ahead of a row
        (a forged spec, a database brought back from a copy), the row goes past it."""
        passed = 0
        for row in rows:
            ahead = reached(row, specs.said)
            if row.generation < ahead < LAST_GENERATION:
                pass_generation(connection, row.id, ahead)
                log.warning("stream.overtaken", stream=row.id, generation=ahead)
                passed += 1
        return everything(connection) if passed else rows

    def _placed(self, rows: Collection[StreamRow], slots: int) -> list[StreamRow]:
        """Those whose slot there is: a topic that was rebuilt smaller has no room for the others,
        and they keep nobody else waiting."""
        astray = {row.id: row.slot for row in rows if row.slot >= slots}
        for stream_id in astray.keys() - self._astray:
            log.error("stream.astray", stream=stream_id, slot=astray[stream_id], slots=slots)
        self._astray = astray.keys()
        return [row for row in rows if row.id not in astray]

    def _await_delivery(self, connection: Connection, specs: Specs) -> None:
        """Keeps the lock meanwhile; gives up, and takes back what waits, when it is lost."""
        while not specs.delivered(DELIVERED_WITHIN_S) and not self._stop.is_set():
            log.warning("specs.undelivered")
            connection.execute(text("SELECT 1"))
