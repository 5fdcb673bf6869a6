from hypothesis import given
from hypothesis import strategies as st

from services.detector.order import Order


def test_a_finished_frame_waits_for_its_predecessor_and_both_leave_together():
    order: Order[str] = Order()
    first, second = order.enter("door"), order.enter("door")
    assert order.finish(second, "second") == []
    assert order.finish(first, "first") == ["first", "second"]


def test_streams_do_not_wait_for_each_other():
    order: Order[str] = Order()
    order.enter("door")
    assert order.finish(order.enter("yard"), "yard") == ["yard"]


def test_a_stream_with_nothing_under_way_is_forgotten():
    order: Order[int] = Order()
    for stream in range(100):
        order.finish(order.enter(str(stream)), stream)
    assert len(order) == 0


@given(st.lists(st.sampled_from("abc"), max_size=60), st.randoms())
def test_every_value_leaves_once_and_in_the_order_its_place_was_taken(streams, random):
    order: Order[tuple[str, int]] = Order()
    places = [(order.enter(stream), (stream, at)) for at, stream in enumerate(streams)]
    random.shuffle(places)
    left = [value for place, value in places for value in order.finish(place, value)]
    for stream in "abc":
        expected = [(s, at) for at, s in enumerate(streams) if s == stream]
        assert [value for value in left if value[0] == stream] == expected
    assert len(order) == 0
