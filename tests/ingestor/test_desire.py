"""What the group hands out, read from the broker."""

from collections import Counter

import pytest
from msgspec.structs import replace

from schemas.messages import StreamSpec
from schemas.topics import STREAMS, DecodeError
from services.ingestor.__main__ import MEMBER
from services.ingestor.desire import Burials, Desires, ReadToEnd, Unreadable, spec_of
from tests.ingestor.conftest import eventually


class Member:
    """One of the group, and what it was told."""

    def __init__(self, bootstrap, prefix, *, buries):
        self.buries = buries
        config = MEMBER | {"bootstrap.servers": bootstrap}
        self.times_assigned: Counter[int] = Counter()
        self.unreadable: Counter[int] = Counter()
        self._unread = set()
        self.desires = Desires(config, prefix, self._begin, self._leave, lambda *_: None)
        self.desires.subscribe()

    def _begin(self, partitions):
        self.times_assigned.update(partitions)
        self._unread |= partitions

    def _leave(self, partitions, lost):
        self._unread -= partitions

    def has_read(self, partitions):
        """Whether it has so many, each of them to its end."""
        for found in self.desires.poll(0.05):
            if isinstance(found, Unreadable):
                self.unreadable[found.origin.partition] += 1
                if self.buries:
                    self.desires.buried(found.origin)
            elif isinstance(found, ReadToEnd):
                self._unread.discard(found.partition)
        return len(self.desires.assigned) == partitions and not self._unread


def test_what_is_no_spec_is_told_of_once_though_its_partition_comes_back(
    kafka, topic_prefix, topics
):
    for slot in range(4):
        topics.say_nonsense(slot)
    one = Member(kafka, topic_prefix, buries=False)
    eventually(lambda: one.has_read(4), 20)
    two = Member(kafka, topic_prefix, buries=True)
    eventually(lambda: all([one.has_read(2), two.has_read(2)]), 20)
    two.desires.close()
    eventually(lambda: one.has_read(4), 20)
    one.desires.close()
    assert sorted(one.times_assigned.values()) == [1, 1, 2, 2]
    assert one.unreadable == dict.fromkeys(range(4), 1)
    assert len(two.unreadable) == 2  # one never said that the broker has their letters
    three = Member(kafka, topic_prefix, buries=True)
    eventually(lambda: three.has_read(4), 20)
    three.desires.close()
    assert three.unreadable.keys() == one.unreadable.keys() - two.unreadable.keys()


def test_the_mark_stands_before_the_first_letter_that_is_still_on_its_way():
    burials = Burials()
    burials.resume(-1001)  # nobody was here before
    assert burials.mark == 0
    assert [burials.begin(offset) for offset in (3, 7, 9)] == [True] * 3
    assert not burials.settle(7)
    assert burials.mark == 3
    assert burials.settle(3)
    assert burials.mark == 9
    assert not burials.begin(3)
    burials.resume(20)  # others went on
    assert burials.mark == 20
    assert not burials.begin(9)
    assert burials.begin(20)


def test_what_was_buried_beyond_the_end_was_of_a_topic_that_is_gone():
    burials = Burials()
    burials.resume(5)
    burials.begin(7)
    burials.bound(8)
    assert not burials.begin(7)
    burials.bound(1)
    assert burials.mark == 1
    assert burials.begin(1)
    assert not burials.settle(7)


def test_a_topic_made_anew_has_nothing_buried_though_it_was_assigned_again():
    burials = Burials()
    burials.resume(-1001)
    burials.note((0, 1000))
    assert burials.begin(0)
    burials.note((1, 1001))
    assert burials.begin(1)
    burials.resume(-1001)
    burials.note((0, 5000))
    assert burials.begin(0)


def test_a_topic_made_anew_under_a_reader_has_nothing_buried():
    burials = Burials()
    burials.resume(7)
    burials.note((7, 1000))
    assert burials.begin(7)
    burials.note((0, 5000))
    assert burials.begin(0)


def test_what_others_buried_in_a_topic_made_anew_is_not_buried_again():
    burials = Burials()
    burials.resume(-1001)
    burials.note((5, 1000))
    assert burials.begin(5)
    burials.resume(1)
    burials.note((0, 5000))
    assert not burials.begin(0)
    burials.note((1, 5001))
    assert burials.begin(1)


def test_a_compacted_partition_that_comes_back_is_the_same():
    burials = Burials()
    burials.resume(-1001)
    for first in (0, 3, 3):
        burials.note((first, 1000 + first))
        burials.note((4, 1004))
        assert burials.begin(4) is (first == 0)
        burials.resume(-1001)


GOOD = StreamSpec(
    stream_id="S1", slot=2, generation=1, running=True, name="a camera", url="rtsp://h/x"
)


@pytest.mark.parametrize(
    ("key", "partition", "value", "reason"),
    [
        (b"S1", 2, None, "EMPTY"),
        (b"S1", 2, b"", "EMPTY"),
        (b"S1", 2, b"{", "NOT_JSON"),
        (b"S1", 2, b"\xff\xd8", "NOT_JSON"),
        (b"S1", 2, b"[" * 60_000, "WRONG_SHAPE"),
        (b"S1", 2, b"{}", "WRONG_SHAPE"),
        (b"S1", 2, b"[]", "WRONG_SHAPE"),
        (b"S1", 2, STREAMS.encode(replace(GOOD, labels=("x" * 70_000,))), "TOO_LARGE"),
        (b"S2", 2, STREAMS.encode(GOOD), "WRONG_KEY"),
        (b"", 2, STREAMS.encode(GOOD), "WRONG_KEY"),
        (b"S1", 3, STREAMS.encode(GOOD), "WRONG_SLOT"),
        (b"S1", 2, STREAMS.encode(replace(GOOD, fps=0)), "WRONG_SHAPE"),
        (b"S1", 2, STREAMS.encode(replace(GOOD, fps=-5)), "WRONG_SHAPE"),
        (b"S1", 2, STREAMS.encode(replace(GOOD, fps=1e300)), "WRONG_SHAPE"),
        (b"S1", 2, STREAMS.encode(replace(GOOD, frame_width=0)), "WRONG_SHAPE"),
        (b"S1", 2, STREAMS.encode(replace(GOOD, frame_width=2**60)), "WRONG_SHAPE"),
        (b"", 2, STREAMS.encode(replace(GOOD, stream_id="")), "WRONG_SHAPE"),
        (b"S\n", 2, STREAMS.encode(replace(GOOD, stream_id="S\n")), "WRONG_SHAPE"),
        (b"S" * 101, 2, STREAMS.encode(replace(GOOD, stream_id="S" * 101)), "WRONG_SHAPE"),
    ],
)
def test_a_spec_that_nobody_could_act_on_is_refused_with_its_reason(key, partition, value, reason):
    with pytest.raises(DecodeError) as refused:
        spec_of(key, partition, value)
    assert refused.value.reason == reason


def test_a_good_spec_is_read_as_it_is():
    assert spec_of(b"S1", 2, STREAMS.encode(GOOD)) == GOOD
