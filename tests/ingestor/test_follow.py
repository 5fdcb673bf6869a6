"""What is believed of what others say about a stream."""

import pytest
from msgspec.structs import replace

from schemas.messages import MOST_AHEAD_MS, Status, StreamStatus, now
from schemas.topics import STREAM_STATUS
from services.ingestor.__main__ import MEMBER
from services.ingestor.follow import Statuses, believed
from tests.ingestor.conftest import eventually

NOW_MS = 1_800_000_000_000


@pytest.mark.parametrize(
    ("epoch", "believed_epoch"),
    [
        (NOW_MS - MOST_AHEAD_MS, NOW_MS - MOST_AHEAD_MS),
        (NOW_MS + MOST_AHEAD_MS, NOW_MS + MOST_AHEAD_MS),  # a clock may be wrong by as much
        (NOW_MS + MOST_AHEAD_MS + 1, 0),
        (2**53, 0),
    ],
)
def test_an_epoch_that_nobody_can_have_minted_yet_counts_as_none(epoch, believed_epoch):
    status = StreamStatus(stream_id="S1", status=Status.RUNNING, since=now(), epoch=epoch)
    assert believed(status, NOW_MS).epoch == believed_epoch


class Follower:
    """Our own partitions, and what was heard of all."""

    def __init__(self, kafka, prefix):
        self.heard = []
        self.statuses = Statuses(MEMBER | {"bootstrap.servers": kafka, "group.id": "none"}, prefix)

    def read(self):
        self.heard += self.statuses.poll()
        return self


@pytest.fixture
def follower(kafka, topic_prefix):
    follower = Follower(kafka, topic_prefix)
    yield follower
    follower.statuses.close()


def test_an_epoch_is_known_from_a_partition_that_is_not_ours(follower, topics):
    status = StreamStatus(stream_id="S1", status=Status.RUNNING, since=now(), epoch=7)
    topics.say_status(status, 3)
    statuses = follower.statuses
    statuses.follow([0])
    eventually(lambda: follower.read().heard == [(3, status)])
    assert statuses.highest_epoch("S1") == 7
    assert statuses.last(3, "S1") is None
    topics.say_raw(STREAM_STATUS, 0, "S1", None)  # elsewhere than it was said
    statuses.follow([3])
    assert not statuses.has_read(3)  # the last owner may have said more meanwhile
    eventually(lambda: follower.read().statuses.has_read(3))
    assert statuses.last(3, "S1") == status
    statuses.leave([3])
    later = replace(status, epoch=9)
    topics.say_status(later, 3)
    eventually(lambda: follower.read().heard[-1] == (3, later))
    assert statuses.highest_epoch("S1") == 9
