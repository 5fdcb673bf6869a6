"""Which processes are up."""

from datetime import timedelta

from schemas.messages import now
from services.gateway.instances import INSTANCES_KEPT, SILENT_S, Instances
from tests.gateway.clock import Clock
from tests.gateway.messages import an_instance


def test_who_spoke_last_comes_first_and_its_last_word_counts() -> None:
    instances = Instances(Clock())
    for name, load in (("a", 1), ("b", 1), ("a", 2)):
        instances.note(an_instance(name, load=load), now())
    assert instances.alive() == [an_instance("a", load=2), an_instance("b", load=1)]
    assert instances.alive("detector") == []


def test_who_is_silent_is_gone() -> None:
    clock = Clock()
    instances = Instances(clock)
    instances.note(an_instance("a"), now())
    clock.at += SILENT_S / 2
    instances.note(an_instance("b"), now())
    clock.at += SILENT_S / 2 + 1
    assert instances.alive() == [an_instance("b")]
    assert instances.last("a") == an_instance("a")
    assert instances.last("c") is None


def test_what_is_read_late_is_as_old_as_it_is() -> None:
    instances = Instances(Clock())
    instances.note(an_instance(), now() - timedelta(seconds=SILENT_S + 1))
    assert instances.alive() == []


def test_no_more_are_kept_than_so_many() -> None:
    instances = Instances(Clock())
    for number in range(INSTANCES_KEPT + 10):
        instances.note(an_instance(f"i{number}"), now())
    alive = instances.alive()
    assert len(alive) == INSTANCES_KEPT
    assert alive[-1].instance == "i10"
