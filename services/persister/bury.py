"""What can't be stored -> dead letters."""

import time
from collections import deque

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from schemas.topics import DEAD_LETTERS, dead_letter, facts_of, origin_headers
from services.persister.arrival import Refusal
from services.process.redact import redact
from services.process.trace import child_of

FLUSH_S = ROOM_WITHIN_S = 2.0
ROOM_LOOKED_FOR_S = 0.1


class LettersAway(Exception):
    """The broker has not acknowledged all dead letters yet; it still may."""


class Graveyard:
    """Dead letters, each acknowledged before the offset of its origin is committed.

    So no refused message is without one. Its topic, partition and offset are the letter's id: one
    that dies between the acknowledgement and the commit leaves its successor to write the same
    letter again, under the same id; there is no other way to two of one message. Within a process
    none is handed over twice (see `bury`), and the producer is idempotent.
    """

    def __init__(self, producer: Producer, prefix: str, instance: str) -> None:
        self._producer = producer
        self._topic = DEAD_LETTERS.named(prefix)
        self._instance = instance
        self._failures: list[KafkaError] = []

    def bury(self, refusals: deque[Refusal]) -> None:
        """Takes them out of the queue one by one as they are handed over, so that who is
        interrupted may go on; then waits for the broker's word.

        Raises LettersAway after a while; KafkaException where the broker refuses them.
        """
        deadline = time.monotonic() + ROOM_WITHIN_S
        while refusals:
            try:
                self._produce(refusals[0])
            except BufferError:  # many that wait for the broker
                if time.monotonic() >= deadline:
                    raise LettersAway("too many dead letters wait for the broker") from None
                self._producer.poll(ROOM_LOOKED_FOR_S)
            else:
                refusals.popleft()
        self._wait_for_acknowledgement()

    def _produce(self, refusal: Refusal) -> None:
        letter = dead_letter(refusal.origin, refusal.reason, refusal.error, "persister", redact)
        trace = child_of(facts_of(refusal.origin.headers).get("traceparent"))
        source = f"sightlog/persister/{self._instance}"
        original = origin_headers(refusal.origin, redact)
        self._producer.produce(
            self._topic,
            key=DEAD_LETTERS.key(letter),
            value=DEAD_LETTERS.encode(letter),
            headers=[*DEAD_LETTERS.headers(letter, source, trace), *original],
            on_delivery=self._note,
        )

    def _wait_for_acknowledgement(self) -> None:
        waiting = self._producer.flush(FLUSH_S)
        if self._failures:
            raise KafkaException(self._failures[0])
        if waiting:
            raise LettersAway(f"{waiting} dead letters wait for the broker")

    def _note(self, error: KafkaError | None, _: Message) -> None:
        if error is not None:
            self._failures.append(error)
