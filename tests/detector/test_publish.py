import asyncio
import os
from uuid import uuid4

import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from schemas.topics import LARGEST_MESSAGE, PRODUCER_OF_FACTS
from services.detector.publish import Publisher, TooLarge


@pytest.fixture
def small_topic(kafka):
    """Takes less than our producers would send."""
    name = f"test-{uuid4().hex[:12]}"
    topic = NewTopic(name, 1, 1, config={"max.message.bytes": "1000"})
    admin = AdminClient({"bootstrap.servers": kafka})
    [made] = admin.create_topics([topic]).values()
    made.result(10)
    return name


def test_what_is_too_large_for_us_or_for_the_broker_is_told_as_such(kafka, small_topic):
    async def refused() -> None:
        publisher = Publisher(PRODUCER_OF_FACTS | {"bootstrap.servers": kafka})
        try:
            with pytest.raises(TooLarge):
                await publisher.send(small_topic, None, os.urandom(LARGEST_MESSAGE), [])
            safe = await publisher.send(small_topic, None, os.urandom(5_000), [])
            with pytest.raises(TooLarge):
                await asyncio.wait_for(safe, 10)
            safe = await publisher.send(small_topic, b"key", b"small", [])
            await asyncio.wait_for(safe, 10)
        finally:
            publisher.close()

    asyncio.run(refused())
