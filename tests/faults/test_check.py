"""The checker sees each kind of violation, planted in books that balance, and only that one."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from confluent_kafka import Producer

from schemas.messages import (
    Box,
    Detection,
    DetectionRecord,
    Dropped,
    Frame,
    FrameFacts,
    Heartbeat,
    Ledger,
    Outcome,
    detection_id,
    frame_id,
)
from schemas.tables import OUTCOME_CODES
from schemas.topics import DETECTIONS, FRAMES, PRODUCER_OF_FACTS
from tests.faults.books import Verdict, judge
from tests.faults.check import as_json, check
from tests.faults.evidence import (
    Evidence,
    FrameKey,
    Place,
    SeenDetection,
    SeenFrame,
    SeenHeartbeat,
    SeenRecord,
    SeenStatus,
    StoredRow,
    StoredStatus,
)
from tests.faults.gather import Stack, record_faults

DOOR, YARD = "01KAN0T5D3W8Y7R2Q4V6X9Z1BA", "01KAN0T5D3W8Y7R2Q4V6X9Z1BB"
NOON = datetime(2026, 11, 22, 12, 0, 0, 1, tzinfo=UTC)
OLD, NEW = 1000, 2000
HOMES = {DOOR: 0, YARD: 1}
FRAMES_OF_AN_EPOCH = 6


class Log:
    """Books in the making: each message gets the next offset of its stream's partition."""

    def __init__(self) -> None:
        self.evidence = Evidence()
        self._next: dict[tuple[str, int], int] = {}

    def place(self, topic: str, stream_id: str) -> Place:
        partition = HOMES[stream_id]
        offset = self._next.get((topic, partition), 0)
        self._next[topic, partition] = offset + 1
        return Place(topic, partition, offset)

    def frame(self, key: FrameKey, detect: bool = True) -> None:
        """Each second picture is dropped by the fps limit."""
        at = self.place("frames.v1", key.stream_id)
        dropped = key.seq
        self.evidence.frames.append(SeenFrame(at, key, dropped + key.seq + 1, dropped, detect))

    def record(self, key: FrameKey, outcome: Outcome, *labels: str) -> None:
        at = self.place("detections.v1", key.stream_id)
        seen = tuple(self.detection(key, place, label) for place, label in enumerate(labels))
        self.evidence.records.append(SeenRecord(at, key, outcome, seen))

    @staticmethod
    def detection(key: FrameKey, place: int, label: str) -> SeenDetection:
        captured_at = NOON + timedelta(milliseconds=key.epoch + key.seq)
        return SeenDetection(detection_id(frame_id(*key), place), label, 0.75, captured_at)

    def store(self, key: FrameKey, outcome: Outcome, *labels: str) -> None:
        self.evidence.codes[key] = OUTCOME_CODES[outcome]
        for place, label in enumerate(labels):
            self.evidence.rows.append(StoredRow(key, place, self.detection(key, place, label)))

    def heartbeat(self, stream_id: str, epoch: int, published: int, since: int) -> None:
        def ledger(count: int) -> Ledger:
            return Ledger(
                captured=2 * count + 1, published=count, dropped=Dropped(fps_limit=count), pending=1
            )

        totals, before = ledger(published), ledger(since)
        window = totals
        if since:
            window = Ledger(
                captured=totals.captured - before.captured,
                published=published - since,
                dropped=Dropped(fps_limit=published - since),
            )
        at = self.place("heartbeats.v1", stream_id)
        self.evidence.heartbeats.append(
            SeenHeartbeat(
                at,
                Heartbeat(
                    stream_id=stream_id,
                    epoch=epoch,
                    at=NOON,
                    window_s=10,
                    ledger=window,
                    totals=totals,
                ),
            )
        )

    def status(self, stream_id: str) -> None:
        at = self.place("stream-status.v1", stream_id)
        self.evidence.statuses.append(SeenStatus(at, stream_id, is_tombstone=False))
        self.evidence.stored_statuses[stream_id] = StoredStatus(at.partition, at.offset)


def balanced() -> Evidence:
    """Two streams, each in two epochs, with every harmless thing that deaths leave behind."""
    log = Log()
    for stream_id in (DOOR, YARD):
        for epoch in (OLD, NEW):
            log.status(stream_id)
            keys = [FrameKey(stream_id, epoch, seq) for seq in range(FRAMES_OF_AN_EPOCH)]
            for key in keys:
                log.frame(key)
            log.heartbeat(stream_id, epoch, 3, 0)
            log.heartbeat(stream_id, epoch, 6, 3)
            log.record(keys[0], Outcome.OK, "dog", "cat")
            log.record(keys[1], Outcome.FAILED)
            log.record(keys[2], Outcome.SHED)
            log.record(keys[1], Outcome.OK, "dog")  # redelivered after a death
            log.record(keys[2], Outcome.OK)
            log.record(keys[0], Outcome.OK, "ghost")
            log.record(keys[3], Outcome.EXPIRED)
            log.record(keys[3], Outcome.FAILED)
            log.record(keys[4], Outcome.OK, "person")
            log.record(keys[5], Outcome.REJECTED)
            log.store(keys[0], Outcome.OK, "dog", "cat")
            log.store(keys[1], Outcome.OK, "dog")
            log.store(keys[2], Outcome.OK)
            log.store(keys[3], Outcome.EXPIRED)
            log.store(keys[4], Outcome.OK, "person")
            log.store(keys[5], Outcome.REJECTED)
        log.record(FrameKey(stream_id, OLD, 5), Outcome.FENCED)  # a zombie's, answered late
    return log.evidence


def frame_at(evidence: Evidence, key: FrameKey) -> int:
    return next(place for place, frame in enumerate(evidence.frames) if frame.key == key)


def record_at(evidence: Evidence, key: FrameKey) -> int:
    return next(place for place, record in enumerate(evidence.records) if record.key == key)


def kinds(verdict: Verdict) -> list[str]:
    return sorted({violation.kind for violation in verdict.violations})


def test_books_that_balance_pass_and_are_counted():
    verdict = judge(balanced())
    assert verdict.violations == []
    assert json.loads(as_json(verdict)) == {
        "streams": 2,
        "published": 24,
        "outcomes": {"ok": 16, "shed": 0, "expired": 4, "failed": 0, "rejected": 4, "fenced": 0},
        "repeats": 18,
        "unread": 0,
        "rows": 16,
        "violations": [],
        "pass": True,
    }


KEY = FrameKey(DOOR, OLD, 4)
Plant = Callable[[Evidence], None]


def lose_record(evidence: Evidence) -> None:
    evidence.records = [record for record in evidence.records if record.key != KEY]
    evidence.rows = [row for row in evidence.rows if row.key != KEY]
    del evidence.codes[KEY]


def lose_frame(evidence: Evidence) -> None:
    evidence.frames = [frame for frame in evidence.frames if frame.key != KEY]


def lose_last_frame(evidence: Evidence) -> None:
    lost = KEY._replace(seq=5)
    evidence.frames = [frame for frame in evidence.frames if frame.key != lost]


def lose_first_frame(evidence: Evidence) -> None:
    lost = KEY._replace(seq=0)
    evidence.frames = [frame for frame in evidence.frames if frame.key != lost]


def double_frame(evidence: Evidence) -> None:
    at = frame_at(evidence, KEY)
    evidence.frames.insert(at + 1, evidence.frames[at])


def swap_frames(evidence: Evidence) -> None:
    at = frame_at(evidence, KEY)
    evidence.frames[at : at + 2] = reversed(evidence.frames[at : at + 2])


def swap_records(evidence: Evidence) -> None:
    at = record_at(evidence, KEY)
    evidence.records[at : at + 2] = reversed(evidence.records[at : at + 2])


def change_captured(evidence: Evidence) -> None:
    at = frame_at(evidence, KEY)
    evidence.frames[at] = evidence.frames[at]._replace(captured=99)


def shrink_dropped(evidence: Evidence) -> None:
    at = frame_at(evidence, KEY)
    evidence.frames[at] = evidence.frames[at]._replace(dropped=0, captured=5)


def move_frame_to_another_partition(evidence: Evidence) -> None:
    at = frame_at(evidence, KEY)
    place = evidence.frames[at].at._replace(partition=3)
    evidence.frames[at] = evidence.frames[at]._replace(at=place)


def answer_old_epoch_late(evidence: Evidence) -> None:
    at = Place("detections.v1", 0, 999)
    evidence.records.append(SeenRecord(at, KEY._replace(seq=5), Outcome.OK, ()))
    evidence.codes[KEY._replace(seq=5)] = OUTCOME_CODES["ok"]


def answer_what_was_not_to_be_detected(evidence: Evidence) -> None:
    at = frame_at(evidence, KEY)
    evidence.frames[at] = evidence.frames[at]._replace(detect=False)


def unbalance_heartbeat(evidence: Evidence) -> None:
    at, heartbeat = evidence.heartbeats[0]
    totals = Ledger(captured=99, published=3, dropped=Dropped(fps_limit=3), pending=1)
    evidence.heartbeats[0] = SeenHeartbeat(
        at,
        Heartbeat(
            stream_id=DOOR, epoch=OLD, at=NOON, window_s=10, ledger=heartbeat.ledger, totals=totals
        ),
    )
    del evidence.heartbeats[1]


def lose_heartbeat(evidence: Evidence) -> None:
    extra = Log()
    extra.heartbeat(DOOR, OLD, 4, 2)
    evidence.heartbeats.insert(1, extra.evidence.heartbeats[0])
    del evidence.heartbeats[2]


def overcount_heartbeat(evidence: Evidence) -> None:
    extra = Log()
    extra.heartbeat(DOOR, OLD, 7, 3)
    evidence.heartbeats[1] = extra.evidence.heartbeats[0]


def lose_row(evidence: Evidence) -> None:
    evidence.rows = [row for row in evidence.rows if row.key != KEY]


def double_row(evidence: Evidence) -> None:
    evidence.rows.append(next(row for row in evidence.rows if row.key == KEY))


def add_row_of_repeat(evidence: Evidence) -> None:
    key = KEY._replace(seq=0)
    evidence.rows.append(StoredRow(key, 2, Log.detection(key, 2, "ghost")))


def change_row(evidence: Evidence) -> None:
    at = next(place for place, row in enumerate(evidence.rows) if row.key == KEY)
    row = evidence.rows[at]
    evidence.rows[at] = row._replace(detection=row.detection._replace(label="ghost"))


def store_what_nobody_said(evidence: Evidence) -> None:
    key = FrameKey(DOOR, NEW, 77)
    evidence.rows.append(StoredRow(key, 0, Log.detection(key, 0, "ghost")))


def code_what_nobody_said(evidence: Evidence) -> None:
    evidence.codes[FrameKey(DOOR, NEW, 77)] = 2


def keep_first_code(evidence: Evidence) -> None:
    evidence.codes[KEY._replace(seq=2)] = OUTCOME_CODES["shed"]


def forget_code(evidence: Evidence) -> None:
    del evidence.codes[KEY._replace(seq=3)]


def lose_status(evidence: Evidence) -> None:
    del evidence.stored_statuses[DOOR]


def keep_old_status(evidence: Evidence) -> None:
    evidence.stored_statuses[DOOR] = StoredStatus(0, 0)


def fall_behind(evidence: Evidence) -> None:
    evidence.behind.append(Place("detections.v1", 0, 3))


def move_box(evidence: Evidence) -> None:
    at = next(place for place, row in enumerate(evidence.rows) if row.key == KEY)
    row = evidence.rows[at]
    moved = row.detection._replace(box=(1.0, 0.0, 0.0, 0.0))
    evidence.rows[at] = row._replace(detection=moved)


def fence_the_newest_owner(evidence: Evidence) -> None:
    key = FrameKey(DOOR, NEW, 5)
    at = record_at(evidence, key)
    evidence.records[at] = evidence.records[at]._replace(outcome=Outcome.FENCED)
    evidence.codes[key] = OUTCOME_CODES["fenced"]


def leave_poison_unburied(evidence: Evidence) -> None:
    evidence.undecodable.append(Place("frames.v1", 0, 99))


@pytest.mark.parametrize(
    ("plant", "kind"),
    [
        (lose_record, "NO_OUTCOME"),
        (lose_frame, "SEQ_HOLE"),
        (lose_first_frame, "SEQ_HOLE"),
        (lose_last_frame, "RECORD_WITHOUT_FRAME"),
        (double_frame, "FRAME_DOUBLED"),
        (swap_frames, "FRAME_OUT_OF_ORDER"),
        (swap_records, "RECORD_OUT_OF_ORDER"),
        (change_captured, "CAPTURED_WRONG"),
        (shrink_dropped, "TOTALS_SHRANK"),
        (move_frame_to_another_partition, "STREAM_SPLIT"),
        (answer_old_epoch_late, "OK_AFTER_HIGHER_EPOCH"),
        (answer_what_was_not_to_be_detected, "NOT_TO_BE_DETECTED"),
        (unbalance_heartbeat, "HEARTBEAT_UNBALANCED"),
        (lose_heartbeat, "HEARTBEAT_WINDOW"),
        (overcount_heartbeat, "HEARTBEAT_OVERCOUNTS"),
        (lose_row, "ROW_MISSING"),
        (double_row, "ROW_DOUBLED"),
        (add_row_of_repeat, "ROW_SURPLUS"),
        (change_row, "ROW_DIFFERS"),
        (store_what_nobody_said, "ROW_WITHOUT_RECORD"),
        (code_what_nobody_said, "CODE_WITHOUT_RECORD"),
        (keep_first_code, "CODE_WRONG"),
        (forget_code, "CODE_WRONG"),
        (lose_status, "STATUS_MISSING"),
        (keep_old_status, "STATUS_STALE"),
        (fall_behind, "PERSISTER_BEHIND"),
        (move_box, "ROW_DIFFERS"),
        (fence_the_newest_owner, "FENCED_FOR_NOTHING"),
        (leave_poison_unburied, "POISON_NOT_BURIED"),
    ],
)
def test_a_planted_violation_is_named_with_its_place(plant: Plant, kind: str):
    evidence = balanced()
    plant(evidence)
    verdict = judge(evidence)
    assert kind in kinds(verdict)
    assert set(kinds(verdict)) - {kind} <= ALSO.get(plant.__name__, set())
    assert not verdict.passes
    shown = next(one for one in verdict.violations if one.kind == kind)
    assert shown.at or kind.endswith("_WITHOUT_RECORD")


ALSO = {  # one fault may break two rules
    "lose_frame": {"RECORD_WITHOUT_FRAME"},
    "lose_first_frame": {"RECORD_WITHOUT_FRAME"},
    "lose_last_frame": {"HEARTBEAT_OVERCOUNTS"},
    "swap_frames": {"SEQ_HOLE", "TOTALS_SHRANK"},
    "change_captured": {"TOTALS_SHRANK"},
    "overcount_heartbeat": {"HEARTBEAT_WINDOW"},
}


def test_a_head_that_retention_took_is_unread_and_no_violation():
    evidence = balanced()
    evidence.begins["frames.v1", 0] = 4
    evidence.frames = [
        frame for frame in evidence.frames if frame.key[:2] != (DOOR, OLD) or frame.key.seq >= 4
    ]
    unanswered = FrameKey(DOOR, OLD, 3)
    evidence.records = [record for record in evidence.records if record.key != unanswered]
    del evidence.codes[unanswered]
    verdict = judge(evidence)
    assert verdict.violations == []
    assert (verdict.published, verdict.unread, sum(verdict.outcomes.values())) == (24, 1, 23)


def test_an_epoch_of_which_nothing_is_left_is_counted_by_its_records_and_heartbeats():
    evidence = balanced()
    evidence.begins["frames.v1", 0] = 6
    evidence.frames = [frame for frame in evidence.frames if frame.key[:2] != (DOOR, OLD)]
    lost = FrameKey(DOOR, OLD, 5)
    evidence.records = [record for record in evidence.records if record.key != lost]
    del evidence.codes[lost]
    verdict = judge(evidence)
    assert verdict.violations == []
    assert (verdict.published, verdict.unread, sum(verdict.outcomes.values())) == (24, 1, 23)


def test_what_a_live_stack_did_after_the_cut_is_no_violation():
    evidence = balanced()
    evidence.cut = {("frames.v1", 0): 10, ("detections.v1", 0): 12}
    late = FrameKey(DOOR, NEW, 5)  # published after the cut, not answered yet
    evidence.records = [record for record in evidence.records if record.key != late]
    del evidence.codes[late]
    evidence.rows = [row for row in evidence.rows if row.key != FrameKey(DOOR, NEW, 4)]
    del evidence.codes[FrameKey(DOOR, NEW, 4)]  # answered after the cut, not stored yet
    verdict = judge(evidence)
    assert verdict.violations == []
    assert verdict.published == 12 + 6 + 4


def test_poison_in_a_dead_letter_and_a_fence_before_a_status_are_no_violations():
    evidence = balanced()
    leave_poison_unburied(evidence)
    evidence.buried.add(Place("frames.v1", 0, 99))
    fence_the_newest_owner(evidence)
    at = Place("stream-status.v1", 0, 99)
    evidence.statuses.append(SeenStatus(at, DOOR, is_tombstone=False, epoch=NEW + 1))
    evidence.stored_statuses[DOOR] = StoredStatus(0, 99)
    assert judge(evidence).violations == []


def test_a_frame_that_became_ok_after_the_cut_is_stored_as_either():
    evidence = balanced()
    failed = FrameKey(DOOR, OLD, 1)
    again = record_at(evidence, failed) + 2
    assert evidence.records[again].key == failed
    evidence.cut = {("detections.v1", 0): evidence.records[again].at.offset}
    assert judge(evidence).violations == []
    evidence.codes[failed] = OUTCOME_CODES["failed"]
    assert kinds(judge(evidence)) == ["ROW_SURPLUS"]
    evidence.rows = [row for row in evidence.rows if row.key != failed]
    assert judge(evidence).violations == []


def a_record(**changes) -> DetectionRecord:
    frame = frame_id(DOOR, OLD, 0)
    box = Box(x=0, y=0, width=1, height=1)
    seen = Detection(
        id=detection_id(frame, 0),
        label="dog",
        confidence=0.75,
        bounding_box=box,
        normalized_box=box,
    )
    facts = FrameFacts(id=frame, epoch=OLD, seq=0, width=2, height=2, captured_at=NOON)
    parts: dict[str, Any] = {
        "record_id": frame,
        "stream_id": DOOR,
        "frame": facts,
        "outcome": Outcome.OK,
        "detected_at": NOON,
        "detections": (seen,),
    }
    return DetectionRecord(**parts | changes)


@pytest.mark.parametrize(
    ("record", "facts", "faults"),
    [
        (a_record(), {"outcome": "ok", "count": "1"}, []),
        (a_record(), {"outcome": "ok", "count": "2"}, ["HEADERS_DIFFER"]),
        (a_record(), {}, ["HEADERS_DIFFER"]),
        (a_record(record_id="other"), {"outcome": "ok", "count": "1"}, ["ID_WRONG"]),
        (
            a_record(outcome=Outcome.SHED),
            {"outcome": "shed", "count": "1"},
            ["DETECTIONS_BUT_NOT_OK"],
        ),
    ],
)
def test_a_record_is_judged_by_itself_too(record, facts, faults):
    assert list(record_faults(record, facts)) == faults


def test_a_real_stack_is_read_and_its_missing_row_and_frame_are_found(
    kafka, topic_prefix, database_url
):
    """Topics and tables as a stack without its persister would leave them."""
    producer = Producer({"bootstrap.servers": kafka, "log_level": 0} | PRODUCER_OF_FACTS)

    def send(topic, message):
        headers = topic.headers(message, "sightlog/test/1", "")
        value, key = topic.encode(message), topic.key(message)
        producer.produce(topic.named(topic_prefix), value, key=key, headers=headers)

    for seq in range(500):
        frame = Frame(
            stream_id=DOOR,
            epoch=OLD,
            seq=seq,
            captured_at=NOON,
            width=2,
            height=2,
            captured=seq + 1,
            jpeg=b"\xff\xd8",
        )
        send(FRAMES, frame)
    send(DETECTIONS, a_record())
    producer.produce(FRAMES.named(topic_prefix), b"no frame", key=DOOR.encode())
    producer.flush(10)
    with psycopg.connect(database_url) as connection:
        connection.execute(
            "INSERT INTO outcomes VALUES (%s, %s, 0, %s)", [DOOR, OLD, b"\x01" + bytes(1023)]
        )

    verdict = check(Stack(kafka, topic_prefix, database_url), grace_s=0.5)

    assert verdict.published == 500
    assert kinds(verdict) == [
        *("NO_OUTCOME", "PERSISTER_BEHIND", "POISON_NOT_BURIED", "ROW_MISSING")
    ]
    assert sum(one.kind == "NO_OUTCOME" for one in verdict.violations) == 499
    row = next(one for one in verdict.violations if one.kind == "ROW_MISSING")
    assert "detections.v1[" in row.as_json()["at"][0]
    for streams, published in (([YARD], 0), ([YARD, DOOR], 500)):
        of_these = check(Stack(kafka, topic_prefix, database_url), streams, grace_s=0.5)
        assert of_these.published == published
