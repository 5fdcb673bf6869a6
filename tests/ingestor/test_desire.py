"""What the group hands out, read from the broker."""

from collections import Counter

from services.ingestor.__main__ import MEMBER
from services.ingestor.desire import Desires, ReadToEnd, Unreadable
from tests.ingestor.conftest import eventually


class Member:
    """One of the group, and what it was told."""

    def __init__(self, bootstrap, prefix):
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
            elif isinstance(found, ReadToEnd):
                self._unread.discard(found.partition)
        return len(self.desires.assigned) == partitions and not self._unread


def test_what_is_no_spec_is_told_of_once_though_its_partition_comes_back(
    kafka, topic_prefix, topics
):
    for slot in range(4):
        topics.say_nonsense(slot)
    one = Member(kafka, topic_prefix)
    eventually(lambda: one.has_read(4), 20)
    two = Member(kafka, topic_prefix)
    eventually(lambda: all([one.has_read(2), two.has_read(2)]), 20)
    two.desires.close()
    eventually(lambda: one.has_read(4), 20)
    one.desires.close()
    assert sorted(one.times_assigned.values()) == [1, 1, 2, 2]
    assert one.unreadable == dict.fromkeys(range(4), 1)
    assert len(two.unreadable) == 2  # another process can't know
