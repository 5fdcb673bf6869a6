"""Records -> codes and rows in a real Postgres."""

import random
import threading
from datetime import timedelta
from string import ascii_letters

import msgspec
import pytest
from sqlalchemy import func, select, text

from schemas.messages import Clock, Outcome
from schemas.tables import OUTCOME_CODES, detections, outcomes
from schemas.topics import DETECTIONS, Origin
from services.persister.app import Rows
from services.persister.arrival import Arrival
from services.persister.database import DatabaseAway, lock, transaction
from services.persister.judge import judge
from services.persister.sink import read_blocks, write_blocks
from tests.persister.making import DOOR, EPOCH, MODEL, NOON, PREFIX, YARD, arrivals, record
from tests.persister.persister_process import eventually


@pytest.fixture(autouse=True)
def empty(engine):
    with engine.begin() as connection:
        connection.execute(text("TRUNCATE detections, outcomes"))


def stored(engine):
    """Labels by seq."""
    query = select(detections.c.seq, detections.c.label).order_by(
        detections.c.seq, detections.c.position
    )
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(query)]


def code(engine, seq, epoch=EPOCH):
    query = select(outcomes.c.codes).where(outcomes.c.epoch == epoch, outcomes.c.block == 0)
    with engine.connect() as connection:
        return bytes(connection.scalar(query))[seq]


def test_a_row_holds_the_detection_its_frame_and_its_model(engine, rows):
    clock = Clock(source="arrival", offset_ms=1.5)
    message = record(5, "person")
    (seen,) = message.detections
    seen = msgspec.structs.replace(seen, track_id="t1", attributes={"colour": "red"})
    frame = msgspec.structs.replace(message.frame, clock=clock)
    message = msgspec.structs.replace(message, frame=frame, detections=(seen,))

    assert rows.store(arrivals(message)) == []

    with engine.connect() as connection:
        (row,) = connection.execute(select(detections)).mappings()
    assert dict(row) == {
        "captured_at": message.frame.captured_at,
        "id": seen.id,
        "stream_id": DOOR,
        "epoch": EPOCH,
        "seq": 5,
        "position": 0,
        "label": "person",
        "class_id": 0,
        "confidence": 0.75,
        "x": 64,
        "y": 36,
        "width": 128,
        "height": 72,
        "frame_width": 640,
        "frame_height": 360,
        "track_id": "t1",
        "image_path": message.image_path,
        "model_name": MODEL.name,
        "model_version": MODEL.version,
        "model_digest": MODEL.digest,
        "metadata": {
            "clock": {"source": "arrival", "offsetMs": 1.5, "errorMs": None},
            "attributes": {"colour": "red"},
        },
    }


def test_a_redelivered_batch_adds_nothing(engine, rows):
    batch = arrivals(record(0, "dog", "cat"), record(1), record(2, outcome=Outcome.SHED))
    for _ in range(3):
        rows.store(batch)
    assert stored(engine) == [(0, "dog"), (0, "cat")]
    assert [code(engine, seq) for seq in range(4)] == [1, 1, 2, 0]


def test_a_failed_frame_that_is_answered_later_has_the_later_rows(engine, rows):
    rows.store(arrivals(record(0, outcome=Outcome.FAILED)))
    assert code(engine, 0) == OUTCOME_CODES["failed"]
    rows.store(arrivals(record(0, "dog"), first=1))
    rows.store(arrivals(record(0, "cat"), record(0, outcome=Outcome.SHED), first=2))
    assert (code(engine, 0), stored(engine)) == (OUTCOME_CODES["ok"], [(0, "dog")])


def test_epochs_and_streams_do_not_mix(engine, rows):
    rows.store(arrivals(record(0, "dog"), record(0, epoch=EPOCH + 1), record(0, stream_id=YARD)))
    with engine.connect() as connection:
        blocks = connection.scalar(select(func.count()).select_from(outcomes))
    assert (blocks, stored(engine)) == (3, [(0, "dog")])


def test_a_replays_records_are_not_stored(engine, rows):
    replayed = msgspec.structs.replace(record(0, "dog"), result_set="yolox-l")
    rows.store(arrivals(replayed))
    assert stored(engine) == []


def test_rows_that_postgres_refuses_are_found_and_the_others_stored(engine, rows):
    poison = record(3, "nul \x00 label")
    huge = record(0, "dog", epoch=2**63 - 1)
    attribute = record(4, "dog")
    (seen,) = attribute.detections
    attribute = msgspec.structs.replace(
        attribute, detections=(msgspec.structs.replace(seen, attributes={"a": "\x00"}),)
    )
    big = record(9, epoch=2**63)
    batch = arrivals(
        *(record(seq, "dog") for seq in range(3)), poison, attribute, huge, big, record(8, "cat")
    )

    refusals = rows.store(batch)

    assert [refusal.origin.offset for refusal in refusals] == [3, 4, 6]
    assert {refusal.reason for refusal in refusals} == {"ROW_REFUSED"}
    assert [label for _, label in stored(engine)] == ["dog"] * 4 + ["cat"]
    assert code(engine, 3) == 0


def test_a_label_that_is_too_long_for_its_index_refuses_its_record_only(engine, rows):
    label = "".join(random.Random(1).choices(ascii_letters, k=9000))
    refusals = rows.store(arrivals(record(0, "dog"), record(1, label), record(2, "cat")))
    assert [refusal.origin.offset for refusal in refusals] == [1]
    assert "ProgramLimitExceeded" in refusals[0].error
    assert stored(engine) == [(0, "dog"), (2, "cat")]


@pytest.mark.parametrize(
    "more",
    [
        {"class_id": "seven"},
        {"label": "half a \ud83d"},
        {"confidence": None},
        {"track_id": object()},
        {"attributes": {"a": object()}},
    ],
    ids=lambda more: next(iter(more)),
)
def test_a_value_that_has_no_form_in_postgres_refuses_its_record_only(engine, rows, more):
    poison = record(1, "dog")
    (seen,) = poison.detections
    poison = msgspec.structs.replace(poison, detections=(msgspec.structs.replace(seen, **more),))
    refusals = rows.store([*arrivals(record(0, "dog"), record(2, "cat")), Arrival(at(5), poison)])
    assert [(refusal.origin.offset, refusal.reason) for refusal in refusals] == [(5, "ROW_REFUSED")]
    assert stored(engine) == [(0, "dog"), (2, "cat")]


def at(offset):
    return Origin(DETECTIONS.named(PREFIX), 0, offset, None, None, b"", ())


def test_two_persisters_with_the_same_batch_at_once_store_it_once(engine, rows):
    batch = arrivals(*(record(seq, "dog") for seq in range(300)))
    racers = [threading.Thread(target=Rows(engine).store, args=(batch,)) for _ in range(2)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    assert stored(engine) == [(seq, "dog") for seq in range(300)]


def waits_for_a_lock(engine):
    query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    with engine.connect() as connection:
        return connection.scalar(text(query))


def test_a_partition_that_another_persister_writes_is_waited_for(engine, rows):
    batch = arrivals(record(0, "dog"))
    second = threading.Thread(target=rows.store, args=(batch,))
    with transaction(engine) as first:
        lock(first, {(batch[0].origin.topic, batch[0].origin.partition)})
        second.start()
        eventually(lambda: waits_for_a_lock(engine))
        assert read_blocks(first, [(DOOR, EPOCH, 0)]) == {}
    second.join()
    assert stored(engine) == [(0, "dog")]


def test_a_block_that_is_written_from_two_partitions_keeps_the_codes_of_both(engine, rows):
    rows.store(arrivals(record(0)))
    batch = arrivals(record(2, outcome=Outcome.SHED), partition=1)
    second = threading.Thread(target=rows.store, args=(batch,))
    with transaction(engine) as first:
        blocks = read_blocks(first, [(DOOR, EPOCH, 0)])
        second.start()
        eventually(lambda: waits_for_a_lock(engine))
        write_blocks(first, judge([record(1, outcome=Outcome.FAILED)], blocks).blocks)
    second.join()
    assert [code(engine, seq) for seq in range(3)] == [1, 4, 2]


def test_a_terminated_connection_is_away_and_the_next_try_succeeds(engine, rows):
    batch = arrivals(record(0, "dog"))
    rows.store(arrivals(record(1)))
    with engine.connect() as connection:
        kill = (
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        connection.execute(text(kill))
    for _ in range(3):
        try:
            rows.store(batch)
        except DatabaseAway:
            continue
    assert stored(engine) == [(0, "dog")]


def test_a_lock_that_is_never_given_is_away_too(engine, rows):
    rows.store(arrivals(record(0)))
    with engine.begin() as other:
        other.execute(text("LOCK TABLE outcomes IN ACCESS EXCLUSIVE MODE"))
        with pytest.raises(DatabaseAway):
            rows.store(arrivals(record(1), first=1))


def test_rows_of_a_day_without_partition_are_kept_all_the_same(engine, rows):
    rows.store(arrivals(record(0, "dog", at=NOON - timedelta(days=900))))
    assert stored(engine) == [(0, "dog")]
