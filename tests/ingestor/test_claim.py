"""Epochs and the proof that comes before them."""

import time

from services.ingestor.claim import ANSWER_WITHIN_S, PROOF_LASTS_S, Membership, next_epoch


class Clock:
    """Stands until it is moved, also over a sleep that nobody felt."""

    def __init__(self):
        self.now_s = 1000.0

    def __call__(self):
        return self.now_s


def test_an_epoch_is_above_all_known_ones_and_not_below_the_clock():
    assert next_epoch(5, 1000) == 1000
    assert next_epoch(2000, 1000) == 2001


def test_an_accepted_commit_proves_the_partitions_it_was_asked_for_once():
    membership = Membership()
    assert membership.may_ask()
    before_ms = time.time_ns() // 1_000_000
    number = membership.ask(frozenset({1, 2}))
    assert not membership.may_ask()
    assert membership.take_proof() is None
    membership.answer(number, True)
    proof = membership.take_proof()
    assert proof is not None
    assert proof.partitions == {1, 2}
    assert proof.asked_at_ms >= before_ms
    assert membership.take_proof() is None


def test_a_refused_commit_proves_nothing_and_is_not_repeated_at_once():
    clock = Clock()
    membership = Membership(clock)
    membership.answer(membership.ask(frozenset({1})), False)
    assert membership.take_proof() is None
    assert not membership.may_ask()
    clock.now_s += 1
    assert membership.may_ask()


def test_an_answer_that_nobody_asked_for_proves_nothing():
    membership = Membership()
    membership.answer(0, True)
    membership.answer(1, True)
    assert membership.take_proof() is None


def test_a_yes_that_lay_unread_while_we_slept_proves_nothing_and_is_asked_for_again():
    clock = Clock()
    membership = Membership(clock)
    number = membership.ask(frozenset({1}))
    clock.now_s += 12  # stopped; the answer was in the socket all the time
    membership.answer(number, True)
    assert membership.take_proof() is None
    assert membership.may_ask()


def test_a_yes_proves_nothing_once_we_slept_after_it():
    clock = Clock()
    membership = Membership(clock)
    membership.answer(membership.ask(frozenset({1})), True)
    clock.now_s += PROOF_LASTS_S + 0.1
    assert membership.take_proof() is None


def test_a_late_answer_to_an_older_question_is_none_to_the_newest():
    clock = Clock()
    membership = Membership(clock)
    older = membership.ask(frozenset({1}))
    clock.now_s += ANSWER_WITHIN_S + 0.1
    assert membership.may_ask()
    newer = membership.ask(frozenset({2}))
    membership.answer(older, True)
    assert membership.take_proof() is None
    membership.answer(newer, True)
    proof = membership.take_proof()
    assert proof is not None
    assert proof.partitions == {2}
