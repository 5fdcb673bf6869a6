"""A secret that must be nowhere, and everywhere that it is looked for.

It knows the forms of a secret by its own means: what the services take out is none of its business.
"""

import base64
import json
import os
import subprocess
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

import psutil
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, Message, TopicPartition

from deploy.local.postgres import programs
from tests.stack import RunningStack

LOOKED_AT_ONCE = 1 << 24  # bytes of a file
BEGINNING = 6  # bytes


@dataclass(frozen=True)
class Canary:
    username: str
    password: str

    @property
    def in_url(self) -> str:
        return f"{quote(self.username, safe='')}:{quote(self.password, safe='')}"

    @cached_property
    def forms(self) -> frozenset[bytes]:
        """Raw, percent-encoded, JSON-escaped, and all of these as they stand in base64."""
        plain = {form.encode() for form in _spelled(self.password)}
        return frozenset(plain | {part for form in plain for part in _in_base64(form)})

    @cached_property
    def _beginnings(self) -> frozenset[bytes]:
        """Few, since many forms begin alike: gigabytes are looked through for them."""
        return frozenset(form[:BEGINNING] for form in self.forms)

    def is_in(self, data: bytes | str) -> bool:
        looked_at = _bytes(data)
        return any(begins in looked_at for begins in self._beginnings) and any(
            form in looked_at for form in self.forms
        )


def _spelled(secret: str) -> Iterator[str]:
    for text in (secret, secret.encode().decode("latin-1")):
        yield text
        for ascii_only in (True, False):
            inner = json.dumps(text, ensure_ascii=ascii_only)[1:-1]
            yield inner
            yield json.dumps(inner)[1:-1]
    for safe in ("", "/", ":/", "/?:@!$&'()*+,;="):
        encoded = quote(secret, safe=safe)
        yield encoded
        yield "".join(part.lower() if part.startswith("%") else part for part in _parts(encoded))
        yield quote(encoded, safe="")
    yield repr(secret.encode())[2:-1]


def _parts(encoded: str) -> Iterator[str]:
    """`a%40b` -> `a`, `%40`, `b`."""
    head, *others = encoded.split("%")
    yield head
    for other in others:
        yield f"%{other[:2]}"
        yield other[2:]


def _in_base64(form: bytes) -> Iterator[bytes]:
    """With nothing, one or two bytes before it, of which it shares a character each with what
    stands around it: those are left out."""
    for before in (0, 1, 2):
        text = base64.b64encode(b"?" * before + form)
        inner = text[(0, 2, 3)[before] :].rstrip(b"=")
        inner = inner if (before + len(form)) % 3 == 0 else inner[:-1]
        yield inner
        yield inner.translate(bytes.maketrans(b"+/", b"-_"))


def _bytes(data: bytes | str) -> bytes:
    return data if isinstance(data, bytes) else data.encode("utf-8", "surrogateescape")


def in_files(canary: Canary, folder: Path, but: Sequence[str] = ()) -> list[str]:
    """Paths below the folder; those with one of `but` in them are not looked at."""
    return [
        str(file.relative_to(folder))
        for file in sorted(folder.rglob("*"))
        if file.is_file() and not any(part in str(file) for part in but) and _holds(file, canary)
    ]


def _holds(file: Path, canary: Canary) -> bool:
    longest = max(map(len, canary.forms))
    try:
        with file.open("rb") as opened:
            before = b""
            for piece in _written(opened):
                if canary.is_in(before + piece):
                    return True
                before = piece[-longest:]
    except FileNotFoundError:  # a segment that retention took away
        pass
    return canary.is_in(str(file))


def _written(file: BinaryIO) -> Iterator[bytes]:
    """Without the holes: the indexes of Kafka's segments are ten megabytes of them each."""
    at = 0
    while True:
        try:
            at = os.lseek(file.fileno(), at, os.SEEK_DATA)
        except OSError:  # nothing but a hole up to the end
            return
        end = os.lseek(file.fileno(), at, os.SEEK_HOLE)
        while at < end:
            piece = os.pread(file.fileno(), min(LOOKED_AT_ONCE, end - at), at)
            if not piece:
                return
            yield piece
            at += len(piece)


def in_messages(
    canary: Canary, bootstrap_servers: str, prefix: str, but: Collection[str] = ()
) -> list[str]:
    """`topic/partition/offset` of whatever has it in key, value or headers: batches are compressed
    in the brokers' files."""
    consumer = Consumer(
        {"bootstrap.servers": bootstrap_servers, "group.id": "canary", "enable.partition.eof": True}
    )
    try:
        parts = [
            TopicPartition(topic.topic, number, OFFSET_BEGINNING)
            for topic in consumer.list_topics(timeout=10).topics.values()
            if topic.topic not in but
            and (topic.topic.startswith(prefix) or topic.topic[:2] == "__")
            for number in topic.partitions
        ]
        consumer.assign(parts)
        return [place for message, place in _to_the_end(consumer, parts) if _has(message, canary)]
    finally:
        consumer.close()


def _to_the_end(
    consumer: Consumer, parts: Collection[TopicPartition]
) -> Iterator[tuple[Message, str]]:
    open_parts = {(part.topic, part.partition) for part in parts}
    while open_parts:
        message = consumer.poll(10)
        assert message is not None, f"no word from {open_parts}"
        error, at = message.error(), (message.topic() or "", message.partition() or 0)
        if error is None:
            yield message, f"{at[0]}/{at[1]}/{message.offset()}"
        else:
            assert error.code() == KafkaError._PARTITION_EOF, error.str()
            open_parts.discard(at)


def _has(message: Message, canary: Canary) -> bool:
    headers = message.headers() or []
    pairs = headers.items() if isinstance(headers, dict) else headers
    parts = [message.key(), message.value(), *(part for pair in pairs for part in pair)]
    return any(part is not None and canary.is_in(part) for part in parts)


def count(bootstrap_servers: str, topic: str) -> int:
    """The messages that are in a topic."""
    consumer = Consumer({"bootstrap.servers": bootstrap_servers, "group.id": "canary"})
    try:
        partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
        marks = [
            consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=10)
            for number in partitions
        ]
    finally:
        consumer.close()
    return sum(end - begin for begin, end in marks)


def dumped(database_url: str) -> bytes:
    """What `pg_dump` says of the whole database."""
    command = [str(programs() / "pg_dump"), "--dbname", database_url]
    return subprocess.run(command, check=True, capture_output=True, timeout=60).stdout


def in_processes(canary: Canary, root: int) -> list[str]:
    """The process and all below it: what they were started with, as /proc shows it."""
    supervisor = psutil.Process(root)
    found = []
    for process in (supervisor, *supervisor.children(recursive=True)):
        for name in ("cmdline", "environ"):
            try:
                shown = Path(f"/proc/{process.pid}/{name}").read_bytes()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if canary.is_in(shown):
                found.append(f"{process.name()} {name}")
    return found


def everywhere(canary: Canary, stack: RunningStack, but_topics: Collection[str] = ()) -> list[str]:
    """All places where it is, but what the stack answers."""
    kafka, prefix = stack["kafkaBootstrapServers"], stack["topicPrefix"]
    topics = [prefix + topic for topic in but_topics]
    dump = ["pg_dump"] if canary.is_in(dumped(stack["databaseUrl"])) else []
    return [
        *in_files(canary, stack.folder, [f"/{topic}-" for topic in topics]),
        *(["output of up"] if canary.is_in(stack.output()) else []),
        *in_messages(canary, kafka, prefix, topics),
        *dump,
        *in_processes(canary, stack.supervisor.pid),
    ]
