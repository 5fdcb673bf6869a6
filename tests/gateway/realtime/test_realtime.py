"""The WebSocket: a client we did not write, the real server, a real broker."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from confluent_kafka import Producer
from fastapi import Depends, FastAPI
from typing_extensions import override
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Origin

from schemas.messages import Event, Message, Outcome, Phase, Status, now
from schemas.topics import (
    DETECTIONS,
    EVENTS,
    HEARTBEATS,
    PRODUCER_OF_FACTS,
    STREAM_STATUS,
    STREAMS,
    Topic,
)
from services.gateway.access import Access, Role
from services.gateway.observed import Observed
from services.gateway.problems import answer_with_problems
from services.gateway.realtime.cursor import cursor
from services.gateway.realtime.follow import Follower
from services.gateway.realtime.hub import MESSAGES_KEPT, Hub
from services.gateway.realtime.news import News, RecordNews
from services.gateway.realtime.replay import Replays
from services.gateway.routes.realtime import realtime
from tests.gateway.messages import DOOR, NOON, SLOT, YARD, a_heartbeat, a_record, a_spec, a_status
from tests.gateway.serving import serving
from tests.gateway.topic import wait_until

Send = Callable[..., None]
KEY = "a-key-of-a-viewer"
EVERYBODY = Access(None, ())
NO_REPLAYS = Replays(
    {"bootstrap.servers": "127.0.0.1:9", "log_level": 0}, ""
)  # a broker that is away


def an_app(
    hub: Hub[News],
    observed: Observed,
    access: Access = EVERYBODY,
    replays: Replays = NO_REPLAYS,
    **options: Any,
) -> FastAPI:
    app = FastAPI(dependencies=[Depends(access)])
    answer_with_problems(app)
    app.include_router(realtime(hub, observed, replays, **options))
    return app


@pytest.fixture(scope="module")
def send(kafka: str, topic_prefix: str) -> Iterator[Send]:
    """Puts messages on their topic and waits until they are there; None: a tombstone for `key`."""
    producer = Producer(PRODUCER_OF_FACTS | {"bootstrap.servers": kafka})

    def send(topic: Topic[Any], *messages: Message | None, key: str | None = None) -> None:
        for message in messages:
            value = None if message is None else topic.encode(message)
            name = key or getattr(message, "stream_id", None)
            slot = SLOT if topic in {STREAMS, STREAM_STATUS} else -1  # by key
            producer.produce(topic.named(topic_prefix), value, name, slot)
        assert producer.flush(10) == 0

    yield send
    producer.flush(5)


@pytest.fixture(scope="module")
def address(kafka: str, topic_prefix: str, send: Send) -> Iterator[str]:
    """A gateway with DOOR running and YARD never heard of, open to everybody on this machine."""
    send(STREAMS, a_spec(DOOR))
    send(STREAMS, a_spec(YARD, running=False))
    send(STREAM_STATUS, a_status(DOOR))
    observed, hub = Observed(), Hub[News]()
    config = {"bootstrap.servers": kafka}
    follower = Follower(config, topic_prefix, observed, hub)
    follower.start()
    wait_until(lambda: observed.ready)  # what was there before is no news
    replays = Replays(config, topic_prefix)
    with serving(an_app(hub, observed, replays=replays)) as address:
        yield address
    follower.stop()


class Client:
    """The messages of a connection, parsed."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection

    async def next(self, within_s: float = 10) -> dict[str, Any]:
        text = await asyncio.wait_for(self.connection.recv(), within_s)
        message: dict[str, Any] = json.loads(text)
        assert message.keys() == {"event", "cursor", "data"}
        assert isinstance(text, str)
        return message

    async def data(self, event: str) -> Any:
        """Of the next message, which is of that event."""
        message = await self.next()
        assert message["event"] == event
        return message["data"]

    async def say(self, **message: Any) -> None:
        await self.connection.send(json.dumps({"action": "subscribe", **message}))

    async def closed(self, within_s: float = 10) -> int:
        """The code, whatever comes before it."""
        async with asyncio.timeout(within_s):
            try:
                while True:
                    await self.connection.recv()
            except ConnectionClosed as closed:
                assert closed.rcvd is not None
                return closed.rcvd.code


@asynccontextmanager
async def listening(address: str, path: str = "/ws", **options: Any) -> AsyncIterator[Client]:
    async with connect(f"ws://{address}{path}", **options) as connection:
        yield Client(connection)


@pytest.mark.parametrize("path", ["/", "/ws"])
async def test_first_comes_the_status_of_all_streams(address: str, path: str) -> None:
    async with listening(address, path) as client:
        snapshot = await client.data("snapshot")
        assert snapshot["complete"] is True
        door, yard = sorted(snapshot["streams"], key=lambda stream: stream["streamId"])
        assert door == {
            "streamId": DOOR,
            "status": "RUNNING",
            "reason": None,
            "message": None,
            "hint": None,
            "since": "2026-11-01T12:00:00.000001Z",
            "generation": 1,
            "observedGeneration": 1,
            "owner": "ingestor-1",
            "epoch": 1,
        }
        assert (yard["streamId"], yard["status"], yard["since"]) == (YARD, "STOPPED", None)


async def test_the_three_kept_events_and_events_arrive_in_the_words_of_the_contract(
    address: str, send: Send
) -> None:
    async with listening(address, "/?snapshot=false") as client:
        send(STREAM_STATUS, a_status(YARD, Status.STARTING))
        status = await client.data("stream:status")
        assert (status["streamId"], status["status"]) == (YARD, "STARTING")

        send(DETECTIONS, a_record(7, "person", epoch=5))
        record = await client.data("detection")
        frame = {"width": 640, "height": 360}
        first, second = ("streamId", "frameId", "recordId", "timestamp"), ("frame", "imagePath")
        assert record.keys() == {*first, *second, "model", "detections"}
        assert record["frameId"] == record["recordId"] == f"{DOOR}/5/7"
        assert record["frame"] == frame
        assert record["timestamp"] == "2026-11-01T12:00:01.400001Z"
        (detection,) = record["detections"]
        assert UUID(detection["id"])
        assert detection["streamId"] == DOOR
        assert detection["timestamp"] == record["timestamp"]
        assert (detection["label"], detection["confidence"]) == ("person", 0.9)
        assert detection["boundingBox"] == {"x": 64, "y": 36, "width": 128, "height": 180}
        assert detection["normalizedBox"] == {"x": 0.1, "y": 0.1, "width": 0.2, "height": 0.5}
        assert detection["imagePath"] == record["imagePath"]
        assert detection["metadata"] == {
            "frameId": f"{DOOR}/5/7",
            "recordId": f"{DOOR}/5/7",
            "seq": 7,
            "epoch": 5,
            "frame": frame,
            "clock": {"source": "arrival", "offsetMs": None, "errorMs": None},
            "model": {"name": "yolox_nano", "version": "1", "digest": "sha256:0"},
            "classId": 0,
            "trackId": None,
            "colour": "red",
        }

        send(HEARTBEATS, a_heartbeat(at=now()))
        heartbeat = await client.data("stream:heartbeat")
        assert (heartbeat["streamId"], heartbeat["fps"]["published"]) == (DOOR, 5)
        assert heartbeat["ledger"]["captured"] == 50

        event = Event(
            event_id=UUID(int=1),
            revision=1,
            kind="stream.down",
            phase=Phase.NEW,
            stream_id=DOOR,
            started_at=NOON,
        )
        send(EVENTS, event)
        assert (await client.data("event"))["kind"] == "stream.down"


async def test_a_status_that_says_nothing_new_is_not_sent_again(address: str, send: Send) -> None:
    async with listening(address, "/?snapshot=false&events=stream:status") as client:
        send(STREAM_STATUS, a_status(YARD, Status.ERROR, attempt=1))
        send(STREAM_STATUS, a_status(YARD, Status.ERROR, attempt=2))
        send(STREAM_STATUS, a_status(YARD, Status.RUNNING))
        said = [(await client.data("stream:status"))["status"] for _ in range(2)]
        assert said == ["ERROR", "RUNNING"]


async def test_records_come_once_and_only_those_with_a_detection(address: str, send: Send) -> None:
    async with (
        listening(address, "/?snapshot=false&events=detection") as client,
        listening(address, "/?snapshot=false&events=detection&empty=true") as curious,
    ):
        send(DETECTIONS, a_record(10, "person", epoch=10))
        send(DETECTIONS, a_record(11, epoch=10))
        send(DETECTIONS, a_record(12, epoch=10, outcome=Outcome.SHED))
        send(DETECTIONS, a_record(10, "person", epoch=10))
        send(DETECTIONS, a_record(99, "person", epoch=9))
        send(DETECTIONS, a_record(13, "person", epoch=10))
        seen = [(await client.data("detection"))["frameId"] for _ in range(2)]
        assert seen == [f"{DOOR}/10/10", f"{DOOR}/10/13"]
        records = [await curious.data("detection") for _ in range(4)]
        assert [record["frameId"][-2:] for record in records] == ["10", "11", "12", "13"]
        assert [record.get("outcome") for record in records] == [None, None, "shed", None]


async def test_filters_run_on_the_server_and_a_later_subscription_replaces_them(
    address: str, send: Send
) -> None:
    wanted = f"streams={DOOR}&labels=person&minConfidence=0.5&events=detection"
    async with (
        listening(address, f"/?snapshot=false&{wanted}") as client,
        listening(address, f"/?snapshot=false&streams={YARD}&events=detection") as another,
    ):
        send(DETECTIONS, a_record(20, "dog", epoch=20))
        send(DETECTIONS, a_record(20, "person", epoch=20, stream_id=YARD))
        await another.data("detection")  # by now it has passed the first subscription
        send(DETECTIONS, a_record(21, "person", epoch=20, confidence=0.4))
        send(DETECTIONS, a_record(22, "person", "dog", "person", epoch=20))
        record = await client.data("detection")
        assert record["frameId"] == f"{DOOR}/20/22"
        assert [one["label"] for one in record["detections"]] == ["person", "person"]
        await client.say(streams=[YARD], events=["detection"])
        assert [s["streamId"] for s in (await client.data("snapshot"))["streams"]] == [YARD]
        send(DETECTIONS, a_record(23, "person", epoch=20))
        send(DETECTIONS, a_record(24, "dog", epoch=20, stream_id=YARD))
        assert (await client.data("detection"))["frameId"] == f"{YARD}/20/24"


async def test_a_deleted_stream_is_said_to_be_and_then_no_more(address: str, send: Send) -> None:
    other = "01JZ0000000000000000000009"
    async with listening(address, f"/?snapshot=false&streams={other}") as client:
        send(STREAMS, a_spec(other))
        send(STREAM_STATUS, a_status(other))
        assert (await client.data("stream:status"))["status"] == "RUNNING"
        send(STREAMS, None, key=other)
        while (said := await client.data("stream:status"))["status"] == "RUNNING":
            assert said["generation"], "its spec came behind its status"
        assert said["status"] == "DELETED"
        send(STREAM_STATUS, a_status(other, Status.STOPPED))
        send(STREAM_STATUS, None, key=other)
        send(DETECTIONS, a_record(1, "person", stream_id=other))
        assert (await client.next())["event"] == "detection"
    async with listening(address) as client:
        streams = (await client.data("snapshot"))["streams"]
        assert other not in {stream["streamId"] for stream in streams}


async def test_a_client_that_comes_back_with_its_cursor_is_told_all_it_missed(
    address: str, send: Send
) -> None:
    query = "/?snapshot=false&events=detection"
    async with listening(address, query) as client:
        for seq in range(3):
            send(DETECTIONS, a_record(seq, "person", epoch=30))
            last = await client.next()
    send(DETECTIONS, *(a_record(seq, "person", epoch=30) for seq in range(3, 400)))
    send(DETECTIONS, a_record(400, "dog", epoch=30))
    async with listening(address, f"{query}&labels=person&cursor={last['cursor']}") as client:
        send(DETECTIONS, a_record(401, "person", epoch=30))
        seen: set[int] = set()
        cursors = []
        while 401 not in seen:
            message = await client.next()
            if message["event"] == "snapshot":  # who was too far behind to be told all begins so
                continue
            assert message["event"] == "detection"
            epoch, seq = map(int, message["data"]["frameId"].split("/")[1:])
            cursors.append(message["cursor"])
            if epoch == 30:
                seen.add(seq)
        assert set(range(3, 402)) - seen == {400}
        assert cursors == sorted(cursors)


async def test_a_subscription_later_on_may_resume_too(address: str, send: Send) -> None:
    async with listening(address) as client:
        cursor = (await client.next())["cursor"]
        send(DETECTIONS, a_record(1, "person", epoch=40))
        assert (await client.data("detection"))["frameId"] == f"{DOOR}/40/1"
        await client.say(cursor=cursor, events=["detection"])
        await client.data("snapshot")
        while (await client.data("detection"))["frameId"] != f"{DOOR}/40/1":
            pass


async def test_a_cursor_that_nobody_gave_out_is_answered_by_a_gap(address: str) -> None:
    for forged in ("x", "w", "wffffffffffff", "w0", "-1"):
        async with listening(address, f"/?snapshot=false&cursor={forged}") as client:
            gap = await client.data("gap")
            assert (gap["from"], gap["missed"]) == (None, None)
            assert gap["reason"] == "unknown-cursor"


async def test_what_is_too_old_to_be_replayed_is_a_gap(address: str) -> None:
    old = cursor(now() - timedelta(days=2))
    async with listening(address, f"/?snapshot=false&cursor={old}") as client:
        gap = await client.data("gap")
        assert gap["from"] < gap["to"]
        assert (gap["missed"], gap["reason"]) == (None, "retention")


async def test_where_kafka_is_away_who_wants_to_resume_shall_come_again() -> None:
    observed = Observed()
    observed.note_ready()
    with serving(an_app(Hub[News](), observed)) as address:
        async with listening(address, f"/?cursor={cursor(now())}") as client:
            await client.data("snapshot")
            assert await client.closed() == 1013


async def test_a_mistake_is_answered_and_repeated_ones_end_the_connection(address: str) -> None:
    async with listening(address, "/?snapshot=false") as client:
        for text in ("{", '{"action": "dance"}'):
            await client.connection.send(text)
            problem = await client.data("error")
            assert problem["type"].endswith("/invalid")
            assert problem["status"] == 422
            assert problem["title"]
            assert problem["detail"]
        await client.say(events=["detection"], snapshot=False)
        await client.connection.send("[]")
        assert await client.closed() == 1008


async def test_what_a_client_may_not_send_ends_the_connection(address: str) -> None:
    for message, code in (
        (b"binary", 1003),
        ("x" * 5000, 1008),
        ("x" * 1024 * 1024, 1008),
        ("\N{PILE OF POO}" * 1100, 1008),
    ):
        async with listening(address) as client:
            await client.connection.send(message)
            assert await client.closed() == code


async def test_a_hasty_client_is_sent_away(address: str) -> None:
    async with listening(address, "/?snapshot=false") as client:
        with pytest.raises(ConnectionClosed) as closed:
            async with asyncio.timeout(20):
                while True:
                    await client.say(snapshot=False)
                    await asyncio.sleep(0)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1008


@pytest.mark.parametrize("query", ["events=frames", "minConfidence=2", "unknown=1"])
async def test_a_query_that_makes_no_sense_is_refused_with_a_problem(
    address: str, query: str
) -> None:
    with pytest.raises(InvalidStatus) as refused:
        await connect(f"ws://{address}/ws?{query}")
    response = refused.value.response
    assert response.status_code == 422
    assert response.headers["content-type"] == "application/problem+json"


async def test_a_page_of_another_host_is_refused(address: str) -> None:
    with pytest.raises(InvalidStatus) as refused:
        await connect(f"ws://{address}/ws", origin=Origin("http://evil.example"))
    assert refused.value.response.status_code == 403
    async with listening(address, origin=Origin(f"http://{address}")) as client:
        await client.data("snapshot")


async def test_with_keys_only_who_has_one_is_let_in(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    observed = Observed()
    observed.note_ready()
    with serving(an_app(Hub[News](), observed, Access({KEY: Role.VIEWER}, ()))) as address:
        for query in ("", "?access_token=wrong"):
            with pytest.raises(InvalidStatus) as refused:
                await connect(f"ws://{address}/ws{query}")
            assert refused.value.response.status_code == 401
        header = {"Authorization": f"Bearer {KEY}"}
        async with listening(address, additional_headers=header) as client:
            await client.data("snapshot")
        async with listening(address, f"/ws?access_token={KEY}") as client:
            await client.data("snapshot")
    ours = [record for record in caplog.records if not record.name.startswith("websockets")]
    assert not any(KEY in record.getMessage() for record in ours)


class Slow(Replays):
    """A replay during which more happens than a queue holds; the second finds all of it."""

    def __init__(self, hub: Hub[News]) -> None:
        self._hub = hub
        self.cursor = "w1"
        self.gap_until = None
        self.rounds = 0
        self._found: list[list[News]] = []

    @override
    @asynccontextmanager
    async def since(self, at: datetime, events: frozenset[str]) -> AsyncIterator[Any]:
        yield self

    def look_ahead(self) -> None:
        self.rounds += 1
        self._found = [[RecordNews(a_record(self.rounds, "person"), self.cursor)]]

    def read(self) -> list[News] | None:
        if self._found:
            return self._found.pop()
        if self.rounds == 1:
            meanwhile = [RecordNews(a_record(n, "dog"), "w2") for n in range(MESSAGES_KEPT + 1)]
            sent = self._hub.publish(meanwhile)
            assert sent is not None
            sent.result(5)
        return None


async def test_what_happens_during_a_long_replay_is_replayed_too_and_no_gap() -> None:
    observed, hub = Observed(), Hub[News]()
    observed.note_ready()
    with serving(an_app(hub, observed, replays=Slow(hub))) as address:
        async with listening(address, "/?cursor=w19b3f0a1c00") as client:
            events = [await client.next() for _ in range(4)]
            told = [(one["event"], one["data"].get("frameId")) for one in events]
            assert told == [
                ("snapshot", None),
                ("detection", f"{DOOR}/1/1"),
                ("snapshot", None),
                ("detection", f"{DOOR}/1/2"),
            ]
            await client.connection.send("{")
            assert (await client.next())["event"] == "error"


def large_news(numbers: range, stream_id: str = DOOR) -> list[News]:
    """Of about 16 KB each."""
    padding = "x" * 15_500
    records = [a_record(n, "person", stream_id=stream_id, padding=padding) for n in numbers]
    return [RecordNews(record, "w1") for record in records]


async def test_a_client_that_does_not_read_loses_its_own_oldest_and_holds_up_nobody() -> None:
    observed, hub = Observed(), Hub[News]()
    observed.note_ready()
    count = 1500  # 24 MB, more than the kernel hides
    with serving(an_app(hub, observed, slow_after_s=120)) as address:
        async with (
            listening(address, "/?snapshot=false", max_queue=1) as slow,
            listening(address, "/?snapshot=false") as quick,
        ):
            longest = 0.0
            for first in range(0, count, 10):
                before = time.monotonic()
                sent = hub.publish(large_news(range(first, first + 10)))
                assert sent is not None
                for number in range(first, first + 10):
                    assert (await quick.data("detection"))["frameId"] == f"{DOOR}/1/{number}"
                longest = max(longest, time.monotonic() - before)
            assert longest < 8  # machines pause for seconds
            seen: list[int] = []
            missed = 0
            while not seen or seen[-1] < count - 1:
                message = await slow.next()
                if message["event"] == "gap":
                    missed += message["data"]["missed"]
                    assert message["data"]["reason"] == "slow"
                    assert message["data"]["from"] <= message["data"]["to"]
                else:
                    seen.append(int(message["data"]["frameId"].rpartition("/")[2]))
            assert seen == sorted(seen)
            assert missed > 0
            assert len(seen) + missed == count


async def test_a_client_that_does_not_read_for_long_is_cut_off_with_1013() -> None:
    observed, hub = Observed(), Hub[News]()
    observed.note_ready()
    app = an_app(hub, observed, slow_after_s=0.5)
    with serving(app) as address:
        async with listening(address, "/?snapshot=false", max_queue=1) as slow:
            for first in range(0, 1500, 50):
                sent = hub.publish(large_news(range(first, first + 50)))
                if sent is None:
                    break
                await asyncio.wrap_future(sent)
                await asyncio.sleep(0)
            await asyncio.to_thread(until_nobody_listens, hub)
            assert await slow.closed() == 1013


def until_nobody_listens(hub: Hub[News]) -> None:
    deadline = time.monotonic() + 10
    while hub._subscribers:
        assert time.monotonic() < deadline
        time.sleep(0.02)


async def test_when_the_gateway_stops_clients_are_told_also_beside_one_that_does_not_read() -> None:
    observed, hub = Observed(), Hub[News]()
    observed.note_ready()
    with ExitStack() as stack:
        address = stack.enter_context(serving(an_app(hub, observed)))
        quick = await connect(f"ws://{address}/?snapshot=false&streams={DOOR}")
        slow = await connect(f"ws://{address}/?snapshot=false&streams={YARD}", max_queue=1)
        for first in range(0, 1500, 50):
            sent = hub.publish(large_news(range(first, first + 50), YARD))
            assert sent is not None
            await asyncio.wrap_future(sent)
        closing = asyncio.create_task(Client(quick).closed())
        before = time.monotonic()
        await asyncio.to_thread(stack.close)
        assert time.monotonic() - before < 8
        assert await closing == 1001
        slow.transport.abort()
