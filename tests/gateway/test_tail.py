"""Reading on through a broker's death, and what retention takes away."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewPartitions

from deploy.local.child import Warden
from deploy.local.fetch import cache_folder, fetch_jars, read_lock
from deploy.local.kafka import Broker
from deploy.local.parts import start
from deploy.local.ports import Ports
from schemas.provision import Size, provision
from schemas.topics import EVENTS
from services.gateway.tail import Hole, Start, Tail, TailStuck
from services.process.kafka import client_config
from services.process.settings import KafkaSettings
from tests.conftest import FEW_PARTITIONS, IN_CONTAINERS
from tests.gateway.topic import wait_until

START_TIMEOUT_S = 60.0


def read_until(
    tail: Tail, true: Callable[[list[Message | Hole]], object], within_s: float = 30
) -> list[Message | Hole]:
    """All that was read until the condition held."""
    deadline = time.monotonic() + within_s
    found: list[Message | Hole] = []
    while not true(found):
        assert time.monotonic() < deadline, "it did not become true in time"
        found += tail.read()
    return found


def values(found: list[Message | Hole]) -> list[bytes | None]:
    return [one.value() for one in found if isinstance(one, Message)]


@pytest.fixture
def broker(tmp_path: Path) -> Broker:
    """Of this test alone, so that it may die; not started."""
    if IN_CONTAINERS:
        pytest.skip("a broker that may be killed is one of deploy.local")
    ports = Ports(tmp_path / "ports.json", auto=True)
    return Broker(
        folder=tmp_path / "kafka",
        jars=fetch_jars(read_lock(), cache_folder()),
        port=ports.port("kafka"),
        controller_port=ports.port("kafka-controller"),
        log=tmp_path / "kafka.log",
    )


@pytest.fixture
def events(kafka: str, topic_prefix: str) -> Iterator[tuple[Tail, Producer, str]]:
    """A tail of one topic from its end, caught up."""
    name = EVENTS.named(topic_prefix)
    tail = Tail({"bootstrap.servers": kafka}, {name: Start.END})
    read_until(tail, lambda _: tail.complete)
    producer = Producer({"bootstrap.servers": kafka})
    yield tail, producer, name
    producer.flush(5)
    tail.close()


def test_a_tail_outlives_the_death_of_the_broker_and_finds_new_partitions(
    broker: Broker, warden: Warden
) -> None:
    child = start(broker, warden, START_TIMEOUT_S)
    settings = KafkaSettings(kafka_bootstrap_servers=broker.bootstrap_servers)
    config = client_config(settings, "test")
    provision(config, "t.", FEW_PARTITIONS)
    name = EVENTS.named("t.")
    tail = Tail(config, {name: Start.END})
    read_until(tail, lambda _: tail.complete)
    child.kill()
    child.wait()
    for _ in range(10):
        assert tail.read() == []
    child = start(broker, warden, START_TIMEOUT_S)
    producer = Producer(config)
    producer.produce(name, b"after", partition=0)
    assert producer.flush(20) == 0
    assert values(read_until(tail, values)) == [b"after"]
    stood = tail.watermark
    read_until(tail, lambda _: tail.watermark > stood)
    admin = AdminClient(config)  # the futures need it
    grown = admin.create_partitions([NewPartitions(name, FEW_PARTITIONS.data + 1)])
    grown[name].result(10)
    producer = Producer(config)
    producer.produce(name, b"new", partition=FEW_PARTITIONS.data)
    assert producer.flush(20) == 0
    assert values(read_until(tail, values)) == [b"new"]
    tail.close()
    child.stop()


def test_what_retention_took_away_is_a_hole_and_not_silence(
    events: tuple[Tail, Producer, str], kafka: str
) -> None:
    tail, producer, name = events
    for value in (b"1", b"2", b"3"):
        producer.produce(name, value, partition=0)
    assert producer.flush(10) == 0
    last = read_until(tail, lambda found: len(values(found)) == 3)[-1]
    assert isinstance(last, Message)
    first_kept = TopicPartition(name, 0, last.offset() or 0)
    admin = AdminClient({"bootstrap.servers": kafka})  # the future needs it
    admin.delete_records([first_kept])[first_kept].result(10)
    tail._consumer.seek(TopicPartition(name, 0, 0))  # as if it had not come further
    found = read_until(tail, values)
    assert Hole(name, 0) in found
    assert values(found) == [b"3"]


def test_a_topic_made_anew_is_read_from_its_beginning_although_it_has_grown_longer(
    kafka: str, topic_prefix: str
) -> None:
    prefix = f"anew-{topic_prefix}"
    config = {"bootstrap.servers": kafka}
    provision(config, prefix, FEW_PARTITIONS)
    name = EVENTS.named(prefix)
    tail = Tail(config, {name: Start.BEGINNING})
    tell(config, name, b"old")
    assert values(read_until(tail, values)) == [b"old"]
    make_anew(config, prefix, name, Size(data=2, slots=4))
    tail._emptied.add((name, 2))  # as if retention had just taken what it held
    for value in (b"1", b"2", b"3"):
        tell(config, name, value)
    found = read_until(tail, lambda found: values(found)[-3:] == [b"1", b"2", b"3"])
    assert Hole(name, 0) in found
    assert tail.partitions_of(name) == 2
    stood = tail.watermark
    read_until(tail, lambda _: tail.watermark > stood)
    tail.close()


def tell(config: dict[str, Any], name: str, value: bytes) -> None:
    producer = Producer(config)
    producer.produce(name, value, partition=0)
    assert producer.flush(20) == 0


def make_anew(config: dict[str, Any], prefix: str, name: str, size: Size) -> None:
    """Smaller, too."""
    admin = AdminClient(config)  # the future needs it
    admin.delete_topics([name])[name].result(10)
    wait_until(lambda: name not in AdminClient(config).list_topics(timeout=10).topics)
    provision(config, prefix, size)


def test_a_watermark_is_a_time_before_which_nothing_is_left_to_read(
    events: tuple[Tail, Producer, str],
) -> None:
    tail, producer, name = events
    seen: list[bytes | None] = []
    for number in range(3):
        producer.produce(name, str(number).encode(), partition=number)
        assert producer.flush(10) == 0
        sent_at = time.time()
        while tail.watermark.timestamp() < sent_at:
            seen += values(tail.read())
        assert seen == [str(number).encode() for number in range(number + 1)]


def test_a_client_that_reads_nothing_although_there_is_more_is_given_up(
    kafka: str, topic_prefix: str
) -> None:
    name = EVENTS.named(topic_prefix)
    tail = Tail({"bootstrap.servers": kafka}, {name: Start.END}, stuck_after_s=1)
    read_until(tail, lambda _: tail.complete)
    time_well_spent = time.monotonic() + 2.5  # nothing to read is no reason
    read_until(tail, lambda _: time.monotonic() > time_well_spent)
    tail._consumer.pause(tail._consumer.assignment())
    producer = Producer({"bootstrap.servers": kafka})
    producer.produce(name, b"unread")
    assert producer.flush(10) == 0
    with pytest.raises(TailStuck):
        read_until(tail, values)
    tail.close()
