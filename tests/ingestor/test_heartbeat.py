"""Windows and totals."""

from datetime import UTC, datetime

from schemas.messages import Dropped, Ledger
from services.ingestor.heartbeat import Pulse

AT = datetime(2026, 1, 1, 0, 0, 0, 1, tzinfo=UTC)


def ledger(captured, published, pending=0):
    dropped = Dropped(fps_limit=captured - published - pending)
    return Ledger(captured=captured, published=published, dropped=dropped, pending=pending)


def test_the_window_is_what_came_since_the_last_heartbeat():
    pulse = Pulse()
    pulse.beat("S", 1, ledger(10, 4, pending=1), AT, 400)
    heartbeat = pulse.beat("S", 1, ledger(30, 15), AT, 1500)
    assert (heartbeat.ledger.captured, heartbeat.ledger.published) == (20, 11)
    assert heartbeat.ledger.pending == -1
    assert heartbeat.ledger.balances
    assert heartbeat.totals == ledger(30, 15)


def test_the_last_word_on_an_epoch_may_come_after_the_first_on_the_next():
    pulse = Pulse()
    pulse.beat("S", 1, ledger(10, 4), AT, 0)
    assert pulse.beat("S", 2, ledger(3, 1), AT, 0).ledger == ledger(3, 1)
    assert pulse.beat("S", 1, ledger(12, 6), AT, 0).ledger == ledger(2, 2)


def test_nothing_new_is_no_news():
    pulse = Pulse()
    assert not pulse.has_news(1, Ledger())
    assert pulse.has_news(1, ledger(2, 1))
    pulse.beat("S", 1, ledger(2, 1), AT, 0)
    assert not pulse.has_news(1, ledger(2, 1))


def test_encode_times_are_of_this_window():
    pulse = Pulse()
    for encode_ms in (1.0, 3.0, 2.0):
        pulse.note_encoding(encode_ms)
    assert pulse.beat("S", 1, Ledger(), AT, 0).encode_ms_p50 == 2.0
    assert pulse.beat("S", 1, Ledger(), AT, 0).encode_ms_p50 is None
