"""Postgres for a server that must not wait: each answer, also "it is away", within its time.

The work runs in threads of its own. Who can't have a thread and a connection is told so after a
moment; work that has begun is waited for as long as a statement may take.
"""

import asyncio
import socket
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar
from weakref import WeakSet

from sqlalchemy import Connection, create_engine, event, text
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from schemas.tables import engine_url

R = TypeVar("R")

THREADS = 16
WAITING = 128  # callers at once, those with a thread included
PATIENCE_S = 0.7  # for a thread and a connection
STATEMENT_S = 5.0


class DatabaseAway(Exception):
    """It did not answer in time; a write that had begun may have been done all the same."""


class Database:
    def __init__(self, database_url: str) -> None:
        self._engine = create_engine(
            engine_url(database_url),
            pool_size=4,
            max_overflow=THREADS - 4,
            pool_pre_ping=True,
            hide_parameters=True,  # they would stand in exceptions
            connect_args={
                "connect_timeout": 2,
                "application_name": "sightlog-gateway",
                "options": f"-c timezone=UTC -c statement_timeout={STATEMENT_S:g}s",
                "keepalives_idle": 5,
                "keepalives_interval": 2,
                "keepalives_count": 2,
                "tcp_user_timeout": 8000,
            },
        )
        self._open: WeakSet[Any] = WeakSet()  # psycopg's connections
        self._closed = False
        event.listen(self._engine, "connect", self._note)
        event.listen(self._engine, "checkin", self._note)
        self._threads = ThreadPoolExecutor(THREADS, "database")
        self._waiting = 0
        self.answered = False  # at least once

    def _note(self, connection: Any, _: Any) -> None:
        """Any: psycopg's connection, None for one that broke, and the pool's own record."""
        if connection is None:
            return
        self._open.add(connection)
        if self._closed:  # meanwhile: the pool it came from is gone
            connection.close()

    async def run(self, work: Callable[[Connection], R]) -> R:
        """Does the work in a transaction of its own. Raises DatabaseAway."""
        if self._waiting >= WAITING:
            raise DatabaseAway
        turn: Future[None] = Future()  # of "begin" and "give up" the first one counts
        task = asyncio.get_running_loop().run_in_executor(self._threads, self._work, work, turn)
        self._waiting += 1
        task.add_done_callback(self._left)
        await asyncio.wait({task}, timeout=PATIENCE_S)
        if not task.done() and not turn.cancel():
            await asyncio.wait({task}, timeout=STATEMENT_S)
        if not task.done():
            raise DatabaseAway
        return task.result()

    def _left(self, task: "asyncio.Future[R]") -> None:
        self._waiting -= 1
        if not task.cancelled() and task.exception() is None:
            self.answered = True

    def _work(self, work: Callable[[Connection], R], turn: "Future[None]") -> R:
        if turn.cancelled():
            raise DatabaseAway
        try:
            with self._engine.begin() as connection:
                if not turn.set_running_or_notify_cancel():
                    raise DatabaseAway
                return work(connection)
        except (OperationalError, InterfaceError, PoolTimeout) as error:
            raise DatabaseAway from error
        except DBAPIError as error:
            if error.connection_invalidated:
                raise DatabaseAway from error
            raise

    async def ping(self) -> bool:
        try:
            await self.run(lambda connection: connection.execute(text("SELECT 1")))
        except DatabaseAway:
            return False
        return True

    def close(self) -> None:
        """Also ends work that waits for a server which does not answer."""
        self._closed = True
        self._threads.shutdown(wait=False, cancel_futures=True)
        for connection in list(self._open):
            if not connection.closed:
                with socket.socket(fileno=socket.dup(connection.fileno())) as wire:
                    wire.shutdown(socket.SHUT_RDWR)
        self._engine.dispose()
