from uuid import uuid4

import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, Message, TopicPartition

from schemas.topics import SNAPSHOTS
from services.process.kafka import headers_of
from tests.unencoded import put_unencoded


@pytest.fixture
def sent(kafka: str, topic_prefix: str) -> list[Message]:
    """Two messages: with a header whose name no text has, and with one that is as it should be. In
    a topic that the broker does not compress anew, which would mend the name."""
    topic = SNAPSHOTS.named(topic_prefix)
    put_unencoded(kafka, topic, 0, (b"k", b"first"), [(b"\xff\xfe", b"v")])
    put_unencoded(kafka, topic, 0, (b"k", b"second"), [(b"name", b"v")])
    consumer = Consumer({"bootstrap.servers": kafka, "group.id": uuid4().hex})
    consumer.assign([TopicPartition(topic, 0, OFFSET_BEGINNING)])
    messages = consumer.consume(2, 20)
    consumer.close()
    return messages


def test_headers_that_the_client_cannot_read_are_none_and_the_next_message_has_its_own(
    sent: list[Message],
) -> None:
    assert [message.value() for message in sent] == [b"first", b"second"]
    assert [headers_of(message) for message in sent] == [[], [("name", b"v")]]
