"""What passes on frames.v1 and detections.v1 while a test does something to the stack."""

import threading
from collections import defaultdict
from types import TracebackType
from typing import NamedTuple, Self

from confluent_kafka import OFFSET_END, Consumer, Message, TopicPartition

from schemas.messages import DetectionRecord, Frame, unix_us
from schemas.topics import DETECTIONS, FRAMES
from tests.pipeline.seen import headers_of


class Seen(NamedTuple):
    """A frame, without its picture."""

    epoch: int
    seq: int
    captured_us: int
    appended_ms: int


class Flow:
    """A thread that follows both topics from now on."""

    def __init__(self, servers: str, prefix: str) -> None:
        self._frames_topic = FRAMES.named(prefix)
        self._consumer = Consumer(
            {
                "bootstrap.servers": servers,
                "group.id": f"{prefix}flow",  # never joined
                "enable.auto.commit": False,
                "log_level": 0,
            }
        )
        named = (self._frames_topic, DETECTIONS.named(prefix))
        known = self._consumer.list_topics(timeout=10).topics
        self._consumer.assign(
            [
                TopicPartition(name, part, OFFSET_END)
                for name in named
                for part in known[name].partitions
            ]
        )
        self._frames: defaultdict[str, list[Seen]] = defaultdict(list)
        self._records: defaultdict[str, list[DetectionRecord]] = defaultdict(list)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="flow", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()
        self._consumer.close()

    def streams(self) -> set[str]:
        """Of which a frame was seen."""
        return set(self._frames)

    def frames(self, stream: str) -> list[Seen]:
        """In the order of the log."""
        return list(self._frames[stream])

    def newest(self, stream: str) -> Seen:
        return self._frames[stream][-1]

    def first_above(self, stream: str, epoch: int) -> Seen | None:
        return next((frame for frame in self.frames(stream) if frame.epoch > epoch), None)

    def records(self, stream: str) -> list[DetectionRecord]:
        return list(self._records[stream])

    def _follow(self) -> None:
        while not self._over.is_set():
            for message in self._consumer.consume(500, timeout=0.1):
                if message.error() is None:
                    self._note(message)

    def _note(self, message: Message) -> None:
        if message.topic() != self._frames_topic:
            record: DetectionRecord = DETECTIONS.decode(message.value())
            self._records[record.stream_id].append(record)
            return
        frame: Frame = FRAMES.decode(message.value(), list(headers_of(message).items()))
        _, appended_ms = message.timestamp()
        seen = Seen(frame.epoch, frame.seq, unix_us(frame.captured_at), appended_ms)
        self._frames[frame.stream_id].append(seen)
