"""Whether the whole system moves: each stream's newest `ok` record, and how far it is stored."""

import threading
import time
from collections import defaultdict, deque
from collections.abc import Collection
from datetime import datetime
from types import TracebackType
from typing import Any, Self

from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

from schemas.messages import EPOCH_BEGIN, DetectionRecord, Outcome
from schemas.topics import DETECTIONS
from tests.faults.gather import Stack

ASK_S = 1.0
PATIENCE_S = 5.0
MOST_WAITING = 10_000  # records a partition that are not known to be stored


class Pulse:
    """A thread that follows `detections.v1`, whatever happens to the broker."""

    def __init__(self, stack: Stack) -> None:
        self._topic = DETECTIONS.named(stack.prefix)
        self._consumer = Consumer(
            {
                "bootstrap.servers": stack.bootstrap_servers,
                "log_level": 0,  # the broker is away now and then: that is the point
                "group.id": f"{stack.prefix}persister",  # never joined: to ask what it committed
                "enable.auto.commit": False,
                "reconnect.backoff.max.ms": 500,
                "auto.offset.reset": "latest",
            }
        )
        self._partitions = sorted(
            self._consumer.list_topics(self._topic, 10).topics[self._topic].partitions
        )
        self._stored: dict[str, datetime] = {}
        self._waiting: defaultdict[int, deque[tuple[int, str, datetime]]] = defaultdict(
            lambda: deque(maxlen=MOST_WAITING)
        )
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="pulse", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()
        self._consumer.close()

    def stalled(self, since: datetime, streams: Collection[str]) -> list[str]:
        """Those without a frame of after then that is answered `ok` and stored."""
        return [one for one in streams if self._stored.get(one, EPOCH_BEGIN) <= since]

    def _follow(self) -> None:
        self._consumer.assign([TopicPartition(self._topic, number) for number in self._partitions])
        asked = time.monotonic()
        while not self._over.is_set():
            for message in self._consumer.consume(500, timeout=0.1):
                self._see(message)
            if time.monotonic() - asked > ASK_S:
                self._ask()
                asked = time.monotonic()

    def _see(self, message: Message) -> None:
        number, offset = message.partition(), message.offset()
        if message.error() is not None or number is None or offset is None:
            return
        record: Any = DETECTIONS.decode(message.value())
        assert isinstance(record, DetectionRecord)
        if record.outcome is Outcome.OK:
            captured_at = record.frame.captured_at
            self._waiting[number].append((offset, record.stream_id, captured_at))

    def _ask(self) -> None:
        """What the persister has committed is in the tables."""
        partitions = [TopicPartition(self._topic, number) for number in self._partitions]
        try:
            committed = self._consumer.committed(partitions, timeout=PATIENCE_S)
        except KafkaException:
            return  # the broker is away
        for at in committed:
            waiting = self._waiting[at.partition]
            while waiting and waiting[0][0] < at.offset:
                _, stream_id, captured_at = waiting.popleft()
                stored = self._stored.get(stream_id, EPOCH_BEGIN)
                self._stored[stream_id] = max(stored, captured_at)
