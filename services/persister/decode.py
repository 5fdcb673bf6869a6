"""Bytes -> messages, and those that are none."""

import time
from collections.abc import Iterable, Mapping
from typing import Any

from schemas.messages import Heartbeat, Message, StreamStatus, is_plausible
from schemas.topics import LARGEST_MESSAGE, STREAM_STATUS, DecodeError, Origin, Topic
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
            message = None if tombstone else _message(origin, topic)
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


def _message(origin: Origin, topic: Topic[Any]) -> Message:
    """Raises DecodeError for what is none, or one that nobody of ours could have sent so."""
    if len(origin.value or b"") > LARGEST_MESSAGE:  # a broker bounds compressed bytes only
        raise DecodeError("TOO_LARGE", f"{topic.name}: more than {LARGEST_MESSAGE} bytes")
    message: Message = topic.decode(origin.value, origin.headers)
    if origin.key != topic.key(message):
        raise DecodeError("WRONG_KEY", f"{topic.name}: not under the key of what it says")
    if isinstance(message, StreamStatus | Heartbeat) and not _is_in_time(message.epoch, origin):
        raise DecodeError("EPOCH_IMPLAUSIBLE", f"{topic.name}: epoch {message.epoch} lies ahead")
    return message


def _is_in_time(epoch: int, origin: Origin) -> bool:
    """By when the broker got it, however long ago that is. One that is nearer is believed, here as
    by the owner itself, who mints a higher one."""
    said_ms = time.time() * 1000 if origin.timestamp_ms is None else origin.timestamp_ms
    return is_plausible(epoch, said_ms)
