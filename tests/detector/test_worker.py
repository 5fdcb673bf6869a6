"""One detector process, a real broker, and an AI service that does as it is told."""

import os
import threading
import time
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256

import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import AlterConfigOpType, ConfigEntry, ConfigResource
from confluent_kafka.admin._resource import ResourceType

from schemas.messages import Box, Outcome, detection_id, image_path, snapshot_filename
from schemas.topics import DEAD_LETTERS, DETECTIONS, FRAMES, SNAPSHOTS, STREAM_STATUS, facts_of
from tests.detector.fake_ai import PERSON, FakeAI, Reply, a_jpeg, saw
from tests.detector.site import (
    Site,
    a_frame,
    a_stream,
    eventually,
    headers_of,
    headers_on,
    running,
)

SETTINGS = {
    "DETECTOR_AI_TIMEOUT_S": "10",  # longer than the machine stands still: answers are held here
    "DETECTOR_SNAPSHOTS_PER_MINUTE": "1",  # so that a slow test sees the ration, too
}
ROUNDING_MS = 5


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
    with running(site, tmp_path_factory.mktemp("worker"), **SETTINGS) as detector:
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
    began = time.monotonic()
    site.publish(a_frame(stream, 0, age_ms=700))
    [record] = site.expect(stream, 1)
    timing, took_ms = record.timing, 1000 * (time.monotonic() - began)
    assert timing.queue_ms is not None and timing.infer_ms is not None
    assert timing.queue_ms >= 0
    assert timing.infer_ms >= 200
    parts_ms = timing.queue_ms + timing.infer_ms
    assert parts_ms <= took_ms
    assert 700 + parts_ms - ROUNDING_MS <= timing.since_capture_ms <= 700 + took_ms + ROUNDING_MS
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


def stream_beside(site, stream) -> str:
    """Another one, behind it in its partition."""
    while site.partition_of(other := a_stream()) != site.partition_of(stream):
        pass
    return other


def test_five_frames_of_a_stream_are_in_flight_and_of_the_others_only_the_newest_waits(
    site, detector
):
    stream, let_go = a_stream(), threading.Event()
    site.ai.behave(stream, lambda _: Reply(held_by=let_go))
    for seq in range(5):
        site.publish(a_frame(stream, seq))
        eventually(partial(has_been_asked, site, stream, seq + 1))
    site.publish(*(a_frame(stream, seq) for seq in range(5, 56)))
    other = stream_beside(site, stream)
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
    stream, counter = a_stream(), 'sightlog_detector_frames_total{outcome="fenced"}'
    before = detector.metric(counter)
    site.claim(stream, 2000)
    eventually(lambda: fenced_after(site, stream, 1000))
    site.publish(a_frame(stream, 0, epoch=2000))
    eventually(lambda: site.records(stream)[-1].frame.epoch == 2000)
    assert site.records(stream)[-1].outcome is Outcome.OK
    eventually(lambda: detector.metric(counter) > before)


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
    [
        *(b"GIF89a", b"\xff\xd8", b"\xff\xd8\xff\xd9", b"\xff" * 1_900_000),
        *(a_jpeg("x", width=0), a_jpeg("x", width=320), a_jpeg("x", 30_000, 30_000)),
    ],
    ids=["gif", "cut", "empty", "two megabytes", "no width", "another size", "bomb"],
)
def test_what_is_no_jpeg_of_its_size_is_rejected_without_a_call(site, detector, jpeg):
    stream = a_stream()
    site.publish(a_frame(stream, 0, jpeg=jpeg), a_frame(stream, 1))
    records = site.expect(stream, 2)
    assert [record.outcome for record in records] == [Outcome.REJECTED, Outcome.OK]
    assert len(site.ai.called(stream)) == 1


def test_what_the_ai_service_cannot_decode_is_rejected_and_what_we_ask_wrongly_failed(
    site, detector
):
    stream = a_stream()
    replies = {
        "0": Reply(b'{"type":"https://sightlog.dev/problems/unusable-picture"}', status=422),
        "1": Reply(b'{"type":"https://sightlog.dev/problems/invalid-parameters"}', status=422),
        "2": Reply(b"", status=400),
    }
    site.ai.behave(stream, lambda call: replies[call.frame_id[-1]])
    for seq in range(3):
        site.publish(a_frame(stream, seq))
        site.expect(stream, seq + 1)
    assert [(record.outcome, record.reason) for record in site.records(stream)] == [
        (Outcome.REJECTED, "AI_REFUSED"),
        (Outcome.FAILED, "AI_MISASKED"),
        (Outcome.REJECTED, "AI_REFUSED"),
    ]


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
    busy = Reply(status=429, headers={"retry-after": "5"})
    site.ai.behave(stream, lambda call: busy if call.frame_id.endswith("/0") else Reply())
    site.publish(a_frame(stream, 0))
    eventually(lambda: site.ai.called(stream))
    eventually(lambda: site.records(stream))
    site.publish(*(a_frame(stream, seq) for seq in range(1, 4)))
    first, *shed, last = site.expect(stream, 4)
    assert (first.outcome, first.reason) == (Outcome.FAILED, "AI_BUSY")
    assert {record.outcome for record in shed} == {Outcome.SHED}
    assert last.outcome is Outcome.OK
    assert last.timing.queue_ms is not None and last.timing.queue_ms > 500


def test_while_the_ai_service_is_down_frames_fail_and_soon_after_they_are_ok_again(site, detector):
    stream = a_stream()
    site.ai.down()
    try:
        for seq in range(8):
            site.publish(a_frame(stream, seq))
            site.expect(stream, seq + 1)
        assert {record.outcome for record in site.records(stream)} == {Outcome.FAILED}
        assert "AI_DOWN" in {record.reason for record in site.records(stream)}
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
    assert paths[0] and paths[1:] == [None, None]
    assert {record.image_path for record in site.records(empty)} == {None}


def with_headers(frame, *more):
    """The last of several headers of a name counts."""
    return FRAMES.key(frame), frame.jpeg, [*headers_of(frame), *more]


def without(frame, name):
    return FRAMES.key(frame), frame.jpeg, [h for h in headers_of(frame) if h[0] != name]


POISON = {
    "no value": (lambda f: (FRAMES.key(f), None, headers_of(f)), "EMPTY"),
    "empty value": (lambda f: (FRAMES.key(f), b"", headers_of(f)), "EMPTY"),
    "no headers": (lambda f: (FRAMES.key(f), f.jpeg, []), "MISSING_HEADER"),
    "no seq": (lambda f: without(f, "seq"), "MISSING_HEADER"),
    "no stream": (lambda f: without(f, "ce_subject"), "MISSING_HEADER"),
    "no time": (lambda f: without(f, "ce_time"), "MISSING_HEADER"),
    "negative seq": (lambda f: with_headers(f, ("seq", b"-1")), "WRONG_SHAPE"),
    "seq of 5,000 digits": (lambda f: with_headers(f, ("seq", b"9" * 5000)), "WRONG_SHAPE"),
    "epoch of tomorrow's tomorrow": (
        lambda f: with_headers(f, ("epoch", str(2**53).encode())),
        "EPOCH_IMPLAUSIBLE",
    ),
    "year 10000": (lambda f: with_headers(f, ("ce_time", b"10000-01-01T00:00:00Z")), "WRONG_SHAPE"),
    "no width": (lambda f: with_headers(f, ("width", b"0")), "WRONG_SHAPE"),
    "least confidence NaN": (lambda f: with_headers(f, ("minconf", b"nan")), "WRONG_SHAPE"),
    "a clock of words": (lambda f: with_headers(f, ("clock", b"a;b;c")), "WRONG_SHAPE"),
    "another key": (
        lambda f: (f.stream_id.lower().encode(), f.jpeg, headers_of(f)),
        "WRONG_KEY",
    ),
    "no key": (lambda f: (None, f.jpeg, headers_of(f)), "WRONG_KEY"),
    "a key that is no text": (lambda f: (b"\xff\xfe\x00", f.jpeg, headers_of(f)), "WRONG_KEY"),
    "a header's name with a NUL": (
        lambda f: (b"key", f.jpeg, [(b"a\x00b", b"1"), (b"ce_id", b"2")]),
        "MISSING_HEADER",
    ),
    "a thousand headers": (
        lambda f: (b"key", f.jpeg, [(f"name-{at}", b"x" * 200) for at in range(1000)]),
        "MISSING_HEADER",
    ),
    "two megabytes": (lambda f: (b"key", b"\xff" * 1_990_000, []), "MISSING_HEADER"),
    "a header's name that is no text": (
        lambda f: (b"key", f.jpeg, [(b"\xff\xfe", b"1"), (b"ce_id", b"2")]),
        "MISSING_HEADER",
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
    known = letters_by_origin(letters)
    put = site.put_unencoded if headers and isinstance(headers[0][0], bytes) else site.put
    put(FRAMES, key, value, headers, partition)
    site.flush()
    began = time.monotonic()
    site.publish(a_frame(stream, 1))
    [record] = site.expect(stream, 1)
    seconds = time.monotonic() - began
    print(f"{poison}: the partition moves on after {seconds:.2f} s, the bar is 1")
    assert seconds < 8  # machines pause for seconds
    assert (record.frame.seq, record.outcome) == (1, Outcome.OK)
    eventually(lambda: len(letters_by_origin(letters)) > len(known), 5)
    [origin] = letters_by_origin(letters).keys() - known.keys()
    letter, told = letters_by_origin(letters)[origin]
    assert (letter.reason, letter.service) == (reason, "detector")
    assert (letter.topic, letter.partition) == (site.name(FRAMES), partition)
    assert (letter.size, letter.sha256) == (len(value or b""), sha256(value or b"").hexdigest())
    assert (letter.payload is None) is (letter.size > 64_000)
    assert told.get("origin_ce_id") == facts_of(headers).get("ce_id", told.get("origin_ce_id"))


def letters_by_origin(letters):
    letters.read()
    told = [
        (DEAD_LETTERS.decode(message.value()), facts_of(headers_on(message)))
        for messages in letters.messages.values()
        for message in messages
    ]
    by_origin = {(letter.partition, letter.offset): (letter, facts) for letter, facts in told}
    assert len(by_origin) == len(told), "one letter each"
    return by_origin


def test_a_header_that_is_no_text_is_left_out_and_an_earlier_one_counts(site, detector):
    stream = a_stream()
    site.put(FRAMES, *with_headers(a_frame(stream, 0), ("epoch", b"\xff\xfe"), ("x", None)))
    [record] = site.expect(stream, 1)
    assert (record.frame.epoch, record.outcome) == (1000, Outcome.OK)


STATUS_POISON = {
    "nothing": b"",
    "cut": b"{",
    "of another shape": b'{"streamId": 3}',
    "no text": b"\xff" * 100,
    "deep": b"[" * 100_000,
    "large": b'{"streamId":"' + b"x" * 1_900_000 + b'"}',
    "a number beyond all": b'{"streamId":"x","status":"RUNNING","since":1e999,"epoch":'
    + b"9" * 999,
    "an epoch that is none": b'{"streamId":"x","status":"RUNNING","since":"2026-01-01T00:00:00Z",'
    b'"epoch":-1}',
    "a time that is none": b'{"streamId":"x","status":"RUNNING","since":"9999-01-01T00:00:00Z"}',
}


def test_poison_among_the_statuses_holds_up_no_fence_and_is_left_to_the_persister(
    site, detector, letters
):
    known, stream = letters_by_origin(letters), a_stream()
    for junk in STATUS_POISON.values():
        site.put(STREAM_STATUS, b"junk", junk)
    site.put(STREAM_STATUS, b"\xff\xfe", None)
    site.put(STREAM_STATUS, None, b"{}", [("ce_id", b"\xff")])
    site.put_unencoded(STREAM_STATUS, b"junk", b"{}", [(b"\xff", b"1")], 0)
    site.claim(stream, 2000)
    eventually(lambda: fenced_after(site, stream, 1000))
    assert detector.process.poll() is None
    assert letters_by_origin(letters).keys() == known.keys()
    assert detector.log.read_text().count("statuses.skipped") < 5


@pytest.fixture
def small_records(site):
    """The broker takes less than our own producers would send."""
    change_config(site, "100000")
    yield
    change_config(site, "2000000")


def change_config(site: Site, most_bytes: str) -> None:
    topic = ConfigResource(ResourceType.TOPIC, site.name(DETECTIONS))
    topic.add_incremental_config(
        ConfigEntry("max.message.bytes", most_bytes, incremental_operation=AlterConfigOpType.SET)
    )
    admin = AdminClient({"bootstrap.servers": site.kafka})
    admin.incremental_alter_configs([topic])[topic].result(10)


def test_a_record_that_only_the_broker_finds_too_large_has_failed_and_keeps_its_place(
    site, detector, small_records
):
    stream = a_stream()
    noise = PERSON | {"noise": os.urandom(200_000).hex()}
    site.ai.behave(stream, lambda call: Reply(saw(noise if call.frame_id[-1] == "1" else PERSON)))
    for seq in range(4):
        site.publish(a_frame(stream, seq))
        eventually(partial(has_been_asked, site, stream, seq + 1))
    records = site.expect(stream, 4)
    assert [record.frame.seq for record in records] == [0, 1, 2, 3]
    assert (records[1].outcome, records[1].reason) == (Outcome.FAILED, "RECORD_TOO_LARGE")
    assert {records[at].outcome for at in (0, 2, 3)} == {Outcome.OK}


def test_all_that_was_published_poison_and_unlooked_at_too_is_committed_in_the_end(site, detector):
    site.publish(a_frame(a_stream(), 0, detect=False))
    eventually(site.is_all_committed)
    eventually(lambda: detector.metric("sightlog_detector_unaccounted_frames") == 0)


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
