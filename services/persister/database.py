"""The way to Postgres: transactions whose failures have two names, and locks between persisters."""

import struct
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from sqlalchemy import BigInteger, Connection, Engine, bindparam, create_engine, select, text
from sqlalchemy import exc as sqlalchemy
from sqlalchemy.dialects.postgresql import ARRAY

from schemas.tables import engine_url, streams

# A batch takes tenths of a second. Whatever hangs must fail well within the ten seconds that a
# SIGTERM leaves; a silent network is noticed by the kernel.
_SESSION = "-c statement_timeout=7s -c lock_timeout=5s -c timezone=UTC"
_CONNECTION: dict[str, Any] = {
    "connect_timeout": 3,
    "application_name": "sightlog-persister",
    "options": _SESSION,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 5000,
}
_LOCK = text("SELECT pg_advisory_xact_lock(key) FROM unnest(:keys) AS key").bindparams(
    bindparam("keys", type_=ARRAY(BigInteger))
)


class DatabaseAway(Exception):
    """Postgres can't be reached, or can't write now; the same may succeed later."""


class RowRefused(Exception):
    """Postgres was reached and will never take these rows."""


_AWAY = (
    sqlalchemy.OperationalError,
    sqlalchemy.InterfaceError,
    sqlalchemy.InternalError,  # among them: read-only, after a failover
    sqlalchemy.TimeoutError,
    psycopg.OperationalError,
    psycopg.InterfaceError,
    psycopg.InternalError,
)
_REFUSED = (
    sqlalchemy.DataError,
    sqlalchemy.IntegrityError,
    psycopg.DataError,
    psycopg.IntegrityError,
    OverflowError,  # psycopg's, for a number that its column can't hold
    struct.error,
)
_PROGRAM_LIMIT_EXCEEDED = "54"  # a class of SQLSTATEs


def open_engine(database_url: str) -> Engine:
    """One connection for each lane, one for health."""
    return create_engine(
        engine_url(database_url),
        pool_size=4,
        max_overflow=0,
        pool_timeout=3,
        pool_pre_ping=True,
        hide_parameters=True,
        connect_args=_CONNECTION,
    )


@contextmanager
def transaction(engine: Engine) -> Iterator[Connection]:
    """All or nothing. Raises DatabaseAway, RowRefused."""
    try:
        with engine.begin() as connection:
            yield connection
    except _AWAY as error:
        if _exceeds_a_limit(error):
            raise RowRefused(cause(error)) from error
        raise DatabaseAway(cause(error)) from error
    except _REFUSED as error:
        if _lost_its_partition(error):
            raise DatabaseAway(cause(error)) from error
        raise RowRefused(cause(error)) from error


def lock(connection: Connection, partitions: Iterable[tuple[str, int]]) -> None:
    """Until the end of the transaction nobody else writes what these topic partitions say.

    Always taken in the same order, so that two persisters can't wait for each other.
    """
    keys = sorted(
        (zlib.crc32(topic.encode()) - (1 << 31) << 32) | partition
        for topic, partition in partitions
    )
    connection.execute(_LOCK, {"keys": keys})


def purged(connection: Connection, stream_ids: Iterable[str]) -> set[str]:
    """Those of them whose data is to be gone for good. Who stores something of one that is purged
    just then is swept up after by the gateway."""
    some = streams.c.id.in_(set(stream_ids))
    query = select(streams.c.id).where(some, streams.c.purge, streams.c.deleted_at.is_not(None))
    return set(connection.scalars(query))


def answers(engine: Engine) -> bool:
    try:
        with transaction(engine) as connection:
            connection.execute(text("SELECT 1"))
    except DatabaseAway:
        return False
    return True


def _exceeds_a_limit(error: Exception) -> bool:
    """psycopg calls it operational, but it is the row's: too long for an index, or too deep."""
    sqlstate: str | None = getattr(_original(error), "sqlstate", None)
    return sqlstate is not None and sqlstate.startswith(_PROGRAM_LIMIT_EXCEEDED)


def _lost_its_partition(error: Exception) -> bool:
    """No table has a CHECK of its own: the default partition lost a day while this row waited to
    get in, and next time the row finds the new one."""
    return isinstance(_original(error), psycopg.errors.CheckViolation)


def _original(error: Exception) -> Exception:
    return getattr(error, "orig", None) or error


def cause(error: Exception) -> str:
    """The database's first line, without the statement."""
    original = _original(error)
    return f"{type(original).__name__}: {str(original).partition(chr(10))[0]}"
