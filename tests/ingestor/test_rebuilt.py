"""streams.v1 is deleted and made anew under an ingestor that runs."""

import time
from functools import partial
from itertools import groupby

from confluent_kafka.admin import AdminClient
from msgspec.structs import replace

from schemas.messages import StreamSpec
from schemas.provision import provision
from schemas.topics import STREAMS
from tests.conftest import FEW_PARTITIONS
from tests.ingestor.conftest import assert_near_bar, eventually

ON_WITHIN_S = 10.0


def clip(slot):
    return StreamSpec(
        stream_id=f"S{slot}",
        slot=slot,
        generation=1,
        running=True,
        name="a clip",
        url="file:bikes.mp4?loop=1",
        fps=5,
    )


def make_anew(kafka, prefix):
    """Nothing is in it then."""
    config, name = {"bootstrap.servers": kafka}, STREAMS.named(prefix)
    admin = AdminClient(config)
    admin.delete_topics([name])[name].result(timeout=30)
    eventually(lambda: name not in AdminClient(config).list_topics(timeout=10).topics)
    provision(config, prefix, FEW_PARTITIONS)


def goes_on_above(epoch, topics, id):
    return topics.frames(id)[-1].epoch > epoch


def assert_epochs_are_whole(frames):
    for _, epoch in groupby(frames, lambda frame: frame.epoch):
        seqs = [frame.seq for frame in epoch]
        assert seqs == list(range(len(seqs)))


def test_streams_go_on_by_themselves_when_their_topic_was_made_anew(
    start_ingestor, topics, kafka, topic_prefix
):
    ingestor = start_ingestor().wait_ready()
    specs = [topics.want(clip(slot)) for slot in range(3)]
    for _ in range(2):
        topics.say_nonsense(3)
    before = {spec.stream_id: topics.wait_frames(spec.stream_id, 3)[-1].epoch for spec in specs}
    eventually(lambda: len(topics.dead_letters()) == 2)

    make_anew(kafka, topic_prefix)
    topics.say_nonsense(3)  # where one was buried in the old one, before anybody has read the new
    begun = time.monotonic()
    changed, kept, _ = specs  # as a reconciler would say them again; the third one was deleted
    topics.want(replace(changed, generation=2, labels=("car",)))
    topics.want(kept)
    for id in ("S0", "S1"):
        eventually(partial(goes_on_above, before[id], topics, id), 4 * ON_WITHIN_S)
    assert_near_bar("on after, s", time.monotonic() - begun, ON_WITHIN_S)
    eventually(lambda: topics.frames("S0")[-1].labels == ("car",))
    topics.wait_status("S2", "STOPPED")
    topics.want(clip(3))
    topics.wait_frames("S3", 3)
    for id in ("S0", "S1", "S2", "S3"):
        assert_epochs_are_whole(topics.frames(id))
    eventually(lambda: len(topics.dead_letters()) == 3)
    topics.say_nonsense(3)
    eventually(lambda: len(topics.dead_letters()) == 4)
    assert ingestor.process.poll() is None
