"""Where partitions begin and end, and where they stood at a time."""

import concurrent.futures
from collections.abc import Collection
from datetime import datetime

from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._listoffsets import ListOffsetsResultInfo, OffsetSpec

ANSWER_WITHIN_S = 2.0  # of the broker

Partition = tuple[str, int]
Asked = dict[TopicPartition, concurrent.futures.Future[ListOffsetsResultInfo]]

FIRST: OffsetSpec = OffsetSpec.earliest()  # type: ignore[no-untyped-call]  # as the client has it
NEXT: OffsetSpec = OffsetSpec.latest()  # type: ignore[no-untyped-call]  # as the client has it


def since(at: datetime) -> OffsetSpec:
    """The first message that is not older, or -1."""
    spec: OffsetSpec = OffsetSpec.for_timestamp(int(at.timestamp() * 1000))
    return spec


def ask(admin: AdminClient, partitions: Collection[Partition], spec: OffsetSpec) -> Asked:
    """Does not wait for the answers."""
    if not partitions:
        return {}
    wanted = {TopicPartition(*partition): spec for partition in partitions}
    return admin.list_offsets(wanted, request_timeout=ANSWER_WITHIN_S)


def answered(asked: Asked) -> dict[Partition, int]:
    """Waits; raises KafkaException."""
    answers = {(at.topic, at.partition): future.result() for at, future in asked.items()}
    return {partition: answer.offset for partition, answer in answers.items()}


def resolved(
    admin: AdminClient, partitions: Collection[Partition], spec: OffsetSpec
) -> dict[Partition, int]:
    """Where to begin to read; at the end, where no message is as young as was asked for."""
    found = answered(ask(admin, partitions, spec))
    too_young = [at for at, offset in found.items() if offset < 0]
    return found | answered(ask(admin, too_young, NEXT))
