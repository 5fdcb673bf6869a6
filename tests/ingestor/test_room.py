"""Places for cameras."""

from hypothesis import given
from hypothesis import strategies as st

from services.ingestor.room import Room


def test_who_came_first_gets_the_place_that_falls_free():
    room = Room[str](2)
    assert [room.take(who) for who in "abcd"] == [True, True, False, False]
    assert [room.take(who) for who in "dc"] == [False, False]  # asked again in another order
    room.leave("a")
    assert [room.take(who) for who in "dc"] == [False, True]
    assert (room.taken, room.waiting) == (2, 1)


def test_who_waited_and_left_is_last_when_it_comes_again():
    room = Room[str](1)
    for who in "abc":
        room.take(who)
    room.leave("b")
    room.take("b")
    room.leave("a")
    assert room.take("c")


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 6))), st.integers(1, 4))
def test_nobody_loses_a_place_and_none_stays_free_while_one_waits(acts, places):
    room = Room[int](places)
    inside: set[int] = set()
    for comes, who in acts:
        if comes:
            room.take(who)
        else:
            room.leave(who)
            inside.discard(who)
        inside |= {each for each in range(7) if each in room._inside}
        assert all(room.take(each) for each in inside)
        assert room.taken == len(inside) <= places
        assert not room.waiting or room.taken == places
