"""Topics -> what is observed, and news for those who listen. Commits nothing: live is live."""

import concurrent.futures
import os
import signal
import threading
import time
from collections.abc import Mapping
from typing import Any

import structlog
from confluent_kafka import KafkaException

from schemas.topics import (
    DETECTIONS,
    EVENTS,
    HEARTBEATS,
    INSTANCES,
    STREAM_STATUS,
    STREAMS,
    Topic,
)
from services.gateway.observed import Observed
from services.gateway.realtime.cursor import cursor
from services.gateway.realtime.hub import Hub
from services.gateway.realtime.news import News
from services.gateway.realtime.told import Told
from services.gateway.tail import Start, Tail

log = structlog.get_logger()

STARTS: dict[Topic[Any], Start] = {
    STREAMS: Start.BEGINNING,
    STREAM_STATUS: Start.BEGINNING,
    HEARTBEATS: Start.RECENT,
    INSTANCES: Start.RECENT,
    DETECTIONS: Start.END,
    EVENTS: Start.END,
}
TRY_AGAIN_S = 1.0
TOGETHER_S = 0.01  # news that come closer to each other leave in one write
STOP_WITHIN_S = 2.0  # of the 10 s that a process has


class Follower:
    """Its one thread tells `observed` and `hub` what the topics say."""

    def __init__(
        self, kafka_config: Mapping[str, Any], prefix: str, observed: Observed, hub: Hub[News]
    ) -> None:
        self._kafka_config = kafka_config
        self._starts = {topic.named(prefix): start for topic, start in STARTS.items()}
        self._slots = STREAMS.named(prefix)
        self._told = Told(prefix, observed)
        self._observed = observed
        self._hub = hub
        self._stop = threading.Event()
        self._publish_at = 0.0
        self._thread = threading.Thread(target=self._run, name="follow", daemon=True)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(STOP_WITHIN_S)

    def _run(self) -> None:
        """Ends before it was asked to only by a bug or a stuck client: then so must the process."""
        tail = Tail(self._kafka_config, self._starts)
        try:
            while not self._stop.is_set():
                self._follow(tail)
            tail.close()
        finally:
            if not self._stop.is_set():
                log.critical("follower.died")
                os.kill(os.getpid(), signal.SIGTERM)

    def _follow(self, tail: Tail) -> None:
        try:
            messages = tail.read()
        except KafkaException as error:
            log.warning("topics.unreadable", error=str(error))
            self._stop.wait(TRY_AGAIN_S)
            return
        self._observed.note_watermark(tail.watermark)
        self._observed.note_slots(tail.partitions_of(self._slots))
        here = cursor(tail.watermark)
        self._publish([news for found in messages if (news := self._told.news_of(found, here))])
        self._told.report()
        if tail.complete and not self._observed.ready:
            self._observed.note_ready()
            log.info("topics.caught_up", streams=len(self._observed.specs()))

    def _publish(self, news: list[News]) -> None:
        """Waits until every queue has its share, so that a busy event loop fills no memory."""
        if news:
            self._stop.wait(self._publish_at - time.monotonic())
            self._publish_at = time.monotonic() + TOGETHER_S
        sent = self._hub.publish(news)
        while sent is not None and not self._stop.is_set():
            done, _ = concurrent.futures.wait([sent], timeout=TRY_AGAIN_S)
            if done:
                sent.result()
                return
