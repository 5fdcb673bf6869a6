"""Queues of subscribers."""

import asyncio
import threading
import time
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise

from services.gateway.realtime.hub import (
    BYTES_AT_ONCE,
    BYTES_KEPT,
    LOOP_SHARE_S,
    MESSAGES_KEPT,
    Hub,
    Subscriber,
)
from tests.gateway.messages import NOON


@dataclass
class Note:
    """News of the simplest kind."""

    number: int
    size: int = 4
    cursor: str = field(init=False)
    at: datetime = field(init=False)

    def __post_init__(self) -> None:
        self.cursor = f"w{self.number}"
        self.at = NOON + timedelta(seconds=self.number)

    @property
    def message(self) -> bytes:
        return f"{self.number:04d}".encode().ljust(self.size, b".")


def all_of(note: Note) -> bytes | None:
    return note.message


async def drained(subscriber: Subscriber[Note]) -> list[bytes]:
    """What waits, without what is lost."""
    _, batch = await asyncio.wait_for(subscriber.next(), 1)
    return [batch[at : at + 4] for at in range(0, len(batch), 4)]


async def test_every_subscriber_is_sent_what_its_view_lets_through_in_order() -> None:
    hub: Hub[Note] = Hub()
    with (
        hub.subscribed(all_of) as everything,
        hub.subscribed(lambda note: note.message if note.number % 2 else None) as odd,
    ):
        await hub.fan_out([Note(1), Note(2), Note(3)])
        assert await drained(everything) == [b"0001", b"0002", b"0003"]
        assert await drained(odd) == [b"0001", b"0003"]


async def test_a_slow_subscriber_loses_its_oldest_messages_and_is_told_once() -> None:
    hub: Hub[Note] = Hub()
    with hub.subscribed(all_of) as slow:
        await hub.fan_out([Note(number) for number in range(MESSAGES_KEPT + 10)])
        loss, batch = await slow.next()
        assert loss is not None
        assert (loss.missed, loss.cursor) == (10, "w9")
        assert (loss.since, loss.until) == (NOON, NOON + timedelta(seconds=9))
        assert batch.startswith(b"0010")
        assert len(batch) == 4 * MESSAGES_KEPT
        await hub.fan_out([Note(1)])
        assert await slow.next() == (None, b"0001")


async def test_a_queue_holds_at_most_a_mebibyte() -> None:
    hub: Hub[Note] = Hub()
    size = BYTES_KEPT // 8
    with hub.subscribed(all_of) as slow:
        await hub.fan_out([Note(number, size) for number in range(20)])
        loss, batch = await slow.next()
        assert loss is not None
        assert loss.missed == 12
        assert batch.startswith(b"0012")


async def test_a_message_larger_than_the_queue_is_still_delivered_alone() -> None:
    hub: Hub[Note] = Hub()
    with hub.subscribed(all_of) as subscriber:
        await hub.fan_out([Note(1), Note(2, BYTES_KEPT + 1)])
        loss, batch = await subscriber.next()
        assert loss is not None
        assert loss.missed == 1
        assert len(batch) == BYTES_KEPT + 1


async def test_one_write_is_no_larger_than_it_need_be() -> None:
    hub: Hub[Note] = Hub()
    with hub.subscribed(all_of) as subscriber:
        await hub.fan_out([Note(number, BYTES_AT_ONCE // 2) for number in range(4)])
        for first in (b"0000", b"0002"):
            loss, batch = await subscriber.next()
            assert loss is None
            assert batch.startswith(first)
            assert len(batch) == BYTES_AT_ONCE


async def test_a_subscriber_that_left_costs_nothing() -> None:
    hub: Hub[Note] = Hub()
    with hub.subscribed(all_of):
        pass
    assert hub.publish([Note(1)]) is None


async def test_news_from_another_thread_arrive_before_it_goes_on() -> None:
    hub: Hub[Note] = Hub()

    def publish() -> None:
        for number in range(3):
            sent = hub.publish([Note(number)])
            assert sent is not None
            sent.result(5)

    with hub.subscribed(all_of) as subscriber:
        await asyncio.to_thread(publish)
        assert await drained(subscriber) == [b"0000", b"0001", b"0002"]


async def test_a_large_fan_out_lets_the_event_loop_go_on() -> None:
    hub: Hub[Note] = Hub()
    turns: list[int] = []  # of somebody else on the loop: how much was fanned out before
    fanned_out = 0

    async def watch() -> None:
        while True:
            turns.append(fanned_out)
            await asyncio.sleep(0)

    def slowly(_: Note) -> bytes | None:
        nonlocal fanned_out
        fanned_out += 1
        time.sleep(LOOP_SHARE_S / 4)
        return None

    with hub.subscribed(slowly):
        watching = asyncio.create_task(watch())
        await hub.fan_out([Note(number) for number in range(100)])
        watching.cancel()
    between = [later - before for before, later in pairwise([0, *turns, fanned_out])]
    assert 0 < max(between) <= 5  # each takes at least a quarter of what is one turn's share


def test_news_for_a_loop_that_is_closed_are_dropped() -> None:
    hub: Hub[Note] = Hub()

    async def leave_open() -> None:
        hub.subscribed(all_of).__enter__()

    thread = threading.Thread(target=lambda: asyncio.run(leave_open()))
    thread.start()
    thread.join()
    assert hub.publish([Note(1)]) is None
