"""What can't be stored -> dead letters."""

from collections.abc import Iterable, Sequence

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from schemas.topics import DEAD_LETTERS, Header, dead_letter, facts_of, origin_headers
from services.persister.arrival import Refusal
from services.process.trace import child_of

LARGEST_ORIGIN_HEADERS = 64 * 1024  # bytes; the letter itself must never be refused
FLUSH_S = 2.0


class LettersAway(Exception):
    """The broker has not acknowledged all dead letters yet; it still may."""


class Graveyard:
    """Dead letters, each acknowledged before the offset of its origin is committed."""

    def __init__(self, producer: Producer, prefix: str, instance: str) -> None:
        self._producer = producer
        self._topic = DEAD_LETTERS.named(prefix)
        self._instance = instance
        self._failures: list[KafkaError] = []

    def bury(self, refusals: Iterable[Refusal]) -> None:
        for refusal in refusals:
            letter = dead_letter(refusal.origin, refusal.reason, refusal.error, "persister")
            trace = child_of(facts_of(refusal.origin.headers).get("traceparent"))
            source = f"sightlog/persister/{self._instance}"
            original = _bounded(origin_headers(refusal.origin))
            self._producer.produce(
                self._topic,
                key=DEAD_LETTERS.key(letter),
                value=DEAD_LETTERS.encode(letter),
                headers=[*DEAD_LETTERS.headers(letter, source, trace), *original],
                on_delivery=self._note,
            )

    def wait_for_acknowledgement(self) -> None:
        """Raises LettersAway after a while; KafkaException where the broker refuses them."""
        waiting = self._producer.flush(FLUSH_S)
        if self._failures:
            raise KafkaException(self._failures[0])
        if waiting:
            raise LettersAway(f"{waiting} dead letters wait for the broker")

    def _note(self, error: KafkaError | None, _: Message) -> None:
        if error is not None:
            self._failures.append(error)


def _bounded(headers: Sequence[Header]) -> Sequence[Header]:
    size = sum(len(name) + len(value) for name, value in headers)
    return headers if size <= LARGEST_ORIGIN_HEADERS else ()
