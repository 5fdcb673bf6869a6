"""Which offsets are committed, whatever the group does meanwhile."""

import threading
from collections import deque
from collections.abc import Callable
from typing import Any, cast

import pytest
from confluent_kafka import Consumer, Message, TopicPartition

from services.persister.consume import Bounds, Subscription

TOPIC = "detections.v1"


class Group:
    """A consumer whose polls give what a test wrote down: messages, and what the group says."""

    def __init__(self) -> None:
        self.script: deque[Message | Callable[[], None]] = deque()
        self.committed: dict[int, int] = {}
        self._told: dict[str, Any] = {}

    def subscribe(self, _: list[str], **told: Any) -> None:
        self._told = told

    def gives(self, *partitions: int) -> Callable[[], None]:
        return lambda: self._told["on_assign"](self, _at(partitions))

    def takes(self, *partitions: int) -> Callable[[], None]:
        return lambda: self._told["on_revoke"](self, _at(partitions))

    def poll(self, _: float) -> Message | None:
        while self.script:
            step = self.script.popleft()
            if isinstance(step, Message):
                return step
            step()
        return None

    def commit(self, offsets: list[TopicPartition], asynchronous: bool) -> list[TopicPartition]:
        assert not asynchronous
        self.committed |= {at.partition: at.offset for at in offsets}
        return offsets

    def incremental_assign(self, _: list[TopicPartition]) -> None:
        return

    pause = resume = incremental_assign


def _at(partitions: tuple[int, ...]) -> list[TopicPartition]:
    return [TopicPartition(TOPIC, partition) for partition in partitions]


def message(partition: int, offset: int) -> Message:
    return Message(topic=TOPIC, partition=partition, offset=offset, value=b"{}")


@pytest.fixture
def group() -> Group:
    return Group()


@pytest.fixture
def subscription(group: Group) -> Subscription:
    made = Subscription(cast("Consumer", group), [TOPIC], Bounds(100, 1000, 0))
    group.script.append(group.gives(0, 1))
    assert made.batch() == []
    return made


def offsets_of(batch: list[Any]) -> list[tuple[int, int]]:
    return [(origin.partition, origin.offset) for origin in batch]


def test_what_was_stored_is_committed(group, subscription):
    group.script.extend([message(0, 4), message(0, 5), message(1, 2)])
    subscription.commit(subscription.batch())
    assert group.committed == {0: 6, 1: 3}


@pytest.mark.parametrize("comes_back", [False, True])
def test_a_partition_given_up_meanwhile_is_never_rewound(group, subscription, comes_back):
    group.script.extend([message(0, 4), message(1, 2)])
    batch = subscription.batch()
    group.script.append(group.takes(0))
    if comes_back:
        group.script.append(group.gives(0))  # where another member had come to 90
    subscription.pause()
    subscription.wait(0.01, threading.Event())
    subscription.resume()

    subscription.commit(batch)

    assert group.committed == {1: 3}
    group.script.extend([group.gives(0), message(0, 90)])
    batch = subscription.batch()
    assert group.committed == {1: 3}
    subscription.commit(batch)
    assert group.committed == {0: 91, 1: 3}


def test_what_came_before_a_partition_was_given_up_is_not_taken_twice(group, subscription):
    again = [group.takes(0), group.gives(0), message(0, 4), message(0, 5)]
    group.script.extend([message(0, 4), message(1, 2), *again])
    batch = subscription.batch()
    assert offsets_of(batch) == [(1, 2), (0, 4), (0, 5)]
    subscription.commit(batch)
    assert group.committed == {0: 6, 1: 3}
