import threading
import time

import pytest
from confluent_kafka import KafkaError, KafkaException
from typing_extensions import override

from schemas.topics import STREAM_STATUS
from services.detector.fence import Epochs, Fence, Standing
from tests.detector.fake_ai import FakeAI
from tests.detector.site import Site, a_stream, eventually


def test_a_lower_epoch_is_fenced_and_an_equal_or_unknown_one_is_not():
    epochs = Epochs()
    epochs.learn("door", 5)
    epochs.learn("door", 4)
    assert epochs.fences("door", 4)
    assert not epochs.fences("door", 5)
    assert not epochs.fences("door", 6)
    assert not epochs.fences("yard", 0)


def test_an_epoch_of_the_day_after_tomorrow_is_not_learned_and_one_of_an_hour_ahead_is():
    epochs, now_ms, hour_ms = Epochs(), int(time.time() * 1000), 3_600_000
    epochs.learn("door", now_ms + hour_ms)
    epochs.learn("door", now_ms + 48 * hour_ms)
    assert epochs.fences("door", now_ms)
    assert not epochs.fences("door", now_ms + 2 * hour_ms)


def test_no_more_streams_are_kept_than_allowed():
    epochs = Epochs(most_streams=10)
    for stream in range(100):
        epochs.learn(str(stream), 1)
    assert len(epochs) == 10
    assert epochs.fences("99", 0)


@pytest.fixture
def site(kafka, topic_prefix):
    ai = FakeAI()
    site = Site(kafka, topic_prefix, ai)
    yield site
    site.close()
    ai.close()


@pytest.fixture
def fence(site):
    epochs = Epochs()
    fence = Fence({"bootstrap.servers": site.kafka}, site.prefix, epochs)
    fence.start()
    yield fence, epochs
    fence.close()


def test_all_that_was_written_before_is_known_once_it_has_caught_up(site, fence):
    fence, epochs = fence
    streams = [a_stream() for _ in range(50)]
    for stream in streams:
        site.claim(stream, 7)
    fence.catch_up().result(10)
    assert all(epochs.fences(stream, 6) for stream in streams)
    site.claim(streams[0], 9)
    fence.catch_up().result(10)
    assert epochs.fences(streams[0], 8)


def test_poison_in_the_topic_is_passed_over_and_a_tombstone_forgets_its_stream(site, fence):
    fence, epochs = fence
    stream = a_stream()
    site.claim(stream, 7)
    for junk in (b"", b"{", b'{"streamId": 3}', b"\xff" * 100):
        site.put(STREAM_STATUS, b"junk", junk)
    site.claim(stream, 2**53)
    site.claim(stream, 8, key=b"another")
    after = a_stream()
    site.claim(after, 7)
    fence.catch_up().result(10)
    assert epochs.fences(stream, 6)
    assert not epochs.fences(stream, 7)
    assert epochs.fences(after, 6)
    site.put(STREAM_STATUS, stream.encode(), None)
    site.flush()
    eventually(lambda: not epochs.fences(stream, 6))


def test_a_stream_that_moved_keeps_its_fence_when_its_old_slot_says_no_more(site, fence):
    fence, epochs = fence
    stream, after = a_stream(), a_stream()
    site.claim(stream, 7, partition=0)
    site.claim(stream, 8, partition=1)
    fence.catch_up().result(10)
    site.put(STREAM_STATUS, stream.encode(), None, partition=0)
    site.claim(after, 7, partition=0)
    fence.catch_up().result(10)
    assert epochs.fences(after, 6)
    assert epochs.fences(stream, 7)
    site.put(STREAM_STATUS, stream.encode(), None, partition=1)
    site.flush()
    eventually(lambda: not epochs.fences(stream, 7))


def test_of_no_more_streams_than_allowed_it_is_known_where_they_are_said_of():
    standing = Standing(most_streams=10)
    for stream in range(100):
        standing.note(str(stream), 0)
        standing.note(str(stream), 1)
    assert len(standing._partitions) == 10
    assert not standing.remove("99", 0)
    assert standing.remove("99", 1)
    assert standing.remove("0", 0)


class Slow(Fence):
    """Finds no broker at first; then is told the ends of the topic, but not before it is let."""

    def __init__(self, site: Site) -> None:
        super().__init__({"bootstrap.servers": site.kafka}, site.prefix, Epochs())
        self.let_go = threading.Event()
        self.times_asked = 0

    @override
    def _ends(self) -> dict[int, int]:
        self.times_asked += 1
        if self.times_asked == 1:
            raise KafkaException(KafkaError(KafkaError._TRANSPORT))
        ends = super()._ends()
        assert self.let_go.wait(10)
        return ends


def test_who_asks_while_the_ends_are_being_asked_is_not_answered_with_those(site):
    fence = Slow(site)
    fence.start()
    first = fence.catch_up()
    eventually(lambda: fence.times_asked == 2)  # the broker was away once
    second = fence.catch_up()
    fence.let_go.set()
    first.result(10)
    second.result(10)
    assert fence.times_asked == 3
    fence.close()
