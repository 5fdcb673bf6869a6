"""Fetched bytes -> records, whatever their headers are named.

Kafka takes any bytes as the name of a header. aiokafka raises at one that is not UTF-8, and would
do so again at every start: whoever may write to the topic could hold up its partition for good.
"""

import struct
from collections.abc import Iterator
from itertools import islice
from typing import Any, SupportsIndex

from aiokafka.consumer import fetcher  # type: ignore[import-untyped]  # so it is
from aiokafka.record.default_records import (  # type: ignore[import-untyped]  # so it is
    _DefaultRecordBatchPy,
)
from aiokafka.record.memory_records import MemoryRecords  # type: ignore[import-untyped]  # so it is
from typing_extensions import override

LENGTH_AT = struct.calcsize(">q")  # behind the batch's base offset
BATCH_OVERHEAD = struct.calcsize(">qi")


def read_any_header_name() -> None:
    """From now on, in all consumers of aiokafka in this process."""
    fetcher.MemoryRecords = Batches


class Batches:
    """In place of aiokafka's MemoryRecords: the same batches, read leniently where need be."""

    def __init__(self, fetched: bytes) -> None:
        self._fetched = fetched
        self._next = 0
        self._records = MemoryRecords(fetched)

    def size_in_bytes(self) -> int:
        return int(self._records.size_in_bytes())

    def has_next(self) -> bool:
        return bool(self._records.has_next())

    def next_batch(self) -> "Batch":
        [length] = struct.unpack_from(">i", self._fetched, self._next + LENGTH_AT)
        begin, self._next = self._next, self._next + BATCH_OVERHEAD + length
        return Batch(self._records.next_batch(), self._fetched[begin : self._next])


class Batch:
    """Goes on after a record that aiokafka can't read, with one that is slower and can."""

    def __init__(self, batch: Any, raw: bytes) -> None:  # Any: of either format
        self._batch = batch
        self._raw = raw
        self._read = 0
        self._records: Iterator[Any] | None = None

    def __getattr__(self, fact: str) -> Any:
        return getattr(self._batch, fact)

    def __iter__(self) -> "Batch":
        return self

    def __next__(self) -> Any:
        if self._records is None:
            self._records = iter(self._batch)
        try:
            record = next(self._records)
        except UnicodeDecodeError:
            self._records = islice(leniently(self._raw), self._read, None)
            record = next(self._records)
        self._read += 1
        return record


def leniently(raw: bytes) -> Iterator[Any]:
    batch = iter(_DefaultRecordBatchPy(raw))  # which decompresses it
    batch._buffer = _Lenient(batch._buffer)
    yield from batch


class _Lenient(bytearray):
    """What is cut out of it decodes as UTF-8 always: with a mark for each byte that is none."""

    @override
    def __getitem__(self, at: SupportsIndex | slice) -> Any:  # Any: an int, or one of these
        found = super().__getitem__(at)
        return _Lenient(found) if isinstance(found, bytearray) else found

    @override
    def decode(self, encoding: str = "utf-8", errors: str = "replace") -> str:
        return super().decode(encoding, errors)
