"""Ingestors as the reconciler knows them: what they say of the specs in their slots."""

import threading
from dataclasses import dataclass, field
from itertools import count

from confluent_kafka import OFFSET_BEGINNING, Consumer, Producer, TopicPartition
from typing_extensions import override

from schemas.messages import Instance, Reason, Status, StreamSpec, StreamStatus, now
from schemas.topics import INSTANCES, STREAM_STATUS, STREAMS

Place = tuple[int, str]


@dataclass
class Site:
    """One of them."""

    name: str
    slots: tuple[int, ...]
    capacity: int
    is_deaf: bool = False
    """Does nothing new, for as long as it is."""
    running: set[str] = field(default_factory=set)


class Ingestors(threading.Thread):
    def __init__(self, kafka: str, prefix: str, *sites: Site) -> None:
        super().__init__(daemon=True)
        self.sites = sites
        self.twice: list[str] = []
        """What ran in two places at once."""
        self._prefix = prefix
        self._epochs = count(100)
        self._epoch: dict[Place, int] = {}
        self._specs: dict[Place, StreamSpec] = {}
        self._said: dict[Place, StreamStatus] = {}
        self._ended = threading.Event()
        self._producer = Producer({"bootstrap.servers": kafka})
        self._consumer = Consumer({"bootstrap.servers": kafka, "group.id": "unused"})
        slots = [slot for site in sites for slot in site.slots]
        topic = STREAMS.named(prefix)
        self._consumer.assign([TopicPartition(topic, slot, OFFSET_BEGINNING) for slot in slots])

    @override
    def run(self) -> None:
        turns = count()
        while not self._ended.is_set():
            self._read()
            for site in self.sites:
                if not site.is_deaf:
                    self._act(site)
                if next(turns) % 20 < len(self.sites):
                    self._introduce(site)
            self._producer.flush(5)
        self._consumer.close()

    def stop(self) -> None:
        self._ended.set()
        self.join(10)

    def last(self, slot: int, stream_id: str) -> StreamStatus | None:
        """What was said of it there."""
        return self._said.get((slot, stream_id))

    def has_read(self, place: Place, spec: StreamSpec) -> bool:
        return self._specs.get(place) == spec

    def _read(self) -> None:
        for message in self._consumer.consume(100, 0.05):
            if message.error() is None:
                place = message.partition() or 0, (message.key() or b"").decode()
                self._specs.pop(place, None)
                if message.value() is not None:
                    self._specs[place] = STREAMS.decode(message.value())

    def _act(self, site: Site) -> None:
        for place in [*self._specs.keys() | self._said.keys()]:
            if place[0] in site.slots:
                self._follow(site, place, self._specs.get(place))

    def _follow(self, site: Site, place: Place, spec: StreamSpec | None) -> None:
        stream_id = place[1]
        if spec is None or not spec.running:
            site.running.discard(stream_id)
            before = self._said.get(place)
            generation = spec.generation if spec else before.observed_generation if before else 0
            self._say(site, place, Status.STOPPED, generation)
            return
        if stream_id not in site.running and len(site.running) < site.capacity:
            if any(stream_id in other.running for other in self.sites):
                self.twice.append(stream_id)
            site.running.add(stream_id)
        runs = stream_id in site.running
        reason = None if runs else Reason.CAPACITY
        self._epoch.setdefault(place, next(self._epochs))
        self._say(site, place, Status.RUNNING if runs else Status.ERROR, spec.generation, reason)

    def _say(
        self,
        site: Site,
        place: Place,
        status: Status,
        generation: int,
        reason: Reason | None = None,
    ) -> None:
        said = self._said.get(place)
        state = (status, reason, generation)
        if said and (said.status, said.reason, said.observed_generation) == state:
            return
        new = StreamStatus(
            stream_id=place[1],
            status=status,
            reason=reason,
            since=now(),
            owner=site.name,
            epoch=self._epoch.get(place, 0),
            observed_generation=generation,
        )
        self._said[place] = new
        topic = STREAM_STATUS.named(self._prefix)
        self._producer.produce(topic, STREAM_STATUS.encode(new), place[1], place[0])

    def _introduce(self, site: Site) -> None:
        instance = Instance(
            instance=site.name,
            service="ingestor",
            version="1",
            capacity=site.capacity,
            load=len(site.running),
            slots=site.slots,
            started_at=now(),
            at=now(),
        )
        topic = INSTANCES.named(self._prefix)
        self._producer.produce(topic, INSTANCES.encode(instance), site.name)
