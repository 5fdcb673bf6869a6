"""Ends a process that cannot make progress although the broker can.

In a thread, and with a client of its own each time: a blocked event loop runs no timer, and a
consumer that silently stopped consuming has nothing to say about it.
"""

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from confluent_kafka import ConsumerGroupState, ConsumerGroupTopicPartitions, KafkaException
from confluent_kafka import TopicPartition as At
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._listoffsets import OffsetSpec

BROKER_TIMEOUT_S = 3.0
EARLIEST = OffsetSpec.earliest()  # type: ignore[no-untyped-call]  # so it is in the library
LATEST = OffsetSpec.latest()  # type: ignore[no-untyped-call]  # so it is in the library
Positions = Mapping[int, int]
"""By partition held, the offset up to which it is accounted for; rises."""


class Patience:
    """How long a partition has lagged without getting on. Pure."""

    def __init__(self, stall_s: float, longest_gap_s: float) -> None:
        self._stall_s = stall_s
        self._longest_gap_s = longest_gap_s
        self._since: dict[tuple[int, int], float] = {}
        self._asked_at = 0.0

    def is_over(self, now: float, lagging: Positions) -> bool:
        """To be asked every few seconds; a gap in the asking (we were stopped) starts it anew."""
        before = {} if now - self._asked_at > self._longest_gap_s else self._since
        self._since = {place: before.get(place, now) for place in lagging.items()}
        self._asked_at = now
        return any(now - since >= self._stall_s for since in self._since.values())


class Watch:
    """Calls `give_up` once, from its thread, after `stall_s` of lag without progress.

    `lagging` tells those of the positions that are behind, by asking the broker.
    """

    def __init__(self, lagging: Callable[[], Positions], stall_s: float) -> None:
        self._lagging = lagging
        self._interval_s = min(5.0, stall_s / 4)
        self._patience = Patience(stall_s, 2 * (BROKER_TIMEOUT_S + self._interval_s) + 10)
        self._ended = threading.Event()
        self._give_up: Callable[[str], None] = _unset

    def start(self, give_up: Callable[[str], None]) -> None:
        self._give_up = give_up
        threading.Thread(target=self._look, name="watch", daemon=True).start()

    def end(self) -> None:
        self._ended.set()

    def _look(self) -> None:
        while not self._ended.wait(self._interval_s):
            lagging = self._lagging()
            if self._patience.is_over(time.monotonic(), lagging):
                self._give_up("frames wait, the broker answers, and nothing has moved")
                return


def _unset(_: str) -> None:
    raise RuntimeError("started without a way to give up")


def lagging(kafka: Mapping[str, Any], group: str, topic: str, held: Positions) -> Positions:
    """Those of the partitions held that the broker has more of than the group has committed.

    In an empty group it is every partition: this process runs, and the broker does not know it.
    None while the broker does not answer, or the group rebalances.
    """
    try:
        admin = AdminClient(dict(kafka))
        state = _result(admin.describe_consumer_groups([group])).state
        if state not in {ConsumerGroupState.STABLE, ConsumerGroupState.EMPTY}:
            return {}
        ends = _ends(admin, topic)
        ours = held if state is ConsumerGroupState.STABLE else dict.fromkeys(ends, -1)
        committed = _committed(admin, group)
    except (KafkaException, TimeoutError):
        return {}
    return {p: at for p, at in ours.items() if ends.get(p, 0) > committed.get((topic, p), 0)}


def _result(futures: Mapping[Any, Any]) -> Any:  # Any: confluent's futures are not typed
    [future] = futures.values()
    return future.result(BROKER_TIMEOUT_S)


def _ends(admin: AdminClient, topic: str) -> dict[int, int]:
    """Of partitions that hold anything; an emptied one has nothing to read."""
    partitions = admin.list_topics(topic, timeout=BROKER_TIMEOUT_S).topics[topic].partitions
    firsts = admin.list_offsets({At(topic, p): EARLIEST for p in partitions})
    lasts = admin.list_offsets({At(topic, p): LATEST for p in partitions})
    first = {at.partition: f.result(BROKER_TIMEOUT_S).offset for at, f in firsts.items()}
    last = {at.partition: f.result(BROKER_TIMEOUT_S).offset for at, f in lasts.items()}
    return {p: last[p] for p in last if last[p] > first[p]}


def _committed(admin: AdminClient, group: str) -> dict[tuple[str, int], int]:
    told = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)])
    return {(at.topic, at.partition): at.offset for at in _result(told).topic_partitions}
