import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaError, Message, Producer
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # it does
    AdminClient,
    ConfigResource,
    ResourceType,
)

from schemas.provision import Size, partitions, provision
from schemas.topics import DETECTIONS, FRAMES, PRODUCER_OF_FACTS, STREAMS, TOPICS

# what Java's, Faust's and Flink's default partitioner says for 12 partitions
GOLDEN = {
    "01KAN0T5D3W8Y7R2Q4V6X9Z1B3": 9,
    "01KAN0T5D3W8Y7R2Q4V6X9Z1B4": 0,
    "front-door": 11,
    "camera-1": 2,
    "camera-2": 5,
    "a": 4,
}


def test_topics_are_made_once_with_their_settings(kafka: str) -> None:
    to: dict[str, Any] = {"bootstrap.servers": kafka}
    for _ in range(2):
        provision(to, "provisioned.", Size(data=3, slots=2))
    admin = AdminClient(to)
    made = admin.list_topics(timeout=10).topics
    for topic in TOPICS:
        assert len(made[topic.named("provisioned.")].partitions) == partitions(topic, Size(3, 2))
    policies = {}
    for topic in TOPICS:
        resource = ConfigResource(ResourceType.TOPIC, topic.named("provisioned."))
        settings = admin.describe_configs([resource])[resource].result(timeout=10)
        assert settings["message.timestamp.type"].value == "LogAppendTime"
        policies[topic] = settings["cleanup.policy"].value
    assert (policies[STREAMS], policies[FRAMES]) == ("compact", "delete")


def test_confluent_producers_choose_the_partition_that_every_other_client_does(kafka: str) -> None:
    to = {"bootstrap.servers": kafka}
    provision(to, "golden.", Size(data=12, slots=2))
    producer = Producer(to | PRODUCER_OF_FACTS)
    chosen: dict[str, int | None] = {}

    def note(error: KafkaError | None, message: Message) -> None:
        assert error is None
        chosen[(message.key() or b"").decode()] = message.partition()

    for key in GOLDEN:
        producer.produce(
            DETECTIONS.named("golden."),
            key=key,
            value=b"x",
            on_delivery=note,
        )
    assert producer.flush(10) == 0
    assert chosen == GOLDEN


def test_export_writes_a_json_schema_for_every_topic(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "schemas", "export", tmp_path], check=True)
    for topic in TOPICS:
        schema = json.loads((tmp_path / f"{topic.name}.json").read_text())
        assert schema["title"] == topic.ce_type


def test_a_job_without_its_setting_names_it() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "schemas", "migrate"],
        check=False,
        env={},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("setting DATABASE_URL: expected postgresql://")
