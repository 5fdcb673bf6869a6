"""Windows and totals."""

from datetime import UTC, datetime

from schemas.messages import Dropped, Ledger
from services.ingestor.heartbeat import Pulse

AT = datetime(2026, 1, 1, 0, 0, 0, 1, tzinfo=UTC)


def ledger(captured, published, pending=0):
    dropped = Dropped(fps_limit=captured - published - pending)
    return Ledger(captured=captured, published=published, dropped=dropped, pending=pending)


def said(pulse, epoch, totals, bytes_published=0):
    heartbeat = pulse.beat("S", epoch, totals, AT, bytes_published)
    pulse.told(heartbeat, bytes_published)
    return heartbeat


def test_the_window_is_what_came_since_the_last_heartbeat():
    pulse = Pulse()
    said(pulse, 1, ledger(10, 4, pending=1), 400)
    heartbeat = said(pulse, 1, ledger(30, 15), 1500)
    assert (heartbeat.ledger.captured, heartbeat.ledger.published) == (20, 11)
    assert heartbeat.ledger.pending == -1
    assert heartbeat.ledger.balances
    assert heartbeat.totals == ledger(30, 15)


def test_the_last_word_on_an_epoch_may_come_after_the_first_on_the_next():
    pulse = Pulse()
    said(pulse, 1, ledger(10, 4))
    assert said(pulse, 2, ledger(3, 1)).ledger == ledger(3, 1)
    assert said(pulse, 1, ledger(12, 6)).ledger == ledger(2, 2)


def test_nothing_new_is_no_news():
    pulse = Pulse()
    assert not pulse.has_news(1, Ledger())
    assert pulse.has_news(1, ledger(2, 1))
    said(pulse, 1, ledger(2, 1))
    assert not pulse.has_news(1, ledger(2, 1))


def test_encode_times_are_of_this_window():
    pulse = Pulse()
    for encode_ms in (1.0, 3.0, 2.0):
        pulse.note_encoding(encode_ms)
    assert said(pulse, 1, Ledger()).encode_ms_p50 == 2.0
    assert said(pulse, 1, Ledger()).encode_ms_p50 is None


def test_what_a_refused_heartbeat_would_have_said_is_in_the_next_one():
    pulse = Pulse()
    said(pulse, 1, ledger(10, 4), 400)
    pulse.beat("S", 1, ledger(20, 9), AT, 900)  # nobody took it
    assert pulse.has_news(1, ledger(20, 9))
    assert said(pulse, 1, ledger(30, 15), 1500).ledger == ledger(20, 11)
