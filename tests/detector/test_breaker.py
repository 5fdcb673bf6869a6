from services.detector.breaker import Breaker


def opened(now: float = 0.0) -> Breaker:
    breaker = Breaker(failures=3, first_pause_s=1, longest_pause_s=2)
    for _ in range(3):
        assert breaker.allows(now)
        breaker.failed(now)
    return breaker


def test_it_opens_only_at_failures_in_a_row():
    breaker = Breaker(failures=2)
    for _ in range(10):
        breaker.failed(0)
        breaker.succeeded()
    assert breaker.allows(0)


def test_after_the_pause_one_call_is_the_try_and_nobody_else_may():
    breaker = opened()
    assert not breaker.allows(0.9)
    assert breaker.allows(1.0)
    assert not breaker.allows(1.0)
    breaker.succeeded()
    assert breaker.allows(1.0)
    assert not breaker.is_open


def test_a_try_that_fails_doubles_the_pause_up_to_the_longest():
    breaker = opened()
    assert breaker.allows(1)
    breaker.failed(1)
    assert not breaker.allows(2.9)
    assert breaker.allows(3)
    breaker.failed(3)
    assert breaker.allows(5)


def test_a_try_that_was_given_up_leaves_it_to_the_next():
    breaker = opened()
    assert breaker.allows(1)
    breaker.abandoned()
    assert breaker.allows(1)
