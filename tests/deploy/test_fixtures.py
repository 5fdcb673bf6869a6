"""The fixtures every other test stands on."""

import psycopg
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from schemas.topics import EVENTS, TOPICS


def test_every_topic_is_there_behind_the_modules_prefix(kafka, topic_prefix):
    topics = AdminClient({"bootstrap.servers": kafka}).list_topics(timeout=5).topics
    assert {topic.named(topic_prefix) for topic in TOPICS} <= set(topics)


def test_a_message_sent_to_the_broker_can_be_read_back(kafka, topic_prefix):
    name = EVENTS.named(topic_prefix)
    producer = Producer({"bootstrap.servers": kafka})
    producer.produce(name, b"seen", partition=0)
    assert producer.flush(10) == 0
    consumer = Consumer({"bootstrap.servers": kafka, "group.id": "unused"})
    consumer.assign([TopicPartition(name, 0, 0)])
    message = consumer.poll(10)
    consumer.close()
    assert message is not None
    assert message.value() == b"seen"


def test_the_database_is_migrated_and_empty(database_url):
    with psycopg.connect(database_url) as connection:
        assert connection.execute("SELECT count(*) FROM streams").fetchone() == (0,)
