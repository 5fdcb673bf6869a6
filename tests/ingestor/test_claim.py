"""Epochs and the proof that comes before them."""

from services.ingestor.claim import Membership, next_epoch


def test_an_epoch_is_above_all_known_ones_and_not_below_the_clock():
    assert next_epoch(5, 1000) == 1000
    assert next_epoch(2000, 1000) == 2001


def test_an_accepted_commit_proves_the_partitions_it_was_asked_for_once():
    membership = Membership()
    assert membership.may_ask()
    membership.ask(frozenset({1, 2}))
    assert not membership.may_ask()
    assert membership.take_proof() == frozenset()
    membership.answer(True)
    assert membership.take_proof() == {1, 2}
    assert membership.take_proof() == frozenset()


def test_a_refused_commit_proves_nothing_and_is_not_repeated_at_once():
    membership = Membership()
    membership.ask(frozenset({1}))
    membership.answer(False)
    assert membership.take_proof() == frozenset()
    assert not membership.may_ask()


def test_an_answer_that_nobody_asked_for_proves_nothing():
    membership = Membership()
    membership.answer(True)
    assert membership.take_proof() == frozenset()
