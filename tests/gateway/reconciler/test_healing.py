"""Gateways as processes: one dies while it speaks, the topic is made anew, stale words come late.
The topic agrees with the table soon after."""

import signal
import time
from functools import partial

import httpx
import pytest
from confluent_kafka.admin import AdminClient
from msgspec.structs import replace
from sqlalchemy import Engine, insert

from schemas.messages import StreamSpec
from schemas.provision import Size, provision
from schemas.tables import streams
from schemas.topics import STREAMS
from services.gateway.streams import everything
from tests.gateway.gateway_process import Gateway, create
from tests.gateway.test_answers import a_row
from tests.gateway.topic import Place, last_values, say, wait_until

BAR_S = 5.0
SLOTS = 4


@pytest.fixture
def table(engine: Engine):
    """What the topic should say, by the table."""

    def table() -> dict[Place, StreamSpec]:
        with engine.connect() as connection:
            rows = everything(connection)
        return {(row.slot, row.id): row.spec for row in rows if row.deleted_at is None}

    return table


@pytest.fixture
def topic(kafka, topic_prefix):
    return partial(last_values, kafka, topic_prefix)


@pytest.fixture
def agree(table, topic):
    """Waits until they do; fails at four times the bar."""

    def agree(what: str) -> None:
        begun = time.monotonic()
        wait_until(lambda: topic() == table(), 4 * BAR_S)
        print(f"{what}: agrees after {time.monotonic() - begun:.1f} s (bar {BAR_S:.0f} s)")

    return agree


def store_five(engine: Engine, batch: str) -> None:
    """At once, so that one pass of a reconciler has to say all of them."""
    rows = [a_row(id=f"01KAPZ00000000000000000{batch}{n}0", slot=n % SLOTS) for n in range(5)]
    with engine.begin() as connection:
        connection.execute(insert(streams), [vars(row) for row in rows])


def await_death(gateway: Gateway) -> None:
    assert gateway.wait() == -signal.SIGKILL, gateway.log.read_text()


def test_what_gateways_killed_among_many_words_left_unsaid_the_next_one_says(run, engine, agree):
    with (
        run(SIGHTLOG_CRASH_AT="reconciler.before_publish:3") as first,
        run(SIGHTLOG_CRASH_AT="reconciler.after_publish:2") as second,
    ):
        store_five(engine, "A")
        await_death(first)
        agree("killed before its third word")
        with run():  # not before the second one leads
            store_five(engine, "B")
            await_death(second)
            agree("killed after its second time of saying")


def make_anew(kafka: str, prefix: str, slots: int) -> None:
    name, admin = STREAMS.named(prefix), AdminClient({"bootstrap.servers": kafka})
    admin.delete_topics([name])[name].result(timeout=30)
    fresh = partial(AdminClient, {"bootstrap.servers": kafka})
    wait_until(lambda: name not in fresh().list_topics(timeout=10).topics)
    provision({"bootstrap.servers": kafka}, prefix, Size(data=SLOTS, slots=slots))


def test_late_words_and_a_topic_made_anew_are_healed_by_a_gateway_that_runs(
    run, kafka, topic_prefix, table, agree
):
    with run() as gateway:
        ids = [create(gateway) for _ in range(3)]
        agree("three new streams")
        (slot, id), spec = next((at, spec) for at, spec in table().items() if at[1] == ids[0])
        httpx.patch(f"{gateway.url}/streams/{id}", json={"fps": 2}).raise_for_status()
        agree("a change")
        say(kafka, topic_prefix, slot, id, STREAMS.encode(spec))
        agree("an older generation")
        httpx.delete(f"{gateway.url}/streams/{id}").raise_for_status()
        agree("a deletion")
        for at in (slot, (slot + 1) % SLOTS):
            say(kafka, topic_prefix, at, id, STREAMS.encode(replace(spec, slot=at)))
            agree(f"a spec of a deleted stream in slot {at}")
        for slots in (SLOTS, SLOTS + 2):
            make_anew(kafka, topic_prefix, slots)
            agree(f"made anew with {slots} slots")
        create(gateway)
        agree("one more stream")
        assert "Traceback" not in gateway.log.read_text()
