"""Records and what is known of their frames -> what counts.

A frame's outcome is its first `ok` record in partition order, or, if it has none, its first record.
Folding the same records in again changes nothing: after an `ok` no record counts, and a record that
is not `ok` counts only where there is none yet.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from schemas.messages import DetectionRecord
from schemas.tables import OUTCOME_CODES, OUTCOMES_PER_BLOCK

BlockKey = tuple[str, int, int]
"""Stream, epoch, block."""

NONE_YET = 0
OK = OUTCOME_CODES["ok"]


@dataclass
class Judgement:
    blocks: dict[BlockKey, bytes] = field(default_factory=dict)  # those that changed
    answered: list[DetectionRecord] = field(default_factory=list)  # whose detections become rows
    outcomes: Counter[str] = field(default_factory=Counter)
    repeats: int = 0


def block_of(record: DetectionRecord) -> BlockKey:
    return record.stream_id, record.frame.epoch, record.frame.seq // OUTCOMES_PER_BLOCK


def judge(records: Iterable[DetectionRecord], blocks: Mapping[BlockKey, bytes]) -> Judgement:
    """`records` in partition order; `blocks`: the stored ones of theirs."""
    changed: dict[BlockKey, bytearray] = {}
    judgement = Judgement()
    for record in records:
        key, at = block_of(record), record.frame.seq % OUTCOMES_PER_BLOCK
        codes = changed.get(key) or blocks.get(key) or bytes(OUTCOMES_PER_BLOCK)
        code = OUTCOME_CODES[record.outcome]
        if not counts(code, codes[at]):
            judgement.repeats += 1
            continue
        changed.setdefault(key, bytearray(codes))[at] = code
        judgement.outcomes[record.outcome] += 1
        if code == OK:
            judgement.answered.append(record)
    judgement.blocks = {key: bytes(codes) for key, codes in changed.items()}
    return judgement


def counts(code: int, known: int) -> bool:
    return known == NONE_YET or (code == OK and known != OK)
