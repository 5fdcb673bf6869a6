"""A message with a header whose name is not UTF-8: no client of ours sends such."""

import asyncio
from collections.abc import Iterable

from aiokafka import AIOKafkaProducer  # type: ignore[import-untyped]  # so it is
from aiokafka.record.default_records import (  # type: ignore[import-untyped]  # so it is
    _DefaultRecordBatchBuilderPy,
)


class _Unencoded(bytes):
    """Stands where text is expected, and is sent as it is."""

    def encode(self, _: str) -> bytes:
        return bytes(self)


def put_unencoded(
    kafka: str,
    topic: str,
    partition: int,
    message: tuple[bytes | None, bytes | None],
    headers: Iterable[tuple[bytes, bytes]],
    times: int = 1,
) -> None:
    """`topic`: its whole name; `message`: key and value."""

    async def put() -> None:
        producer = AIOKafkaProducer(bootstrap_servers=kafka)
        await producer.start()
        batch = producer.create_batch()
        batch._builder = _DefaultRecordBatchBuilderPy(2, 0, 0, -1, -1, -1, 100_000)
        named = [(_Unencoded(name), text) for name, text in headers]
        key, value = message
        for _ in range(times):
            assert batch.append(timestamp=None, key=key, value=value, headers=named)
        await (await producer.send_batch(batch, topic, partition=partition))
        await producer.stop()

    asyncio.run(put())
