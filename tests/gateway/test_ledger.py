"""`GET /streams/{id}/ledger`: books that close over ranges of seq."""

from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import pytest
from sqlalchemy import delete, insert

from schemas.messages import now, unix_us, wire_time
from schemas.tables import OUTCOME_CODES, OUTCOMES_PER_BLOCK, ledgers, outcomes
from services.gateway import ledgers as ledgers_module

EPOCH = 1_795_348_800_000
NOON = datetime(2026, 11, 22, 12, 0, 0, 1, tzinfo=UTC)
LETTERS = dict(zip(OUTCOME_CODES, "osxfrn", strict=True))
numbers = count(1)


class Book:
    """What is stored of one stream."""

    def __init__(self, engine, id):
        self.engine = engine
        self.id = id

    def checkpoint(self, minute, published, epoch=EPOCH, at=None, **more):
        """Balanced, unless `captured` says otherwise."""
        said: dict[str, Any] = {"undetected": 0, "pending": 0, "dropped": {}} | more
        captured = published + said["pending"] + sum(said["dropped"].values())
        when = at or NOON + timedelta(minutes=minute)
        row = {
            **{"stream_id": self.id, "epoch": epoch, "minute": when.replace(second=0), "at": when},
            **{"captured": captured, "published": published} | said,
        }
        with self.engine.begin() as connection:
            connection.execute(insert(ledgers), row)

    def answer(self, codes, epoch=EPOCH):
        """From seq 0 on, a letter each; a dot: none."""
        letters = {LETTERS[name]: code for name, code in OUTCOME_CODES.items()}
        content = bytes(letters.get(letter, 0) for letter in codes)
        with self.engine.begin() as connection:
            for begin in range(0, len(content), OUTCOMES_PER_BLOCK):
                block = content[begin : begin + OUTCOMES_PER_BLOCK].ljust(OUTCOMES_PER_BLOCK, b"\0")
                row = {"stream_id": self.id, "epoch": epoch, "block": begin // OUTCOMES_PER_BLOCK}
                connection.execute(insert(outcomes), row | {"codes": block})


@pytest.fixture
async def book(client, engine):
    body = {"name": f"door {next(numbers)}", "rtspUrl": "rtsp://10.0.0.9/"}
    return Book(engine, (await client.post("/streams", json=body)).json()["id"])


@pytest.fixture
def ask(client, book):
    async def asked(**query):
        answer = await client.get(f"/streams/{book.id}/ledger", params=query)
        assert answer.status_code == 200, answer.text
        told = answer.json()
        dropped, found = sum(told["dropped"].values()), sum(told["outcomes"].values())
        if told["balances"]:
            assert told["captured"] == told["published"] + dropped + told["pending"]
            rest = told["undetected"] + told["unread"] + told["unanswered"]
            assert told["published"] == found + rest
        return told

    return asked


def spans(told):
    return [(one["epoch"], one["fromSeq"], one["toSeq"]) for one in told["ranges"]]


async def test_a_stream_of_which_nothing_was_heard_has_empty_books(ask):
    told = await ask()
    assert (told["ranges"], told["captured"], told["balances"]) == ([], 0, True)
    assert set(told["dropped"]) == {"fpsLimit", "overload", "corrupt", "tooLarge", "idle"}
    assert set(told["outcomes"]) == {"ok", "shed", "expired", "failed", "rejected", "fenced"}


async def test_without_parameters_it_is_of_the_newest_epoch_up_to_its_last_word(book, ask):
    book.checkpoint(0, 9, epoch=EPOCH - 5)
    book.checkpoint(0, 4, dropped={"fpsLimit": 16})
    book.checkpoint(1, 10, dropped={"fpsLimit": 40, "corrupt": 1}, pending=2, undetected=1)
    book.answer("oosxfr.ooo")
    told = await ask()
    assert told["ranges"] == [
        {
            **{"epoch": EPOCH, "fromSeq": 0, "toSeq": 9, "from": None},
            "to": wire_time(NOON + timedelta(minutes=1)),
        }
    ]
    assert (told["captured"], told["published"], told["undetected"]) == (53, 10, 1)
    assert told["dropped"]["fpsLimit"] == 40
    assert (told["pending"], told["unread"], told["unanswered"]) == (2, 0, 0)
    assert told["outcomes"] == dict(zip(OUTCOME_CODES, (5, 1, 1, 1, 1, 0), strict=True))
    assert told["balances"]


async def test_seqs_are_widened_to_the_checkpoints_around_them(book, ask):
    for minute, published in enumerate((10, 20, 30, 40)):
        book.checkpoint(minute, published, dropped={"fpsLimit": published}, pending=1)
    book.answer("o" * 40)
    assert spans(await ask(epoch=EPOCH, fromSeq=12, toSeq=17)) == [(EPOCH, 10, 19)]
    assert spans(await ask(epoch=EPOCH, fromSeq=10, toSeq=20)) == [(EPOCH, 10, 29)]
    assert spans(await ask(fromSeq=0, toSeq=0)) == [(EPOCH, 0, 9)]
    assert spans(await ask(toSeq=10_000, fromSeq=39)) == [(EPOCH, 30, 39)]
    assert spans(await ask(fromSeq=40)) == []
    assert spans(await ask(epoch=EPOCH + 1)) == []


async def test_what_was_pending_is_counted_where_its_fate_was_decided(book, ask):
    book.checkpoint(0, 10, pending=5)
    book.checkpoint(1, 20, pending=3)
    book.answer("o" * 20)
    first, second = await ask(toSeq=9), await ask(fromSeq=10)
    assert (first["captured"], first["pending"]) == (10, 0)
    assert (second["captured"], second["pending"]) == (13, 3)
    whole = await ask()
    assert whole["captured"] == first["captured"] + second["captured"] == 23
    assert first["balances"] is second["balances"] is whole["balances"] is True


async def test_a_time_covers_the_ranges_of_all_epochs_in_it(book, ask):
    begin = unix_us(NOON) // 1000
    for epoch, shift in ((begin, 0), (begin + 600_000, 10), (begin + 1_200_000, 20)):
        for minute in (1, 2, 3):
            book.checkpoint(shift + minute, 10 * minute, epoch=epoch)
        book.answer("o" * 30, epoch=epoch)
    one, two, three = begin, begin + 600_000, begin + 1_200_000

    async def covered(since, until):
        times = (wire_time(NOON + timedelta(minutes=each, seconds=30)) for each in (since, until))
        return spans(await ask(**dict(zip(("from", "to"), times, strict=True))))

    assert await covered(1, 11) == [(two, 0, 19), (one, 10, 29)]
    assert await covered(1, 1) == [(one, 10, 19)]
    assert await covered(5, 30) == [(three, 0, 29), (two, 0, 29)]
    assert await covered(4, 5) == []
    assert spans(await ask(to=wire_time(NOON))) == [(one, 0, 9)]
    told = await ask(**{"from": wire_time(NOON)})
    assert (told["published"], told["outcomes"]["ok"], told["balances"]) == (90, 90, True)


async def test_a_hole_is_unread_and_what_came_last_unanswered(book, ask):
    for back, published in ((3, 10), (2, 20), (1, 30)):
        book.checkpoint(0, published, at=now() - timedelta(minutes=back))
    book.answer("oooo..oooo" + "ooooo.....")
    told = await ask()
    assert (told["unread"], told["unanswered"], told["balances"]) == (2, 15, True)
    with book.engine.begin() as connection:
        connection.execute(delete(outcomes).where(outcomes.c.stream_id == book.id))
    book.answer("oooo..oooo" + "ooooo....." + ".o")
    told = await ask()
    assert (told["unread"], told["unanswered"]) == (7, 9)


async def test_what_is_older_than_kafka_keeps_frames_is_unread_for_good(book, ask):
    book.checkpoint(0, 10)
    book.checkpoint(1, 20, at=now())
    told = await ask()
    assert (told["unread"], told["unanswered"]) == (10, 10)


async def test_frames_that_were_not_to_be_looked_at_are_counted_apart(book, ask):
    book.checkpoint(0, 10, undetected=6)
    book.checkpoint(1, 20, undetected=16)
    book.answer("oo......oo")
    told = await ask()
    assert (told["undetected"], told["unread"], told["unanswered"]) == (16, 0, 0)
    assert told["balances"]
    second = await ask(fromSeq=10)
    assert (second["published"], second["undetected"], second["balances"]) == (10, 10, True)


@pytest.mark.parametrize(
    "wrong", [{"captured": 11}, {"captured": 9}, {"undetected": 1}, {"dropped": {"idle": -1}}]
)
async def test_books_that_do_not_balance_say_so(book, ask, wrong):
    book.checkpoint(0, 10, **wrong)
    book.answer("o" * 10)
    assert not (await ask())["balances"]


async def test_of_very_many_frames_the_newest_are_covered(book, ask, monkeypatch):
    monkeypatch.setattr(ledgers_module, "MOST_FRAMES", 25)
    for minute, published in enumerate((10, 20, 30, 40)):
        book.checkpoint(minute, published)
    book.checkpoint(0, 50, epoch=EPOCH - 9)
    assert spans(await ask()) == [(EPOCH, 10, 39)]
    assert spans(await ask(to=wire_time(now()))) == [(EPOCH, 10, 39)]


async def test_outcomes_are_counted_across_blocks(book, ask):
    size = OUTCOMES_PER_BLOCK
    for minute, published in enumerate((size - 1, size + 2, 3 * size)):
        book.checkpoint(minute, published)
    book.answer("s" * (size - 1) + "oxf" + "o" * (2 * size - 2))
    told = await ask(fromSeq=size, toSeq=size)
    assert spans(told) == [(EPOCH, size - 1, size + 1)]
    assert [told["outcomes"][name] for name in ("ok", "expired", "failed", "shed")] == [1, 1, 1, 0]
    told = await ask()
    assert (told["outcomes"]["shed"], told["published"]) == (size - 1, 3 * size)


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ("epoch=-1", "?epoch"),
        ("epoch=x", "?epoch"),
        ("epoch=" + "9" * 30, "?epoch"),
        ("fromSeq=-1", "?fromSeq"),
        ("toSeq=1.5", "?toSeq"),
        ("fromSeq=5&toSeq=4", "?fromSeq"),
        ("from=yesterday", "?from"),
        ("to=2026-01-01T00:00:00", "?to"),
        ("from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z", "?from"),
        ("epoch=1&from=2026-01-02T00:00:00Z", "?epoch"),
        ("fromSeq=1&to=2026-01-02T00:00:00Z", "?fromSeq"),
        ("toSeq=1&to=2026-01-02T00:00:00Z", "?toSeq"),
        ("limit=5", "?limit"),
        ("epoch=1&epoch=2", "?epoch"),
    ],
)
async def test_a_wrong_question_is_refused(client, book, query, pointer):
    answer = await client.get(f"/streams/{book.id}/ledger?{query}")
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == pointer
