from uuid import uuid4

import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, Message, TopicPartition

from schemas.topics import SNAPSHOTS
from services.process.kafka import headers_of
from tests.unencoded import put_unencoded

MANY = 60  # so that the call becomes a hot one, which CPython treats in another way


@pytest.fixture
def sent(kafka: str, topic_prefix: str) -> list[Message]:
    """Messages with a header whose name no text has, and one that is as it should be. In a topic
    that the broker does not compress anew, which would mend the name."""
    topic = SNAPSHOTS.named(topic_prefix)
    put_unencoded(kafka, topic, 0, (b"k", b"bad"), [(b"\xff\xfe", b"v")], MANY)
    put_unencoded(kafka, topic, 0, (b"k", b"good"), [(b"name", b"v")])
    consumer = Consumer({"bootstrap.servers": kafka, "group.id": uuid4().hex})
    consumer.assign([TopicPartition(topic, 0, OFFSET_BEGINNING)])
    messages = consumer.consume(MANY + 1, 20)
    consumer.close()
    return messages


def test_headers_that_the_client_cannot_read_are_none_however_often_and_the_next_has_its_own(
    sent: list[Message],
) -> None:
    assert [message.value() for message in sent] == [b"bad"] * MANY + [b"good"]
    assert [headers_of(message) for message in sent] == [[]] * MANY + [[("name", b"v")]]
