"""Facts that the producer has no room for, or can never take."""

import pytest
from prometheus_client import REGISTRY

from schemas.messages import Down, Instance, Reason, down_event, now
from schemas.topics import EVENTS, INSTANCES, PRODUCER_OF_FACTS, Origin
from services.ingestor.announce import Announcer
from tests.ingestor.conftest import eventually
from tests.ports import free_port


@pytest.fixture
def away():
    """Nobody listens there."""
    return PRODUCER_OF_FACTS | {"bootstrap.servers": f"127.0.0.1:{free_port()}", "log_level": 0}


def instance():
    at = now()
    return Instance(
        instance="i", service="ingestor", version="1", endpoint="x", started_at=at, at=at
    )


def counted(name, topic):
    return REGISTRY.get_sample_value(f"sightlog_ingestor_facts_{name}_total", {"topic": topic}) or 0


def test_a_fact_that_finds_the_queue_full_is_refused_and_counted(away):
    announcer = Announcer(away | {"queue.buffering.max.messages": 1}, "p.", "s")
    before = counted("refused", INSTANCES.name)
    assert announcer.instance(instance())
    assert not announcer.instance(instance())
    assert not announcer.bury(Origin("t", 0, 0, None, None, b"{", []), "NOT_JSON", "x")
    assert counted("refused", INSTANCES.name) == before + 1
    announcer.close()


def test_a_fact_that_no_broker_would_take_is_told_of_as_lost_and_ends_nothing(away):
    announcer = Announcer(away | {"message.max.bytes": 1000}, "p.", "s")
    before = counted("lost", "dead-letters.v1")
    assert announcer.bury(Origin("t", 0, 0, None, None, b"x" * 2000, []), "NOT_JSON", "x")
    assert counted("lost", "dead-letters.v1") == before + 1
    announcer.close()


@pytest.mark.parametrize(
    "refusal", [{"message.timeout.ms": 1, "linger.ms": 0}, {"message.max.bytes": 1000}]
)
def test_whoever_tells_an_event_hears_that_it_was_lost(away, refusal):
    announcer = Announcer(away | refusal, "p.", "s")
    before, heard = counted("lost", EVENTS.name), []
    event = down_event("S" * 2000, Down(started_at=now(), reason=Reason.TIMEOUT))
    assert announcer.event(event, lambda: heard.append("told"), lambda: heard.append("lost"))

    def is_heard():
        announcer.poll()
        return heard

    eventually(is_heard)
    assert heard == ["lost"]
    assert counted("lost", EVENTS.name) == before + 1
    announcer.close()
