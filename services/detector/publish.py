"""Messages -> the broker, each with the moment at which it is safe there."""

import asyncio
import threading
from collections import deque
from collections.abc import Mapping
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from schemas.topics import Headers

QUEUE_FULL_WAIT_S = 0.05

SURELY_TAKEN = 64 * 1024
"""Bytes of a message, or of several sent as one, that no broker of ours refuses. What is larger
goes by itself, and may be refused."""


class TooLarge(Exception):
    """Neither we nor the broker take a message of that size."""


class Undeliverable(Exception):
    """The broker refuses it for good; nothing that is not in it may be accounted for."""


class Publisher:
    """An idempotent producer whose acknowledgements can be awaited, in order per partition.

    Made in the event loop that awaits them. A thread serves the producer's callbacks.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._producer = Producer({"batch.size": SURELY_TAKEN} | dict(config))
        self._told: deque[tuple[asyncio.Future[None], KafkaError | None]] = deque()
        self._waking = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="publish", daemon=True)
        self._thread.start()

    async def send(
        self, topic: str, key: bytes | None, value: bytes, headers: Headers
    ) -> asyncio.Future[None]:
        """Returns once the message has its place in the order; the future is its acknowledgement.

        Raises TooLarge at once, or the future does; the future raises Undeliverable. Waits while
        the queue is full.
        """
        loop = asyncio.get_running_loop()
        safe: asyncio.Future[None] = loop.create_future()

        def tell(error: KafkaError | None, _: Message) -> None:
            """In the thread that polls; the loop is woken once for all that were told meanwhile."""
            self._told.append((safe, error))
            if not self._waking:
                self._waking = True
                loop.call_soon_threadsafe(self._settle)

        while True:
            try:
                self._producer.produce(
                    topic, value=value, key=key, headers=list(headers), on_delivery=tell
                )
            except BufferError:
                await asyncio.sleep(QUEUE_FULL_WAIT_S)
            except KafkaException as error:
                raise _refusal(error.args[0]) from error
            else:
                return safe

    def close(self) -> None:
        """What is not acknowledged by now is given up: it was not accounted for."""
        self._ended.set()
        self._thread.join(2)
        self._producer.purge()

    def _serve(self) -> None:
        while not self._ended.is_set():
            self._producer.poll(0.2)

    def _settle(self) -> None:
        self._waking = False  # before the reading: what is told from here on wakes us again
        while self._told:
            safe, error = self._told.popleft()
            if safe.done():  # who waited for it was cancelled
                continue
            if error is None:
                safe.set_result(None)
            else:
                safe.set_exception(_refusal(error))


def _refusal(error: KafkaError) -> TooLarge | Undeliverable:
    is_too_large = error.code() == KafkaError.MSG_SIZE_TOO_LARGE
    return TooLarge(str(error)) if is_too_large else Undeliverable(str(error))
