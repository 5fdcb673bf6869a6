from hypothesis import given
from hypothesis import strategies as st

from services.detector.prefix import Prefix


def test_nothing_may_be_committed_before_the_first_is_accounted_for():
    prefix = Prefix()
    first, second = prefix.begin(0), prefix.begin(1)
    prefix.account(second)
    assert prefix.committable is None
    prefix.account(first)
    assert prefix.committable == 2


def test_one_in_flight_holds_back_all_that_were_done_after_it():
    prefix = Prefix()
    for offset in range(31):
        prefix.account(prefix.begin(offset))
    held = prefix.begin(31)
    for offset in range(32, 200):
        prefix.account(prefix.begin(offset))
    assert prefix.committable == 31
    prefix.account(held)
    assert (prefix.committable, len(prefix)) == (200, 0)


def test_offsets_that_the_log_does_not_have_hold_nothing_back():
    prefix = Prefix()
    for offset in (5, 9, 1000):
        prefix.account(prefix.begin(offset))
    assert prefix.committable == 1001


def test_what_was_begun_before_a_seek_back_no_longer_counts():
    prefix = Prefix()
    old = [prefix.begin(offset) for offset in range(10, 15)]
    again = prefix.begin(11)
    for ticket in old:
        prefix.account(ticket)
    assert prefix.committable is None
    prefix.account(again)
    assert prefix.committable == 12


@given(st.lists(st.integers(1, 5), min_size=1, max_size=60), st.randoms())
def test_in_whatever_order_they_are_accounted_for_no_open_one_is_ever_covered(steps, random):
    offsets = [sum(steps[: at + 1]) for at in range(len(steps))]
    prefix = Prefix()
    waiting = [prefix.begin(offset) for offset in offsets]
    random.shuffle(waiting)
    seen = 0
    while waiting:
        prefix.account(waiting.pop())
        committable = prefix.committable or 0
        assert all(ticket.offset >= committable for ticket in waiting)
        assert committable >= seen
        seen = committable
    assert seen == offsets[-1] + 1
    assert len(prefix) == 0
