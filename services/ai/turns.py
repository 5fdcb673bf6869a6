"""Who may be seen to now: a bounded queue before a few worker threads."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class QueueFull(Exception):
    """Every place is taken; a later try may find one."""


class Turns:
    """`workers` pictures at a time, each in a thread of its own, and `queue_size` that wait.

    A place is held from before the body is read, so that bodies in memory are bounded too.
    """

    def __init__(self, workers: int, queue_size: int) -> None:
        self._free = workers + queue_size
        self._working = asyncio.Semaphore(workers)
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="detect")

    @contextmanager
    def place(self) -> Iterator[None]:
        if self._free == 0:
            raise QueueFull
        self._free -= 1
        try:
            yield
        finally:
            self._free += 1

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """First come, first served."""
        async with self._working:
            yield

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """In a worker thread; the event loop stays free."""
        call = asyncio.get_running_loop().run_in_executor
        return await call(self._threads, lambda: work(*args, **kwargs))

    def close(self) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)
