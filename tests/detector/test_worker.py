"""One detector process, a real broker, and an AI service that does as it is told."""

import threading
from datetime import UTC, datetime
from functools import partial

import pytest

from schemas.messages import Box, Outcome, detection_id, image_path, snapshot_filename
from schemas.topics import DEAD_LETTERS, FRAMES, SNAPSHOTS, facts_of
from tests.detector.fake_ai import PERSON, FakeAI, Reply, a_jpeg, saw
from tests.detector.site import Site, a_frame, a_stream, eventually, headers_of, running


@pytest.fixture(scope="module")
def site(kafka, topic_prefix):
    ai = FakeAI()
    site = Site(kafka, topic_prefix, ai)
    yield site
    site.close()
    ai.close()


@pytest.fixture(scope="module")
def letters(site):
    letters = site.tail(DEAD_LETTERS)
    yield letters
    letters.close()


@pytest.fixture(scope="module")
def detector(site, tmp_path_factory):
    with running(site, tmp_path_factory.mktemp("worker")) as detector:
        eventually(detector.is_ready, 30, "ready")
        yield detector


def test_a_frame_becomes_a_record_with_what_the_ai_service_saw(site, detector):
    stream = a_stream()
    odd = PERSON | {"label": "dog", "colour": "brown", "confidence": 0.25}
    site.ai.behave(stream, lambda _: Reply(saw(PERSON, odd)))
    frame = a_frame(stream, 0, model="fake", min_confidence=0.2)
    site.publish(frame)
    [record] = site.expect(stream, 1)
    assert (record.outcome, record.reason, record.record_id) == (Outcome.OK, None, frame.id)
    assert (record.frame.seq, record.frame.epoch, record.frame.width) == (0, 1000, 640)
    assert record.frame.captured_at == frame.captured_at
    person, dog = record.detections
    assert person.id == detection_id(frame.id, 0)
    assert person.bounding_box == Box(x=64, y=36, width=64, height=72)
    assert person.normalized_box == Box(x=0.1, y=0.1, width=0.1, height=0.2)
    assert (dog.label, dog.attributes) == ("dog", {"colour": "brown"})
    assert record.model is not None and record.model.name == "fake"


def test_a_record_says_how_long_each_part_took(site, detector):
    stream = a_stream()
    site.ai.behave(stream, lambda _: Reply(delay_s=0.2))
    site.publish(a_frame(stream, 0, age_ms=700))
    [record] = site.expect(stream, 1)
    timing = record.timing
    assert timing.infer_ms == pytest.approx(210, abs=100)
    assert timing.queue_ms is not None and timing.queue_ms < 200
    assert timing.since_capture_ms == pytest.approx(910, abs=300)
    published = record.frame.published_at
    assert published is not None
    assert abs((datetime.now(UTC) - published).total_seconds()) < 20


def test_a_trace_goes_on_through_the_ai_service_to_the_record_and_its_snapshot(site, detector):
    stream = a_stream()
    site.ai.behave(stream, lambda _: Reply(saw(PERSON)))
    frame = a_frame(stream, 0, min_confidence=0.5, model="yolox")
    headers = headers_of(frame)
    trace = facts_of(headers)["traceparent"].split("-")[1]
    site.put(FRAMES, FRAMES.key(frame), frame.jpeg, headers)
    site.expect(stream, 1)
    [message] = site.records_tail.of(stream)
    said = facts_of(message.headers())
    assert (said["outcome"], said["count"], said["ce_id"]) == ("ok", "1", frame.id)
    [call] = [call for call in site.ai.calls if call.stream_id == stream]
    traces = {said["traceparent"].split("-")[1], call.headers["traceparent"].split("-")[1]}
    assert traces == {trace}
    assert sorted(call.query.split("&")) == ["minConfidence=0.5", "model=yolox"]


def test_a_record_lies_in_the_partition_of_its_frame(site, detector):
    streams = [a_stream() for _ in range(6)]
    frames = site.tail(FRAMES)
    site.publish(*(a_frame(stream, 0) for stream in streams))
    for stream in streams:
        site.expect(stream, 1)
        [record], [frame] = site.records_tail.of(stream), frames.of(stream)
        assert record.partition() == frame.partition()
    frames.close()


def test_only_the_labels_that_were_asked_for_are_told(site, detector):
    stream = a_stream()
    cat = PERSON | {"label": "cat"}
    site.ai.behave(stream, lambda _: Reply(saw(PERSON, cat, PERSON)))
    site.publish(a_frame(stream, 0, labels=("cat", "dog")))
    [record] = site.expect(stream, 1)
    assert [d.label for d in record.detections] == ["cat"]
    assert record.detections[0].id == detection_id(record.record_id, 0)


def has_been_asked(site: Site, stream: str, times: int) -> bool:
    return len(site.ai.called(stream)) >= times


def test_records_leave_in_seq_order_although_the_answers_come_out_of_order(site, detector):
    stream = a_stream()
    delays = {0: 0.6, 1: 0.05, 2: 0.4, 3: 0.0, 4: 0.2}
    site.ai.behave(stream, lambda call: Reply(delay_s=delays[int(call.frame_id.split("/")[2])]))
    for seq in range(5):
        site.publish(a_frame(stream, seq))
        eventually(partial(has_been_asked, site, stream, seq + 1))
    records = site.expect(stream, 5)
    assert [record.frame.seq for record in records] == list(range(5))
    assert {record.outcome for record in records} == {Outcome.OK}


def test_five_frames_of_a_stream_are_in_flight_and_of_the_others_only_the_newest_waits(
    site, detector
):
    stream, let_go = a_stream(), threading.Event()
    site.ai.behave(stream, lambda _: Reply(held_by=let_go))
    for seq in range(5):
        site.publish(a_frame(stream, seq))
        eventually(partial(has_been_asked, site, stream, seq + 1))
    site.publish(*(a_frame(stream, seq) for seq in range(5, 56)))
    other = a_stream()
    site.publish(a_frame(other, 0))
    site.expect(other, 1)  # nobody waits for a stream that is held up
    let_go.set()
    records = site.expect(stream, 56)
    assert [record.frame.seq for record in records] == list(range(56))
    outcomes = [record.outcome for record in records]
    assert outcomes == [Outcome.OK] * 5 + [Outcome.SHED] * 50 + [Outcome.OK]
    assert site.ai.most_at_once[stream] == 5


def test_a_frame_older_than_its_stream_allows_is_expired_and_not_looked_at(site, detector):
    stream = a_stream()
    site.publish(a_frame(stream, 0, age_ms=3000, max_age_ms=2000), a_frame(stream, 1))
    records = site.expect(stream, 2)
    assert [record.outcome for record in records] == [Outcome.EXPIRED, Outcome.OK]
    assert site.ai.called(stream) == [f"{stream}/1000/1"]


def test_a_frame_that_grows_too_old_while_it_waits_is_expired(site, detector):
    stream, let_go = a_stream(), threading.Event()
    site.ai.behave(stream, lambda _: Reply(held_by=let_go))
    for seq in range(5):
        site.publish(a_frame(stream, seq))
        eventually(partial(has_been_asked, site, stream, seq + 1))
    site.publish(a_frame(stream, 5, max_age_ms=300))
    late = a_stream()
    site.publish(a_frame(late, 0, age_ms=0, max_age_ms=300))
    site.expect(late, 1)
    threading.Timer(0.5, let_go.set).start()
    assert site.expect(stream, 6)[-1].outcome is Outcome.EXPIRED


def test_frames_of_an_owner_that_lost_the_stream_are_fenced(site, detector):
    stream = a_stream()
    site.claim(stream, 2000)
    eventually(lambda: fenced_after(site, stream, 1000))
    site.publish(a_frame(stream, 0, epoch=2000))
    eventually(lambda: site.records(stream)[-1].frame.epoch == 2000)
    assert site.records(stream)[-1].outcome is Outcome.OK


def fenced_after(site, stream, epoch) -> bool:
    """A frame of the lower epoch, until the fence has read the status."""
    before = len(site.records(stream))
    site.publish(a_frame(stream, before, epoch=epoch))
    return site.expect(stream, before + 1)[-1].outcome is Outcome.FENCED


def test_a_frame_of_a_higher_epoch_fences_those_behind_it_at_once(site, detector):
    stream = a_stream()
    site.publish(a_frame(stream, 7, epoch=1000), a_frame(stream, 0, epoch=3000), a_frame(stream, 8))
    records = site.expect(stream, 3)
    assert records[2].outcome is Outcome.FENCED
    assert Outcome.FENCED not in {records[0].outcome, records[1].outcome}


@pytest.mark.parametrize(
    "jpeg",
    [b"GIF89a", b"\xff\xd8", b"\xff\xd8\xff\xd9", a_jpeg("x", width=0), a_jpeg("x", width=320)],
    ids=["gif", "cut", "empty", "no width", "another size"],
)
def test_what_is_no_jpeg_of_its_size_is_rejected_without_a_call(site, detector, jpeg):
    stream = a_stream()
    site.publish(a_frame(stream, 0, jpeg=jpeg), a_frame(stream, 1))
    records = site.expect(stream, 2)
    assert [record.outcome for record in records] == [Outcome.REJECTED, Outcome.OK]
    assert len(site.ai.called(stream)) == 1


def test_what_the_ai_service_cannot_decode_is_rejected(site, detector):
    stream = a_stream()
    site.ai.behave(stream, lambda _: Reply(status=422))
    site.publish(a_frame(stream, 0))
    [record] = site.expect(stream, 1)
    assert (record.outcome, record.reason) == (Outcome.REJECTED, "AI_REFUSED")


def test_a_frame_that_is_not_to_be_looked_at_has_no_record(site, detector):
    stream = a_stream()
    site.publish(a_frame(stream, 0, detect=False), a_frame(stream, 1))
    [record] = site.expect(stream, 1)
    assert record.frame.seq == 1


BOX = PERSON["boundingBox"]
BAD_ANSWERS = {
    "500": Reply(status=500),
    "not json": Reply(b"<html>"),
    "another shape": Reply(b'{"boxes": []}'),
    "nan": Reply(saw(PERSON).replace(b"64.0", b"NaN")),
    "infinite": Reply(saw(PERSON).replace(b"64.0", b"1e999")),
    "certainty above one": Reply(saw(PERSON | {"confidence": 1.5})),
    "box outside": Reply(saw(PERSON | {"boundingBox": BOX | {"x": 600.0, "width": 100.0}})),
    "box turned round": Reply(saw(PERSON | {"boundingBox": BOX | {"width": -1.0}})),
    "a thousand and one": Reply(saw(*[PERSON] * 1001)),
    "a million boxes": Reply(saw(*[PERSON] * 100_000)),
    "of another size": Reply(saw(PERSON).replace(b'"width":640', b'"width":320')),
    "a redirect": Reply(status=302, headers={"location": "http://127.0.0.1:1/"}),
    "a byte a second": Reply(saw(PERSON), byte_by_byte_s=1),
    "deep": Reply(b"[" * 100_000),
}


@pytest.mark.parametrize("bad", BAD_ANSWERS)
def test_a_bad_answer_fails_the_frame_and_the_next_is_ok(site, detector, bad):
    stream = a_stream()
    replies = {0: BAD_ANSWERS[bad]}
    site.ai.behave(stream, lambda call: replies.get(int(call.frame_id.split("/")[2]), Reply()))
    site.publish(a_frame(stream, 0))
    site.expect(stream, 1)
    site.publish(a_frame(stream, 1))
    failed, well = site.expect(stream, 2)
    assert (failed.outcome, failed.detections) == (Outcome.FAILED, ())
    assert failed.reason and failed.reason.startswith("AI_")
    assert well.outcome is Outcome.OK


def test_a_busy_ai_service_is_asked_again_when_it_said_and_then_about_the_newest(site, detector):
    stream = a_stream()
    busy = Reply(status=429, headers={"retry-after": "1"})
    site.ai.behave(stream, lambda call: busy if call.frame_id.endswith("/0") else Reply())
    site.publish(a_frame(stream, 0))
    eventually(lambda: site.ai.called(stream))
    eventually(lambda: site.records(stream))
    site.publish(*(a_frame(stream, seq) for seq in range(1, 4)))
    first, *shed, last = site.expect(stream, 4)
    assert (first.outcome, first.reason) == (Outcome.FAILED, "AI_BUSY")
    assert {record.outcome for record in shed} == {Outcome.SHED}
    assert last.outcome is Outcome.OK
    assert last.timing.queue_ms is not None and last.timing.queue_ms > 300


def test_while_the_ai_service_is_down_frames_fail_and_soon_after_they_are_ok_again(site, detector):
    stream = a_stream()
    site.ai.down()
    try:
        for seq in range(8):
            site.publish(a_frame(stream, seq))
            site.expect(stream, seq + 1)
        assert {record.outcome for record in site.records(stream)} == {Outcome.FAILED}
        assert site.records(stream)[-1].reason == "AI_DOWN"
    finally:
        site.ai.up()
    eventually(lambda: answered_again(site, stream), 5)


def answered_again(site, stream) -> bool:
    before = len(site.records(stream))
    site.publish(a_frame(stream, before))
    return site.expect(stream, before + 1)[-1].outcome is Outcome.OK


def test_a_snapshot_is_on_the_broker_before_the_record_that_names_it(site, detector):
    stream = a_stream()
    site.ai.behave(stream, lambda _: Reply(saw(PERSON)))
    frame = a_frame(stream, 3)
    snapshots = site.tail(SNAPSHOTS)
    site.publish(frame)
    [record] = site.expect(stream, 1)
    [snapshot] = snapshots.of(stream)  # no waiting: it must be there by now
    snapshots.close()
    assert record.image_path == image_path(stream, snapshot_filename(frame.captured_at, 1000, 3))
    kept = SNAPSHOTS.decode(snapshot.value(), snapshot.headers())
    assert (kept.path, kept.frame_id, kept.jpeg) == (record.image_path, frame.id, frame.jpeg)


def test_snapshots_of_a_stream_are_rationed_and_empty_frames_are_not_kept(site, detector):
    stream, empty = a_stream(), a_stream()
    site.ai.behave(stream, lambda _: Reply(saw(PERSON)))
    for seq in range(3):
        site.publish(a_frame(stream, seq), a_frame(empty, seq))
        site.expect(stream, seq + 1)
        site.expect(empty, seq + 1)
    paths = [record.image_path for record in site.records(stream)]
    assert paths[0] and paths[1:] == [None, None]  # 60 a minute: one a second
    assert {record.image_path for record in site.records(empty)} == {None}


POISON = {
    "no value": (lambda f: (f.stream_id.encode(), None, headers_of(f)), "EMPTY"),
    "empty value": (lambda f: (f.stream_id.encode(), b"", headers_of(f)), "EMPTY"),
    "no headers": (lambda f: (f.stream_id.encode(), f.jpeg, []), "MISSING_HEADER"),
    "no seq": (
        lambda f: (f.stream_id.encode(), f.jpeg, [h for h in headers_of(f) if h[0] != "seq"]),
        "MISSING_HEADER",
    ),
    "wrong seq": (
        lambda f: (f.stream_id.encode(), f.jpeg, [*headers_of(f), ("seq", b"-1")]),
        "WRONG_SHAPE",
    ),
    "not utf-8": (
        lambda f: (f.stream_id.encode(), f.jpeg, [*headers_of(f), ("epoch", b"\xff\xfe")]),
        None,
    ),
    "another key": (lambda f: (f.stream_id.lower().encode(), f.jpeg, headers_of(f)), "WRONG_KEY"),
    "no width": (
        lambda f: (f.stream_id.encode(), f.jpeg, [*headers_of(f), ("width", b"0")]),
        "WRONG_SHAPE",
    ),
}


@pytest.mark.parametrize("poison", POISON)
def test_a_message_no_frame_can_be_made_of_becomes_one_dead_letter_and_the_partition_moves_on(
    site, detector, letters, poison
):
    stream = a_stream()
    make, reason = POISON[poison]
    key, value, headers = make(a_frame(stream, 0))
    partition = site.partition_of(stream)
    site.put(FRAMES, key, value, headers, partition)
    site.publish(a_frame(stream, 1))
    if reason is None:  # the header that can't be read is left out, an earlier one counts
        site.expect(stream, 2)
        return
    [record] = site.expect(stream, 1)
    assert record.outcome is Outcome.OK
    eventually(lambda: letters.of(key.decode()), 5)
    [letter] = [
        (DEAD_LETTERS.decode(m.value()), facts_of(m.headers())) for m in letters.of(key.decode())
    ]
    assert (letter[0].reason, letter[0].service) == (reason, "detector")
    assert (letter[0].topic, letter[0].partition) == (site.name(FRAMES), partition)
    assert letter[0].size == len(value or b"")
    if headers:
        assert letter[1]["origin_ce_id"] == f"{stream}/1000/0"


def test_all_that_was_published_poison_and_unlooked_at_too_is_committed_in_the_end(site, detector):
    site.publish(a_frame(a_stream(), 0, detect=False))
    eventually(site.is_all_committed)
    assert detector.metric("sightlog_detector_unaccounted_frames") == 0
    assert detector.metric('sightlog_detector_frames_total{outcome="fenced"}') >= 2


def test_sigterm_ends_it_within_ten_seconds_with_status_0_and_no_traceback(site, detector):
    stream = a_stream()
    site.ai.behave(stream, lambda _: Reply(delay_s=0.5))
    site.publish(a_frame(stream, 0))
    eventually(lambda: site.ai.called(stream))
    status, seconds = detector.terminate()
    log = detector.log.read_text()
    assert status == 0, log
    assert seconds < 10
    assert "Traceback" not in log
    site.expect(stream, 1)  # what was in flight was finished ...
    assert site.is_all_committed()  # ... and committed
