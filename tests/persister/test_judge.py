"""The first ok record of a frame counts, else its first."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.messages import Outcome
from schemas.tables import OUTCOME_CODES, OUTCOMES_PER_BLOCK
from services.persister.judge import BlockKey, judge
from tests.persister.making import DOOR, EPOCH, record

BLOCK = (DOOR, EPOCH, 0)
records = st.lists(
    st.builds(
        lambda seq, outcome: record(seq, outcome=outcome),
        st.integers(0, 3),
        st.sampled_from(Outcome),
    ),
    max_size=12,
)


@pytest.mark.parametrize(
    ("outcomes", "counted"),
    [
        (["ok"], "ok"),
        (["failed", "ok"], "ok"),
        (["failed", "shed", "ok", "failed"], "ok"),
        (["shed", "failed"], "shed"),
        (["fenced", "fenced"], "fenced"),
    ],
)
def test_a_frames_outcome_is_its_first_ok_record_or_else_its_first(outcomes, counted):
    judgement = judge([record(7, outcome=Outcome(outcome)) for outcome in outcomes], {})
    assert judgement.blocks[BLOCK][7] == OUTCOME_CODES[counted]


def test_only_the_first_ok_record_gives_rows():
    first, second = record(0, "dog"), record(0, "cat")
    assert judge([first, second], {}).answered == [first]


def test_a_frame_that_is_known_to_be_ok_gives_no_rows_again():
    known = judge([record(0, "dog")], {}).blocks
    judgement = judge([record(0, "dog")], known)
    assert (judgement.answered, judgement.blocks, judgement.repeats) == ([], {}, 1)


def test_the_last_seq_of_a_block_and_the_first_of_the_next_are_kept_apart():
    blocks = judge([record(OUTCOMES_PER_BLOCK - 1), record(OUTCOMES_PER_BLOCK)], {}).blocks
    assert blocks[BLOCK][OUTCOMES_PER_BLOCK - 1] == OUTCOME_CODES["ok"]
    assert blocks[DOOR, EPOCH, 1][0] == OUTCOME_CODES["ok"]
    assert all(len(codes) == OUTCOMES_PER_BLOCK for codes in blocks.values())


@given(records, st.lists(st.integers(0, 12), max_size=4))
def test_folding_a_batch_in_again_from_any_earlier_point_changes_nothing(log, restarts):
    whole = judge(log, {})
    blocks: dict[BlockKey, bytes] = {}
    answered = []
    position = 0
    for back in [0, *restarts, len(log)]:
        begin, end = min(back, position), max(position, min(back + 3, len(log)))
        judgement = judge(log[begin:end], blocks)
        blocks |= judgement.blocks
        answered += judgement.answered
        position = end
    judgement = judge(log[position:], blocks)
    assert blocks | judgement.blocks == whole.blocks
    assert answered + judgement.answered == whole.answered
