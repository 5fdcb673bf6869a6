"""What is believed of what others say about a stream."""

import pytest

from schemas.messages import Status, StreamStatus, now
from services.ingestor.follow import DAY_MS, believed

NOW_MS = 1_800_000_000_000


@pytest.mark.parametrize(
    ("epoch", "believed_epoch"),
    [
        (NOW_MS - DAY_MS, NOW_MS - DAY_MS),
        (NOW_MS + DAY_MS, NOW_MS + DAY_MS),  # a clock may be wrong by as much
        (NOW_MS + DAY_MS + 1, 0),
        (2**53, 0),
    ],
)
def test_an_epoch_that_nobody_can_have_minted_yet_counts_as_none(epoch, believed_epoch):
    status = StreamStatus(stream_id="S1", status=Status.RUNNING, since=now(), epoch=epoch)
    assert believed(status, NOW_MS).epoch == believed_epoch
