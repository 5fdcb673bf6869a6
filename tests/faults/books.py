"""Evidence -> violations. Pure: it neither waits nor reads.

The rules are those of the architecture: a frame's outcome is its first `ok` record, else its first;
`seq` is gapless; records of a stream are in seq order, repeats aside; after the first record of an
epoch no lower one is `ok`; the rows are exactly the detections of each frame's first `ok` record.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple, TypeVar

from schemas.messages import Heartbeat, Ledger, Outcome
from schemas.tables import OUTCOME_CODES
from tests.faults.evidence import (
    Evidence,
    FrameKey,
    Partition,
    Place,
    SeenDetection,
    SeenFrame,
    SeenHeartbeat,
    SeenRecord,
    SeenStatus,
    StoredRow,
    StoredStatus,
)

FRAMES, DETECTIONS = "frames.v1", "detections.v1"
OK = OUTCOME_CODES[Outcome.OK]

Epoch = tuple[str, int]
"""A stream and an epoch of it."""

V = TypeVar("V")
K = TypeVar("K")


class Violation(NamedTuple):
    kind: str
    what: str
    at: tuple[Place, ...]

    def as_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "what": self.what, "at": [str(place) for place in self.at]}


@dataclass
class Verdict:
    streams: int = 0
    published: int = 0
    outcomes: dict[str, int] = field(default_factory=dict)
    repeats: int = 0
    unread: int = 0
    rows: int = 0
    violations: list[Violation] = field(default_factory=list)

    @property
    def passes(self) -> bool:
        return not self.violations


def judge(evidence: Evidence) -> Verdict:
    records = by_key(evidence.records, lambda record: record.key)
    published, unread = count_published(evidence, records)
    streams = {frame.key.stream_id for frame in evidence.frames}
    return Verdict(
        streams=len(streams | {key.stream_id for key in records}),
        published=published,
        outcomes=count_outcomes(evidence, records),
        repeats=sum(len(again) - 1 for again in records.values()),
        unread=unread,
        rows=len(evidence.rows),
        violations=[
            *frame_violations(evidence),
            *record_violations(evidence),
            *answer_violations(evidence, records),
            *needless_fences(evidence, records),
            *heartbeat_violations(evidence),
            *table_violations(evidence, records),
            *status_violations(evidence),
            *poison_violations(evidence),
        ],
    )


def by_key(values: Iterable[V], key: Callable[[V], K]) -> dict[K, list[V]]:
    groups: dict[K, list[V]] = defaultdict(list)
    for value in values:
        groups[key(value)].append(value)
    return dict(groups)


def fold(records: Sequence[SeenRecord]) -> SeenRecord | None:
    """The one that counts."""
    return next((one for one in records if one.outcome is Outcome.OK), next(iter(records), None))


# Counting


def first_seqs(evidence: Evidence) -> dict[Epoch, int]:
    """Of the epochs that are still in the topic, the first frame that is."""
    first: dict[Epoch, int] = {}
    for frame in evidence.frames:
        epoch = epoch_of(frame.key)
        first[epoch] = min(frame.key.seq, first.get(epoch, frame.key.seq))
    return first


def gone_frames(evidence: Evidence, records: Iterable[FrameKey]) -> list[FrameKey]:
    """Answered frames that retention has taken since."""
    if not was_touched(evidence, FRAMES):
        return []
    first = first_seqs(evidence)
    return [key for key in records if key.seq < first.get(epoch_of(key), key.seq + 1)]


def count_outcomes(
    evidence: Evidence, records: Mapping[FrameKey, Sequence[SeenRecord]]
) -> dict[str, int]:
    """Of the frames within the cut and of those that only records still tell of."""
    settled = {frame.key for frame in evidence.frames if evidence.is_settled(frame.at)}
    counted = (fold(records.get(key, ())) for key in settled.union(gone_frames(evidence, records)))
    found = Counter(str(record.outcome) for record in counted if record is not None)
    return {str(outcome): found[outcome] for outcome in Outcome}


def count_published(
    evidence: Evidence, records: Mapping[FrameKey, Sequence[SeenRecord]]
) -> tuple[int, int]:
    """Frames that got a number, and those of them that retention took before they were read."""
    settled = [frame for frame in evidence.frames if evidence.is_settled(frame.at)]
    epochs = by_key(settled, lambda frame: epoch_of(frame.key))
    answered = Counter(map(epoch_of, gone_frames(evidence, records)))
    undetected = undetected_totals(evidence)
    published = unread = 0
    for epoch, frames in epochs.items():
        lost = min(frame.key.seq for frame in frames)
        undetected_and_lost = undetected[epoch] - sum(not frame.detect for frame in frames)
        published += max(frame.key.seq for frame in frames) + 1
        unread += max(0, lost - answered[epoch] - max(0, undetected_and_lost))
    for epoch, total in gone_epochs(evidence, records).items():
        published += total
        unread += max(0, total - answered[epoch] - undetected[epoch])
    return published, unread


def undetected_totals(evidence: Evidence) -> Counter[Epoch]:
    totals: Counter[Epoch] = Counter()
    for _, heartbeat in evidence.heartbeats:
        epoch = heartbeat.stream_id, heartbeat.epoch
        totals[epoch] = max(totals[epoch], heartbeat.totals.undetected)
    return totals


def gone_epochs(evidence: Evidence, records: Iterable[FrameKey]) -> dict[Epoch, int]:
    """How many frames were published in epochs of which retention has taken every one."""
    if not was_touched(evidence, FRAMES):
        return {}
    first = first_seqs(evidence)
    told = [(epoch_of(key), key.seq + 1) for key in records]
    told += [
        ((heartbeat.stream_id, heartbeat.epoch), heartbeat.totals.published)
        for _, heartbeat in evidence.heartbeats
    ]
    totals: dict[Epoch, int] = {}
    for epoch, total in told:
        if epoch not in first:
            totals[epoch] = max(total, totals.get(epoch, 0))
    return totals


def was_touched(evidence: Evidence, topic: str) -> bool:
    """Whether retention has taken anything of it."""
    return any(begin > 0 for (name, _), begin in evidence.begins.items() if name == topic)


# Frames


def frame_violations(evidence: Evidence) -> Iterator[Violation]:
    yield from split_violations(evidence.frames)
    for frames in by_key(evidence.frames, lambda frame: epoch_of(frame.key)).values():
        if frames[0].key.seq > 0 and not evidence.retention_took(partition_of(frames[0].at)):
            yield Violation("SEQ_HOLE", f"{frames[0].key} is the first", (frames[0].at,))
        for frame in frames:
            if frame.captured != frame.dropped + frame.key.seq + 1:
                what = f"{frame.key}: captured {frame.captured}, dropped {frame.dropped}"
                yield Violation("CAPTURED_WRONG", what, (frame.at,))
        for before, frame in pairwise(frames):
            yield from pair_violations(before, frame)


def pair_violations(before: SeenFrame, frame: SeenFrame) -> Iterator[Violation]:
    """Two frames that follow one another in an epoch."""
    at = before.at, frame.at
    what = f"{frame.key} after {before.key.seq}"
    if frame.key.seq == before.key.seq:
        yield Violation("FRAME_DOUBLED", what, at)
    elif frame.key.seq < before.key.seq:
        yield Violation("FRAME_OUT_OF_ORDER", what, at)
    elif frame.key.seq > before.key.seq + 1:
        yield Violation("SEQ_HOLE", what, at)
    if frame.captured < before.captured or frame.dropped < before.dropped:
        yield Violation("TOTALS_SHRANK", f"{what}: captured or dropped fell", at)


def split_violations(seen: Iterable[SeenFrame] | Iterable[SeenRecord]) -> Iterator[Violation]:
    """A stream's key puts all it has into one partition."""
    home: dict[str, Place] = {}
    for one in seen:
        first = home.setdefault(one.key.stream_id, one.at)
        if first.partition != one.at.partition:
            yield Violation("STREAM_SPLIT", f"{one.key} is elsewhere", (first, one.at))
            return


# Records


def record_violations(evidence: Evidence) -> Iterator[Violation]:
    yield from split_violations(evidence.records)
    for record in evidence.records:
        for fault in record.faults:
            yield Violation(fault, str(record.key), (record.at,))
    for records in by_key(evidence.records, lambda record: record.key.stream_id).values():
        yield from order_violations(records)
        yield from fence_violations(records)


def order_violations(records: Iterable[SeenRecord]) -> Iterator[Violation]:
    """In seq order within an epoch, where a frame's repeats don't matter."""
    answered: set[FrameKey] = set()
    last: dict[int, SeenRecord] = {}
    for record in records:
        if record.key in answered:
            continue
        answered.add(record.key)
        before = last.get(record.key.epoch)
        if before is not None and record.key.seq < before.key.seq:
            what = f"{record.key} after {before.key.seq}"
            yield Violation("RECORD_OUT_OF_ORDER", what, (before.at, record.at))
        else:
            last[record.key.epoch] = record


def fence_violations(records: Iterable[SeenRecord]) -> Iterator[Violation]:
    highest: SeenRecord | None = None
    for record in records:
        if highest is None or record.key.epoch > highest.key.epoch:
            highest = record
        elif record.key.epoch < highest.key.epoch and record.outcome is Outcome.OK:
            what = f"{record.key} is ok after the first record of epoch {highest.key.epoch}"
            yield Violation("OK_AFTER_HIGHER_EPOCH", what, (highest.at, record.at))


def answer_violations(
    evidence: Evidence, records: Mapping[FrameKey, Sequence[SeenRecord]]
) -> Iterator[Violation]:
    """Frames without record, and records without frame."""
    frames = {frame.key: frame for frame in evidence.frames}
    for key, frame in frames.items():
        if frame.detect and key not in records and evidence.is_settled(frame.at):
            yield Violation("NO_OUTCOME", str(key), (frame.at,))
        if not frame.detect and key in records:
            at = frame.at, records[key][0].at
            yield Violation("NOT_TO_BE_DETECTED", str(key), at)
    gone = set(gone_frames(evidence, records))
    for key, answers in records.items():
        if key not in frames and key not in gone:
            yield Violation("RECORD_WITHOUT_FRAME", str(key), (answers[0].at,))


def needless_fences(
    evidence: Evidence, records: Mapping[FrameKey, Sequence[SeenRecord]]
) -> Iterator[Violation]:
    """A frame of the newest owner there ever was is not to be refused."""
    newest: dict[str, int] = {}
    for stream_id, epoch in known_epochs(evidence):
        newest[stream_id] = max(epoch, newest.get(stream_id, 0))
    for key, answers in records.items():
        counts = fold(answers)
        if counts and counts.outcome is Outcome.FENCED and key.epoch >= newest[key.stream_id]:
            yield Violation("FENCED_FOR_NOTHING", f"{key}: no epoch is higher", (counts.at,))


def known_epochs(evidence: Evidence) -> Iterator[Epoch]:
    yield from (epoch_of(frame.key) for frame in evidence.frames)
    yield from (epoch_of(record.key) for record in evidence.records)
    yield from ((status.stream_id, status.epoch) for status in evidence.statuses)


# Heartbeats


def heartbeat_violations(evidence: Evidence) -> Iterator[Violation]:
    last: dict[Epoch, int] = {}
    for frame in evidence.frames:
        last[epoch_of(frame.key)] = max(frame.key.seq, last.get(epoch_of(frame.key), 0))
    epochs = by_key(
        evidence.heartbeats, lambda seen: (seen.heartbeat.stream_id, seen.heartbeat.epoch)
    )
    for epoch, seen in epochs.items():
        for one in seen:
            yield from balance_violations(one)
            published = one.heartbeat.totals.published
            if epoch in last and published > last[epoch] + 1:
                what = f"{name_of(one.heartbeat)}: published {published}, last seq {last[epoch]}"
                yield Violation("HEARTBEAT_OVERCOUNTS", what, (one.at,))
        yield from window_violations(seen)


def balance_violations(seen: SeenHeartbeat) -> Iterator[Violation]:
    for which, ledger in (("window", seen.heartbeat.ledger), ("totals", seen.heartbeat.totals)):
        if not ledger.balances:
            what = f"{name_of(seen.heartbeat)}: {which} {counts_of(ledger)}"
            yield Violation("HEARTBEAT_UNBALANCED", what, (seen.at,))


def window_violations(seen: Sequence[SeenHeartbeat]) -> Iterator[Violation]:
    """The windows of an epoch add up to its totals."""
    for before, after in pairwise(seen):
        old, new = counts_of(before.heartbeat.totals), counts_of(after.heartbeat.totals)
        window = counts_of(after.heartbeat.ledger)
        if any(now != then + more for then, now, more in zip(old, new, window, strict=True)):
            what = f"{name_of(after.heartbeat)}: {old} + {window} is not {new}"
            yield Violation("HEARTBEAT_WINDOW", what, (before.at, after.at))


def name_of(heartbeat: Heartbeat) -> str:
    return f"{heartbeat.stream_id}/{heartbeat.epoch}"


def counts_of(ledger: Ledger) -> tuple[int, int, int, int]:
    """Captured, published, dropped, pending."""
    return ledger.captured, ledger.published, ledger.dropped.total, ledger.pending


# Tables


def table_violations(
    evidence: Evidence, records: Mapping[FrameKey, Sequence[SeenRecord]]
) -> Iterator[Violation]:
    for place in evidence.behind:
        yield Violation("PERSISTER_BEHIND", f"still at {place}", (place,))
    rows = by_key(evidence.rows, lambda row: row.key)
    for key, answers in records.items():
        yield from stored_violations(evidence, answers, rows.get(key, []))
    if was_touched(evidence, DETECTIONS):
        return  # rows outlive the records they came from
    for key in rows.keys() - records.keys():
        yield Violation("ROW_WITHOUT_RECORD", f"{key}: {len(rows[key])} rows", ())
    for key in evidence.codes.keys() - records.keys():
        yield Violation("CODE_WITHOUT_RECORD", f"{key}: code {evidence.codes[key]}", ())


def stored_violations(
    evidence: Evidence, answers: Sequence[SeenRecord], rows: Sequence[StoredRow]
) -> Iterator[Violation]:
    """Of one frame: code and rows are those of its records within the cut, or of some more."""
    key, at = answers[0].key, tuple(record.at for record in answers)
    code = evidence.codes.get(key, 0)
    settled = sum(evidence.is_settled(record.at) for record in answers)
    possible = [fold(answers[:count]) for count in range(settled, len(answers) + 1)]
    codes = {0 if record is None else OUTCOME_CODES[record.outcome] for record in possible}
    if code not in codes:
        yield Violation("CODE_WRONG", f"{key}: {code}, expected {sorted(codes)}", at)
        code = OK if OK in codes else 0
    first_ok = next((one for one in answers if one.outcome is Outcome.OK), None)
    expected = first_ok.detections if first_ok is not None and code == OK else ()
    for kind, what in row_faults(expected, rows):
        yield Violation(kind, f"{key}: {what}", at)


def row_faults(
    expected: Sequence[SeenDetection], rows: Sequence[StoredRow]
) -> Iterator[tuple[str, str]]:
    wanted = {detection.id: (place, detection) for place, detection in enumerate(expected)}
    counts = Counter(row.detection.id for row in rows)
    for id_ in wanted.keys() - counts.keys():
        yield "ROW_MISSING", f"detection {id_}"
    for id_ in counts.keys() - wanted.keys():
        yield "ROW_SURPLUS", f"row {id_}"
    for id_, count in counts.items():
        if count > 1:
            yield "ROW_DOUBLED", f"{count} rows {id_}"
    for row in rows:
        stored = row.position, row.detection
        if wanted.get(row.detection.id, stored) != stored:
            yield "ROW_DIFFERS", f"{stored}, expected {wanted[row.detection.id]}"


def status_violations(evidence: Evidence) -> Iterator[Violation]:
    """The newest status of each stream is in its table, or a newer one is."""
    for stream_id, seen in by_key(evidence.statuses, lambda status: status.stream_id).items():
        stored = evidence.stored_statuses.get(stream_id)
        last = {status.at.partition: status for status in seen if evidence.is_settled(status.at)}
        yield from status_faults(stream_id, last, seen, stored)


def status_faults(
    stream_id: str,
    last: Mapping[int, SeenStatus],
    seen: Sequence[SeenStatus],
    stored: StoredStatus | None,
) -> Iterator[Violation]:
    if stored is None:
        said = [status for status in last.values() if not status.is_tombstone]
        if said and not any(status.is_tombstone for status in seen):
            yield Violation("STATUS_MISSING", stream_id, (said[-1].at,))
        return
    newest = last.get(stored.partition)
    if newest is not None and stored.offset < newest.at.offset:
        what = f"{stream_id}: offset {stored.offset} of partition {stored.partition} is stored"
        yield Violation("STATUS_STALE", what, (newest.at,))


def poison_violations(evidence: Evidence) -> Iterator[Violation]:
    """What can't be read is in a dead letter."""
    for at in evidence.undecodable:
        if evidence.is_settled(at) and at not in evidence.buried:
            yield Violation("POISON_NOT_BURIED", str(at), (at,))


def epoch_of(key: FrameKey) -> Epoch:
    return key.stream_id, key.epoch


def partition_of(at: Place) -> Partition:
    return at.topic, at.partition
