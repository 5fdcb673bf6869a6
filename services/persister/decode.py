"""Bytes -> messages, and those that are none."""

from collections.abc import Iterable, Mapping
from typing import Any

from schemas.topics import STREAM_STATUS, DecodeError, Origin, Topic
from services.persister.arrival import Arrival, Refusal


def decode(
    origins: Iterable[Origin], topics: Mapping[str, Topic[Any]]
) -> tuple[list[Arrival], list[Refusal]]:
    """In the order given; `topics` by their full names."""
    arrivals: list[Arrival] = []
    refusals: list[Refusal] = []
    for origin in origins:
        topic = topics[origin.topic]
        try:
            tombstone = origin.value is None and topic is STREAM_STATUS and _names_stream(origin)
            message = None if tombstone else topic.decode(origin.value, origin.headers)
        except DecodeError as error:
            refusals.append(Refusal(origin, error.reason, str(error)))
        else:
            arrivals.append(Arrival(origin, message))
    return arrivals, refusals


def _names_stream(tombstone: Origin) -> bool:
    """Whether it says in UTF-8 whose last value it takes away."""
    try:
        return bool((tombstone.key or b"").decode())
    except UnicodeDecodeError:
        return False
