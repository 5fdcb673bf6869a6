"""Topics and tables of a live stack -> evidence.

The stack goes on while it is read. So the cut comes first: what is on frames.v1 now. Then the
records are read until all those frames have one, then the persister is given time to store them,
then the tables are read, and at last the topics once more to their ends: whatever was in the tables
is explained by something in the topics.
"""

import json
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from operator import methodcaller
from pathlib import Path
from typing import Any

import psycopg
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message
from confluent_kafka import TopicPartition as At

from schemas.messages import DetectionRecord, detection_id, frame_id, record_id
from schemas.tables import OUTCOMES_PER_BLOCK
from schemas.topics import (
    DEAD_LETTERS,
    DETECTIONS,
    FRAMES,
    HEARTBEATS,
    STREAM_STATUS,
    DecodeError,
    Headers,
    Topic,
    facts_of,
)
from tests.faults.evidence import (
    Evidence,
    FrameKey,
    Place,
    SeenDetection,
    SeenFrame,
    SeenHeartbeat,
    SeenRecord,
    SeenStatus,
    StoredRow,
    StoredStatus,
)

POLL_S = 0.25
READ_TIMEOUT_S = 120.0
LEADERLESS_S = 10.0
LEADERLESS = {
    KafkaError._NOENT,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.NOT_LEADER_FOR_PARTITION,
}

See = Callable[[Place, Message], None]


class NotReadable(Exception):
    """The stack's Kafka or Postgres does not answer as it should."""


@dataclass(frozen=True)
class Stack:
    """Where to look."""

    bootstrap_servers: str
    prefix: str
    database_url: str

    @classmethod
    def described_in(cls, folder: Path) -> "Stack":
        said = json.loads((folder / "stack.json").read_text())
        return cls(said["kafkaBootstrapServers"], said["topicPrefix"], said["databaseUrl"])


class Reader:
    """Reads one topic from its beginning, further each time it is asked."""

    def __init__(self, stack: Stack, topic: Topic[Any], see: See) -> None:
        self.topic = topic
        self._see = see
        self._consumer = Consumer(
            {
                "bootstrap.servers": stack.bootstrap_servers,
                "log_level": 0,  # what matters is raised
                "group.id": f"{stack.prefix}persister",  # never joined: to ask what it committed
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "fetch.wait.max.ms": 20,  # other questions wait behind a fetch that waits
                "fetch.message.max.bytes": 2_100_000,
                "queued.max.messages.kbytes": 131_072,
            }
        )
        self._name = topic.named(stack.prefix)
        described = self._consumer.list_topics(self._name, timeout=10).topics[self._name]
        if described.error is not None:
            raise NotReadable(f"{self._name}: {described.error.str()}")
        self._partitions = [At(self._name, number) for number in sorted(described.partitions)]
        self.begins = {at.partition: watermarks(self._consumer, at)[0] for at in self._partitions}
        self.next = dict(self.begins)
        self._consumer.assign([At(self._name, p, OFFSET_BEGINNING) for p in self.begins])

    def read_to_end(self) -> None:
        """To where the topic ends now, or a little further."""
        ends = {at.partition: watermarks(self._consumer, at)[1] for at in self._partitions}
        deadline = time.monotonic() + READ_TIMEOUT_S
        while any(self.next[number] < end for number, end in ends.items()):
            for message in self._consumer.consume(1000, timeout=0.05):
                self._take(message)
            if time.monotonic() > deadline:
                raise NotReadable(f"{self._name}: not at its end after {READ_TIMEOUT_S:.0f} s")

    def committed(self) -> dict[int, int]:
        """What the persister's group will read next, by partition."""
        told = self._consumer.committed(self._partitions, timeout=10)
        return {at.partition: max(at.offset, self.begins[at.partition]) for at in told}

    def close(self) -> None:
        self._consumer.close()

    def _take(self, message: Message) -> None:
        error, number, offset = message.error(), message.partition(), message.offset()
        if number is None or offset is None:
            raise NotReadable(f"{self._name}: {error}")
        if error is None:
            self._see(Place(self.topic.name, number, offset), message)
            self.next[number] = offset + 1
        elif error.code() == KafkaError._PARTITION_EOF:
            self.next[number] = max(self.next[number], offset)
        elif error.fatal():
            raise KafkaException(error)


def watermarks(consumer: Consumer, at: At) -> tuple[int, int]:
    """The first offset of a partition and its next one. A partition that is new, or whose leader
    has just changed, has none to ask at first."""
    deadline = time.monotonic() + LEADERLESS_S
    while True:
        try:
            low, high = consumer.get_watermark_offsets(at, timeout=10)
        except KafkaException as error:
            if error.args[0].code() not in LEADERLESS or time.monotonic() > deadline:
                raise
            time.sleep(POLL_S)
        else:
            return low, high


class Gathering:
    """The evidence as it grows."""

    def __init__(self, stack: Stack, streams: Collection[str] | None, grace_s: float) -> None:
        """`streams`: their ids; None: all."""
        self._stack = stack
        self._streams = None if streams is None else sorted(streams)
        self._grace_s = grace_s
        self._unanswered: set[FrameKey] = set()
        self._answered: set[FrameKey] = set()
        self.evidence = Evidence()
        self._frames = Reader(stack, FRAMES, self._see_frame)
        self._records = Reader(stack, DETECTIONS, self._see_record)
        self._heartbeats = Reader(stack, HEARTBEATS, self._see_heartbeat)
        self._statuses = Reader(stack, STREAM_STATUS, self._see_status)
        self._letters = Reader(stack, DEAD_LETTERS, self._see_letter)
        self._readers = (
            *(self._frames, self._records, self._heartbeats, self._statuses),
            self._letters,
        )

    def gather(self) -> Evidence:
        for reader in (self._frames, self._heartbeats, self._statuses):
            reader.read_to_end()
            self._cut(reader)
        self._await_records()
        self._cut(self._records)
        self._await_persister()
        self._await_burials()
        self._read_tables()
        for reader in (self._records, self._heartbeats, self._statuses, self._frames):
            # frames last: a record or a heartbeat speaks of frames that are there already
            reader.read_to_end()
            for number, begin in reader.begins.items():
                self.evidence.begins[reader.topic.name, number] = begin
        return self.evidence

    def close(self) -> None:
        for reader in self._readers:
            reader.close()

    def _cut(self, reader: Reader) -> None:
        for number, end in reader.next.items():
            self.evidence.cut[reader.topic.name, number] = end

    def _await_records(self) -> None:
        """Until every frame within the cut has one, or the grace is over."""
        deadline = time.monotonic() + self._grace_s
        while True:
            self._records.read_to_end()
            if not self._unanswered - self._answered or time.monotonic() > deadline:
                return
            time.sleep(POLL_S)

    def _await_persister(self) -> None:
        deadline = time.monotonic() + self._grace_s
        while (behind := list(self._behind())) and time.monotonic() < deadline:
            time.sleep(POLL_S)
        self.evidence.behind = behind

    def _await_burials(self) -> None:
        """Until all that can't be read is in a dead letter, or the grace is over."""
        deadline = time.monotonic() + self._grace_s
        settled = {at for at in self.evidence.undecodable if self.evidence.is_settled(at)}
        while settled - self.evidence.buried and time.monotonic() < deadline:
            self._letters.read_to_end()
            time.sleep(POLL_S)

    def _behind(self) -> Iterator[Place]:
        for reader in (self._records, self._statuses):
            for number, offset in reader.committed().items():
                if offset < self.evidence.cut[reader.topic.name, number]:
                    yield Place(reader.topic.name, number, offset)

    def _is_asked_for(self, stream_id: str) -> bool:
        return self._streams is None or stream_id in self._streams

    def _see_frame(self, at: Place, message: Message) -> None:
        frame = self._decoded(FRAMES, at, message)
        if frame is None or not self._is_asked_for(frame.stream_id):
            return
        key = FrameKey(frame.stream_id, frame.epoch, frame.seq)
        seen = SeenFrame(at, key, frame.captured, frame.dropped, frame.detect)
        self.evidence.frames.append(seen)
        if frame.detect and self.evidence.is_settled(at):
            self._unanswered.add(key)

    def _see_record(self, at: Place, message: Message) -> None:
        record = self._decoded(DETECTIONS, at, message)
        if record is None or record.result_set is not None:
            return
        if self._is_asked_for(record.stream_id):
            seen = seen_record(at, record, facts_of(headers_of(message)))
            self.evidence.records.append(seen)
            self._answered.add(seen.key)

    def _see_heartbeat(self, at: Place, message: Message) -> None:
        heartbeat = self._decoded(HEARTBEATS, at, message)
        if heartbeat is not None and self._is_asked_for(heartbeat.stream_id):
            self.evidence.heartbeats.append(SeenHeartbeat(at, heartbeat))

    def _see_status(self, at: Place, message: Message) -> None:
        stream_id = (message.key() or b"").decode(errors="replace")
        is_tombstone = message.value() is None
        status = None if is_tombstone else self._decoded(STREAM_STATUS, at, message)
        if status is None and not is_tombstone:
            return
        if self._is_asked_for(stream_id):
            epoch = 0 if status is None else status.epoch
            self.evidence.statuses.append(SeenStatus(at, stream_id, is_tombstone, epoch))

    def _see_letter(self, at: Place, message: Message) -> None:
        letter = self._decoded(DEAD_LETTERS, at, message)
        if letter is not None:
            topic = letter.topic.removeprefix(self._stack.prefix)
            self.evidence.buried.add(Place(topic, letter.partition, letter.offset))

    def _decoded(self, topic: Topic[Any], at: Place, message: Message) -> Any:
        """None where these bytes are no such message; that is the dead letters' affair."""
        try:
            return topic.decode(message.value(), headers_of(message))
        except DecodeError:
            self.evidence.undecodable.append(at)
            return None

    def _read_tables(self) -> None:
        """As they are at one instant."""
        try:
            with psycopg.connect(self._stack.database_url) as connection:
                connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
                self._read_rows(connection)
                self._read_codes(connection)
                self._read_statuses(connection)
        except psycopg.Error as error:
            raise NotReadable(f"Postgres: {type(error).__name__}: {error}") from error

    def _read_rows(self, connection: psycopg.Connection[Any]) -> None:
        query = (
            "SELECT stream_id, epoch, seq, position, id, label, confidence, captured_at,"
            " x, y, width, height FROM detections"
            " WHERE %(these)s::text[] IS NULL OR stream_id = ANY(%(these)s::text[])"
        )
        for row in connection.execute(query, {"these": self._streams}):
            stream_id, epoch, seq, position, id_, label, confidence, captured_at, *box = row
            seen = SeenDetection(id_, label, confidence, captured_at, tuple(box))
            key = FrameKey(stream_id, epoch, seq)
            self.evidence.rows.append(StoredRow(key, position, seen))

    def _read_codes(self, connection: psycopg.Connection[Any]) -> None:
        query = (
            "SELECT stream_id, epoch, block, codes FROM outcomes"
            " WHERE %(these)s::text[] IS NULL OR stream_id = ANY(%(these)s::text[])"
        )
        for stream_id, epoch, block, codes in connection.execute(query, {"these": self._streams}):
            for place, code in enumerate(codes):
                if code:
                    key = FrameKey(stream_id, epoch, block * OUTCOMES_PER_BLOCK + place)
                    self.evidence.codes[key] = code

    def _read_statuses(self, connection: psycopg.Connection[Any]) -> None:
        query = "SELECT stream_id, topic_partition, topic_offset FROM statuses"
        for stream_id, partition, offset in connection.execute(query):
            self.evidence.stored_statuses[stream_id] = StoredStatus(partition, offset)


def seen_record(at: Place, record: DetectionRecord, facts: Mapping[str, str]) -> SeenRecord:
    frame = record.frame
    return SeenRecord(
        at=at,
        key=FrameKey(record.stream_id, frame.epoch, frame.seq),
        outcome=record.outcome,
        detections=tuple(
            SeenDetection(
                *(one.id, one.label, one.confidence, frame.captured_at),
                (box.x, box.y, box.width, box.height),
            )
            for one in record.detections
            for box in (one.bounding_box,)
        ),
        faults=tuple(record_faults(record, facts)),
    )


def record_faults(record: DetectionRecord, facts: Mapping[str, str]) -> Iterator[str]:
    """What is wrong with it whatever the others say."""
    id_ = record_id(frame_id(record.stream_id, record.frame.epoch, record.frame.seq))
    ids = [detection_id(id_, place) for place in range(len(record.detections))]
    if (facts.get("outcome"), facts.get("count")) != (record.outcome, str(len(record.detections))):
        yield "HEADERS_DIFFER"
    if record.record_id != id_ or [one.id for one in record.detections] != ids:
        yield "ID_WRONG"
    if record.outcome != "ok" and record.detections:
        yield "DETECTIONS_BUT_NOT_OK"


def headers_of(message: Message) -> Headers:
    """None where a header's name is not UTF-8: the client can't tell."""
    try:
        headers: Any = (
            methodcaller("headers")(message) or ()
        )  # a list of pairs, always: its stub allows more
    except SystemError:
        return ()
    return headers  # type: ignore[no-any-return]
