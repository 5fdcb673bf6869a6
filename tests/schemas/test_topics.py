import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

import schemas
from schemas import messages
from schemas.messages import Clock, Frame, now
from schemas.topics import (
    DEAD_LETTERS,
    DETECTIONS,
    FRAMES,
    HEARTBEATS,
    LARGEST_DEAD_PAYLOAD,
    STREAM_STATUS,
    TOPICS,
    DecodeError,
    Origin,
    Topic,
    dead_letter,
    origin_headers,
)
from services.process.redact import redact

EXAMPLES = Path(schemas.__file__).parent / "examples"
TRACE = "00-11111111111111111111111111111111-2222222222222222-01"


def examples(topic: Topic[Any]) -> list[tuple[bytes, list[tuple[str, bytes]]]]:
    values = sorted(EXAMPLES.joinpath(topic.name).glob("*.jpg" if topic.jpeg else "*.json"))
    return [(value.read_bytes(), headers_beside(value)) for value in values]


def headers_beside(value: Path) -> list[tuple[str, bytes]]:
    facts = json.loads(value.with_suffix(".headers").read_text())
    return [(name, fact.encode()) for name, fact in facts.items()]


def holds(whole: dict[str, Any], part: dict[str, Any]) -> bool:
    """Fields may have been added since, never changed."""
    return all(name in whole and whole[name] == fact for name, fact in part.items())


@pytest.mark.parametrize("topic", TOPICS, ids=lambda topic: topic.name)
def test_every_message_ever_sent_still_reads_and_keeps_its_meaning(topic: Topic[Any]) -> None:
    stored = examples(topic)
    assert stored, "a topic without an example has no contract"
    for value, headers in stored:
        message = topic.decode(value, headers)
        again = topic.encode(message)
        if topic.jpeg:
            assert again == value
        else:
            assert holds(json.loads(again), json.loads(value))
        sent = dict(topic.headers(message, "sightlog/ingestor/ingestor-1", TRACE))
        # when a spec was published is the one fact that is not the message's own
        moment = {"ce_time"} if topic.name == "streams.v1" else set()
        kept = {name: fact for name, fact in headers if name not in moment}
        assert kept.items() <= sent.items()


@pytest.mark.parametrize("topic", TOPICS, ids=lambda topic: topic.name)
def test_a_field_nobody_knows_yet_is_ignored(topic: Topic[Any]) -> None:
    value, headers = examples(topic)[0]
    message = topic.decode(value, headers)
    if topic.jpeg:
        assert topic.decode(value, [*headers, ("novelty", b"1")]) == message
    else:
        assert topic.decode(value[:-1] + b',"novelty":{"a":[1]}}', headers) == message


@pytest.mark.parametrize("topic", TOPICS, ids=lambda topic: topic.name)
@pytest.mark.parametrize(
    "value",
    [None, b"", b"{", b"\xff\xfe", b"[]", b"null", b'{"streamId":1}', b"[" * 100_000],
    ids=["none", "empty", "cut", "bytes", "list", "null", "wrong", "deep"],
)
def test_bytes_that_are_not_the_message_are_refused(topic: Topic[Any], value: bytes | None) -> None:
    with pytest.raises(DecodeError, match=topic.name) as refused:
        topic.decode(value, [])
    assert refused.value.reason in {"EMPTY", "NOT_JSON", "WRONG_SHAPE", "MISSING_HEADER"}


@pytest.mark.parametrize(
    "header",
    [
        ("detect", b"perhaps"),
        ("epoch", b"x"),
        ("seq", b"-1"),
        ("ce_time", b"noon"),
        ("minconf", b"nan"),
        ("clock", b"a;b;c"),
        ("epoch", str(2**53 + 1).encode()),
        ("width", b"65536"),
        ("ce_time", b"2026-11-22T12:00:00.5"),
        ("ce_time", b"0001-01-01T00:00:00+14:00"),
        ("ce_time", b"9999-12-31T23:59:59-14:00"),
    ],
    ids=str,
)
def test_a_frame_with_a_wrong_header_is_refused(header: tuple[str, bytes]) -> None:
    value, headers = examples(FRAMES)[0]
    with pytest.raises(DecodeError, match="WRONG_SHAPE"):
        FRAMES.decode(value, [*headers, header])


def test_times_on_the_wire_always_have_six_digits() -> None:
    whole = messages.from_unix_us(1_795_348_800_000_000)
    frame = Frame(stream_id="s", epoch=1, seq=0, captured_at=whole, width=1, height=1)
    facts = dict(FRAMES.headers(frame, "x", TRACE))
    assert facts["ce_time"] == b"2026-11-22T12:00:00.000001Z"
    assert now().microsecond


@pytest.mark.parametrize("offset_ms", [-12.5, 10_800_000.123, -1_795_348_800_123.5])
def test_however_far_a_cameras_clock_is_off_it_is_told_exactly(offset_ms: float) -> None:
    clock = Clock(offset_ms=offset_ms)
    frame = Frame(stream_id="s", epoch=1, seq=0, captured_at=now(), width=1, height=1, clock=clock)
    assert FRAMES.decode(b"jpeg", list(FRAMES.headers(frame, "x", TRACE))).clock == clock


def test_a_snapshots_file_name_tells_when_and_which_frame() -> None:
    at = messages.from_unix_us(1_795_348_800_250_001)
    assert messages.snapshot_filename(at, 7, 41) == "20261122T120000250001Z_7_41.jpg"


def test_ids_of_a_redelivered_frame_are_the_same() -> None:
    frame = messages.frame_id("s", 1, 2)
    assert messages.detection_id(frame, 0) == messages.detection_id(frame, 0)
    assert messages.detection_id(frame, 0) != messages.detection_id(frame, 1)
    assert str(messages.detection_id("s/1/2", 0)) == "68cd6865-34b6-5830-87f7-cda5d8c41a07"


def test_a_dead_letter_keeps_a_small_payload_and_the_sum_of_a_large_one() -> None:
    def letter(value: bytes) -> messages.DeadLetter:
        origin = Origin("t", 0, 1, 1_795_348_800_250, b"\xff", value, [])
        return dead_letter(origin, "EMPTY", "e" * 5000, "detector", str)

    assert letter(b"ab").payload == "YWI="
    large = letter(b"x" * LARGEST_DEAD_PAYLOAD)
    assert (large.payload, large.size, len(large.error)) == (None, LARGEST_DEAD_PAYLOAD, 1000)


@pytest.mark.parametrize(
    "time", ["2026-11-22T12:00:00.5", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59Z"]
)
@pytest.mark.parametrize(
    ("topic", "field"),
    [(DETECTIONS, b"capturedAt"), (HEARTBEATS, b"at"), (STREAM_STATUS, b"since")],
    ids=lambda value: getattr(value, "name", value),
)
def test_a_time_without_offset_or_beyond_all_clocks_is_refused(
    topic: Topic[Any], field: bytes, time: str
) -> None:
    value, _ = examples(topic)[0]
    planted = re.sub(b'"%s":"[^"]*"' % field, b'"%s":"%s"' % (field, time.encode()), value)
    assert planted != value
    with pytest.raises(DecodeError, match="WRONG_SHAPE"):
        topic.decode(planted)


def test_a_number_that_its_column_cannot_hold_is_refused() -> None:
    value, _ = examples(DETECTIONS)[0]
    planted = value.replace(b'"classId":0', b'"classId":2147483648')
    assert planted != value
    with pytest.raises(DecodeError, match="WRONG_SHAPE"):
        DETECTIONS.decode(planted)


SECRETS = [
    b'{"url":"rtsp://feeder:p0is0n@cam/door","fps":5}',
    b'{"url":"rtsp://feeder:p0is0n@cam/do',
    b'{"url":"rtsp://feeder:p0is0n',
    b"\xff\xfe rtsp://feeder:p0is0n@cam \x00\xc3",
    b'{"username":"feeder","password":"p0is0n"}',
]


@pytest.mark.parametrize("value", SECRETS)
def test_a_dead_letter_keeps_no_secret_in_any_part(value: bytes) -> None:
    text = value.decode(errors="replace")
    headers = [("source", value), ("password", b"p0is0n"), ("x rtsp://feeder:p0is0n@cam", b"1")]
    origin = Origin("t", 0, 1, None, b"k" * 2000 + value, value, headers)
    letter = dead_letter(origin, "WRONG_SHAPE", "e" * 980 + text, "persister", redact)
    said = [letter, *origin_headers(origin, redact), base64.b64decode(letter.payload or "")]
    assert "p0is0n" not in str(said)
    assert (letter.sha256, letter.size) == (hashlib.sha256(value).hexdigest(), len(value))


@pytest.mark.parametrize("value", [b"\xff\xd8 no text at all \xc3", b'{"fps": "ten"}', b""])
def test_a_dead_letter_without_a_secret_is_what_it_was(value: bytes) -> None:
    origin = Origin("t", 0, 1, None, b"key", value, [("ce_id", value)])
    letter = dead_letter(origin, "NOT_JSON", "why", "persister", redact)
    assert base64.b64decode(letter.payload or "") == value
    assert (letter.key, letter.error) == ("key", "why")
    assert origin_headers(origin, redact) == [("origin_ce_id", value)]


def test_a_dead_letter_of_the_largest_message_fits_into_one() -> None:
    headers = [(f"h{number}", b"\xff" * 10_000) for number in range(100)]
    key, value = b"\xff" * 1_900_000, b"\x00" * (LARGEST_DEAD_PAYLOAD - 1)
    origin = Origin("t" * 249, 0, 1, 10**18, key, value, headers)
    letter = dead_letter(origin, "NOT_JSON", "e" * 10_000, "persister", redact)
    said = [*DEAD_LETTERS.headers(letter, "x", TRACE), *origin_headers(origin, redact)]
    size = len(DEAD_LETTERS.encode(letter)) + len(DEAD_LETTERS.key(letter) or b"")
    assert size + sum(len(name) + len(fact) for name, fact in said) < 256 * 1024
    assert letter.timestamp is None


def test_records_can_be_chosen_by_header_alone() -> None:
    value, _ = examples(DETECTIONS)[0]
    sent = dict(DETECTIONS.headers(DETECTIONS.decode(value), "x", TRACE))
    assert (sent["outcome"], sent["count"]) == (b"ok", b"1")
