"""Postgres for a server that must not wait: each answer, also "it is away", within its time.

The work runs in threads of its own. Who can't have a thread and a connection is told so after a
moment; work that has begun may take as long as a statement may, while the server answers others.
"""

import asyncio
import socket
import time
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
PATIENCE_S = 0.6  # for a thread and a connection
STATEMENT_S = 5.0
SIGN_OF_LIFE_S = 0.2  # for the server's answer to nothing but that question
ASK_EVERY_S = 0.2


class DatabaseAway(Exception):
    """It did not answer in time; a write that had begun may have been done all the same."""


class Database:
    def __init__(self, database_url: str) -> None:
        self._engine = create_engine(
            engine_url(database_url),
            pool_size=4,
            max_overflow=THREADS - 4 + 1,  # the one that asks for a sign of life
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
        event.listen(self._engine, "do_connect", self._refuse_when_closed)
        event.listen(self._engine, "connect", self._note)
        event.listen(self._engine, "checkin", self._note)
        self._threads = ThreadPoolExecutor(THREADS, "database")
        self._asking = ThreadPoolExecutor(1, "database-alive")
        self._sign: Future[bool] | None = None
        self._waiting = 0
        self.answered = False  # at least once

    def _refuse_when_closed(self, *_: Any) -> None:
        """Any: SQLAlchemy's. Who was cut off by `close` would wait for a new connection."""
        if self._closed:
            raise DatabaseAway

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
            await self._wait_while_alive(task)
        if not task.done():
            raise DatabaseAway
        return task.result()

    async def _wait_while_alive(self, task: "asyncio.Future[R]") -> None:
        """A slow statement has its time; a server that hangs has not."""
        until = time.monotonic() + STATEMENT_S
        while not task.done() and time.monotonic() < until and await self._is_alive():
            await asyncio.wait({task}, timeout=ASK_EVERY_S)

    async def _is_alive(self) -> bool:
        """One question for all who wait; who asks while it is open waits for its answer."""
        if self._sign is None or self._sign.done():
            self._sign = self._asking.submit(self._answers)
        sign = asyncio.wrap_future(self._sign)
        await asyncio.wait({sign}, timeout=SIGN_OF_LIFE_S)
        return sign.done() and sign.result()

    def _answers(self) -> bool:
        try:
            with self._engine.connect() as connection:
                connection.execute(text("SELECT 1"))
        except (DBAPIError, PoolTimeout, DatabaseAway):
            return False
        return True

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
        for threads in (self._threads, self._asking):
            threads.shutdown(wait=False, cancel_futures=True)
        for connection in list(self._open):
            if not connection.closed:
                with socket.socket(fileno=socket.dup(connection.fileno())) as wire:
                    wire.shutdown(socket.SHUT_RDWR)
        self._engine.dispose()
