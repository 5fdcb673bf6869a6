"""A client's words -> what it wants to be told of.

On connect they stand in the query string, later in a message `{"action": "subscribe", ...}`, which
replaces all that was asked for before.
"""

from collections.abc import Iterable
from typing import Annotated, Literal
from urllib.parse import parse_qsl

import msgspec
from msgspec import Meta, Struct

EventName = Literal["stream:status", "detection", "stream:heartbeat", "event"]
Name = Annotated[str, Meta(min_length=1, max_length=100)]

LISTS = ("streams", "events", "labels")
BOOLEANS = {"true": True, "1": True, "": True, "false": False, "0": False}


class BadSubscription(ValueError):
    """What the client asked for makes no sense; the text may be shown to it."""


class Subscription(
    Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    rename="camel",
    omit_defaults=True,
):
    """Empty `streams`, `events` or `labels` mean all."""

    streams: Annotated[frozenset[Name], Meta(max_length=1000)] = frozenset()
    events: frozenset[EventName] = frozenset()
    labels: Annotated[frozenset[Name], Meta(max_length=1000)] = frozenset()
    min_confidence: Annotated[float, Meta(ge=0, le=1)] = 0.0
    empty: bool = False  # records without a detection too
    snapshot: bool = True
    cursor: Annotated[str, Meta(max_length=100)] | None = None

    def wants(self, event: str, stream_id: str) -> bool:
        return (not self.events or event in self.events) and (
            not self.streams or stream_id in self.streams
        )

    def keeps(self, label: str, confidence: float) -> bool:
        return confidence >= self.min_confidence and (not self.labels or label in self.labels)


class _Message(Subscription, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    action: Literal["subscribe"]


def from_message(text: str) -> Subscription:
    """Raises BadSubscription."""
    try:
        message = msgspec.json.decode(text, type=_Message)
    except msgspec.ValidationError as error:
        raise BadSubscription(str(error)) from error
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise BadSubscription("a message is a JSON object") from error
    return Subscription(**{name: getattr(message, name) for name in Subscription.__struct_fields__})


def from_query(query: str) -> Subscription:
    """`streams=a,b&empty=true`; a name may also be repeated. Raises BadSubscription."""
    asked: dict[str, object] = {}
    for name, value in parse_qsl(query, keep_blank_values=True, max_num_fields=1000):
        if name == "access_token":
            continue
        asked[name] = _merged(asked.get(name), value) if name in LISTS else _plain(name, value)
    try:
        return msgspec.convert(asked, Subscription, strict=False)
    except msgspec.ValidationError as error:
        raise BadSubscription(str(error)) from error


def _merged(before: object, value: str) -> list[str]:
    names = [name for name in value.split(",") if name]
    return [*before, *names] if isinstance(before, Iterable) else names


def _plain(name: str, value: str) -> object:
    return BOOLEANS.get(value, value) if name in {"empty", "snapshot"} else value
