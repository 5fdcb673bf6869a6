"""Dead letters, also when there are more than their producer holds."""

from collections import deque
from contextlib import suppress
from functools import partial

import pytest
from confluent_kafka import Producer

from schemas.topics import DETECTIONS, PRODUCER_OF_FACTS, Origin
from services.persister.arrival import Refusal
from services.persister.bury import Graveyard, LettersAway
from tests.persister.making import DOOR
from tests.persister.persister_process import eventually
from tests.persister.test_app import dead_letters

NO_ROOM = PRODUCER_OF_FACTS | {"queue.buffering.max.messages": 1, "log_level": 0}


def refusal(offset: int) -> Refusal:
    topic = DETECTIONS.named("test.")
    origin = Origin(topic, 0, offset, None, DOOR.encode(), b"{", [("traceparent", b"")])
    return Refusal(origin, "NOT_JSON", "why")


def test_more_letters_than_the_producer_holds_are_all_buried_once(kafka, topic_prefix):
    producer = Producer({"bootstrap.servers": kafka} | NO_ROOM)
    left = deque(map(refusal, range(20)))
    graveyard = Graveyard(producer, topic_prefix, "test")
    eventually(partial(all_buried, graveyard, left))
    buried = sorted(letter.offset for letter, _ in dead_letters(kafka, topic_prefix))
    assert buried == list(range(20))


def all_buried(graveyard, left):
    """As the persister does: again, where the broker took too long for all of them."""
    with suppress(LettersAway):
        graveyard.bury(left)
        return True
    return False


def test_letters_that_find_no_room_stay_to_be_buried_later(monkeypatch):
    monkeypatch.setattr("services.persister.bury.ROOM_WITHIN_S", 0.2)
    producer = Producer({"bootstrap.servers": "127.0.0.1:1"} | NO_ROOM)
    left = deque(map(refusal, range(3)))
    with pytest.raises(LettersAway):
        Graveyard(producer, "test.", "test").bury(left)
    assert [one.origin.offset for one in left] == [1, 2]
    producer.purge()
    producer.flush(1)
