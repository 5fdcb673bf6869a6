"""Numbers, books, and what happens when the broker does not take a frame."""

import random
import threading

import pytest
from msgspec.structs import replace

from schemas.messages import Clock, Dropped, StreamSpec
from schemas.topics import FRAMES, PRODUCER_OF_FRAMES
from services.ingestor.publish import MOST_IN_FLIGHT, FrameProducer, Outbox, Waiting
from tests.ingestor.conftest import eventually
from tests.ports import free_port

SPEC = StreamSpec(stream_id="S1", slot=0, generation=1, running=True, name="x", url="file:x")


class Broker:
    """Takes frames while it has room; what it took waits to be acknowledged or lost."""

    def __init__(self):
        self.room = 1_000_000
        self.frames = []
        self.receipts = []

    def send(self, frame, delivered):
        if self.room <= 0:
            return False
        self.room -= 1
        self.frames.append(frame)
        self.receipts.append(delivered)
        return True

    def acknowledge(self, well=True):
        receipts, self.receipts = self.receipts, []
        for delivered in receipts:
            delivered(well)


class Rig:
    def __init__(self, most_bytes=1_000_000):
        self.broker = Broker()
        self.losses = 0
        self.outbox = Outbox(SPEC, self.broker.send, most_bytes, self._lose)

    def _lose(self):
        self.losses += 1

    def put(self, size=100, dropped=None, at_us=0):
        dropped = dropped or Dropped()
        return self.outbox.put(
            Waiting(b"x" * size, at_us, 0.0, 2, 2, Clock(), dropped.total + 1, dropped)
        )


def balanced(frame):
    return frame.captured == frame.dropped + frame.seq + 1


def test_frames_are_numbered_from_zero_without_a_gap_and_balance():
    rig = Rig()
    rig.outbox.open(7)
    rig.put(dropped=Dropped(fps_limit=2))
    rig.outbox.count(3, Dropped(fps_limit=1, corrupt=2))
    rig.put()
    rig.put(dropped=Dropped(idle=1))
    assert [frame.id for frame in rig.broker.frames] == ["S1/7/0", "S1/7/1", "S1/7/2"]
    assert [frame.captured for frame in rig.broker.frames] == [3, 7, 9]
    assert all(balanced(frame) for frame in rig.broker.frames)


def test_no_frame_leaves_before_there_is_an_epoch():
    rig = Rig()
    assert rig.put() is None
    assert rig.outbox.account() is None
    rig.outbox.open(1)
    assert [frame.seq for frame in rig.broker.frames] == [0]
    assert rig.put() == "S1/1/1"


def test_a_full_queue_loses_its_oldest_and_says_so_in_the_next_header():
    rig = Rig(most_bytes=350)
    for _ in range(5):
        rig.put(size=100)
    rig.outbox.open(1)
    first = rig.broker.frames[0]
    assert (first.seq, first.captured, first.dropped) == (0, 3, 2)
    assert [balanced(frame) for frame in rig.broker.frames] == [True] * 3


def test_one_stream_cannot_fill_the_producer():
    rig = Rig()
    rig.outbox.open(1)
    for _ in range(MOST_IN_FLIGHT + 5):
        rig.put()
    assert len(rig.broker.frames) == MOST_IN_FLIGHT
    rig.broker.acknowledge()
    assert len(rig.broker.frames) == MOST_IN_FLIGHT + 5


def test_a_lost_number_ends_the_epoch_and_the_next_one_begins_at_zero():
    rig = Rig()
    rig.outbox.open(1)
    rig.put()
    rig.broker.acknowledge()
    for _ in range(MOST_IN_FLIGHT + 2):
        rig.put()
    rig.broker.acknowledge(well=False)
    assert rig.losses == 1
    (final,) = rig.outbox.final_accounts()
    assert (final.epoch, final.totals.published, final.totals.pending) == (1, 1, 0)
    assert final.totals.dropped.overload == MOST_IN_FLIGHT + 2
    assert final.totals.balances
    assert rig.put() is None
    rig.outbox.open(2)
    assert rig.broker.frames[-1].id == "S1/2/0"
    assert balanced(rig.broker.frames[-1])


def test_time_never_goes_back_not_even_when_the_camera_is_connected_anew():
    rig = Rig()
    rig.outbox.open(1)
    for at_us in (1_000_000, 900_000, 1_000_000, 2_000_000):
        rig.put(at_us=at_us)
    times = [frame.captured_at for frame in rig.broker.frames]
    assert times == sorted(times)


def test_a_new_epoch_may_begin_at_an_earlier_time_for_our_clock_may_have_been_set_back():
    rig = Rig()
    rig.outbox.open(1)
    rig.put(at_us=3_600_000_000)
    rig.outbox.end()
    rig.outbox.open(2)
    rig.put(at_us=1_000_000)
    assert [frame.captured_at.second for frame in rig.broker.frames] == [0, 1]
    assert rig.broker.frames[0].captured_at > rig.broker.frames[1].captured_at


def test_headers_survive_the_wire():
    rig = Rig()
    rig.outbox.open(1)
    rig.put(dropped=Dropped(fps_limit=4))
    frame = rig.broker.frames[0]
    headers = FRAMES.headers(frame, "test", "00-1-2-01")
    assert FRAMES.decode(FRAMES.encode(frame), headers) == frame


def test_a_bug_in_a_delivery_does_not_end_its_thread_unheard(monkeypatch):
    died = []
    monkeypatch.setattr(threading, "excepthook", lambda hook: died.append(hook.thread.name))
    away = {"bootstrap.servers": f"127.0.0.1:{free_port()}", "log_level": 0}
    producer = FrameProducer(PRODUCER_OF_FRAMES | away, "p.", "test", give_up_s=0.05)
    producer.start()
    rig = Rig()
    rig.outbox.open(1)
    rig.put()

    def delivered(well):
        raise ValueError("a bug")

    producer.send(rig.broker.frames[0], delivered)
    eventually(lambda: died == ["deliveries"])
    producer.close()


def test_no_frame_is_taken_between_a_loss_and_the_end_of_what_was_queued_behind_it():
    away = {"bootstrap.servers": f"127.0.0.1:{free_port()}", "log_level": 0}
    producer = FrameProducer(PRODUCER_OF_FRAMES | away, "p.", "test", give_up_s=0.05)
    producer.start()
    rig = Rig()
    rig.outbox.open(1)
    rig.put()
    (frame,) = rig.broker.frames
    taken_meanwhile = []

    def delivered(well):
        assert not well
        taken_meanwhile.append(producer.send(frame, lambda _: None))

    assert producer.send(frame, delivered)
    eventually(lambda: taken_meanwhile)
    assert taken_meanwhile == [False]
    eventually(lambda: producer.send(frame, lambda _: None))
    producer.close()


class Streams:
    """Outboxes of one producer at a real broker, which sends after a while only."""

    def __init__(self, producer, name, count):
        self.specs = [replace(SPEC, stream_id=f"{name}{number}") for number in range(count)]
        self.outboxes = [
            Outbox(spec, producer.send, 1_000_000, lambda: None) for spec in self.specs
        ]
        for outbox in self.outboxes:
            outbox.open(1)

    def put(self, each):
        for outbox in self.outboxes:
            for _ in range(each):
                outbox.put(Waiting(b"x" * 100, 0, 0.0, 2, 2, Clock(), 1, Dropped()))

    @property
    def are_settled(self):
        return all(outbox.is_settled for outbox in self.outboxes)

    @property
    def are_at_rest(self):
        """Settled, or without an epoch to be so in."""
        return all(outbox.is_settled or outbox.epoch is None for outbox in self.outboxes)


def assert_no_holes(topics, streams):
    for spec in streams.specs:
        seqs = [frame.seq for frame in topics.frames(spec.stream_id)]
        assert seqs == list(range(len(seqs)))


def test_a_purge_leaves_no_hole_however_soon_the_next_frame_comes(kafka, topic_prefix, topics):
    lingers = PRODUCER_OF_FRAMES | {"bootstrap.servers": kafka, "linger.ms": 500}
    producer = FrameProducer(lingers, topic_prefix, "test")
    producer.start()
    warm = Streams(producer, "W", 4)
    warm.put(1)
    eventually(lambda: warm.are_settled)
    busy, quiet = Streams(producer, "B", 100), Streams(producer, "Q", 100)
    busy.put(3)
    producer._empty()
    for _ in range(3):
        busy.put(1)
        quiet.put(3)
    eventually(lambda: not any(outbox.epoch for outbox in busy.outboxes))
    behind = Streams(producer, "Z", 4)
    behind.put(1)
    eventually(lambda: behind.are_settled and quiet.are_at_rest)
    producer.close()
    eventually(lambda: all(topics.frames(spec.stream_id) for spec in behind.specs))
    assert_no_holes(topics, busy)
    assert_no_holes(topics, quiet)
    assert not any(topics.frames(spec.stream_id) for spec in busy.specs)


def test_no_frame_of_the_epoch_is_taken_behind_one_that_the_broker_refused(kafka, topic_prefix):
    larger = PRODUCER_OF_FRAMES | {"bootstrap.servers": kafka, "message.max.bytes": 3_000_000}
    producer = FrameProducer(larger, topic_prefix, "test")
    producer.start()
    rig = Rig(most_bytes=10_000_000)
    rig.outbox.open(1)
    for size in (2_500_000, 100):
        rig.put(size)
    refused, follower = rig.broker.frames
    taken = []

    def delivered(well):
        assert not well
        for frame in (follower, replace(follower, stream_id="S2"), replace(follower, epoch=2)):
            taken.append(producer.send(frame, lambda _: None))

    assert producer.send(refused, delivered)
    eventually(lambda: len(taken) == 3)
    assert taken == [False, True, True]
    producer.close()


class Chance:
    """A rig to which things happen."""

    def __init__(self, seed):
        self._random = random.Random(seed)
        self.rig = Rig(most_bytes=self._random.choice([300, 1000, 100_000]))
        self._epoch = 0

    def strike(self):
        steps = [self._open] * 2 + [self._count] * 2 + [self._acknowledge] * 4
        steps += [self._put] * 10 + [self._crowd, self._lose]
        self._random.choice(steps)()

    def _put(self):
        self.rig.put(dropped=Dropped(fps_limit=self._random.randrange(3)))

    def _count(self):
        self.rig.outbox.count(1, Dropped(corrupt=1))

    def _acknowledge(self):
        self.rig.broker.acknowledge()

    def _lose(self):
        self.rig.broker.acknowledge(well=False)

    def _crowd(self):
        self.rig.broker.room = self._random.choice([0, 3, 1_000_000])

    def _open(self):
        if self.rig.outbox.epoch is None:
            self._epoch += 1
            self.rig.outbox.open(self._epoch)


@pytest.mark.parametrize("seed", range(20))
def test_the_books_balance_whatever_happens(seed):
    chance = Chance(seed)
    outbox, broker = chance.rig.outbox, chance.rig.broker
    for _ in range(200):
        chance.strike()
        account = outbox.account()
        assert account is None or account.totals.balances
        assert all(final.totals.balances for final in outbox.final_accounts())
    assert all(balanced(frame) for frame in broker.frames)
    for epoch in {frame.epoch for frame in broker.frames}:
        seqs = [frame.seq for frame in broker.frames if frame.epoch == epoch]
        assert seqs == list(range(len(seqs)))
