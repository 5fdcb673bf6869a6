"""Messages that no producer of ours would send, for each topic, and what must become of them."""

import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from msgspec.structs import replace

from schemas.messages import Frame, now
from schemas.topics import FRAMES, LARGEST_MESSAGE, SNAPSHOTS, STREAM_STATUS, STREAMS, Topic
from tests.ai.walk import HEIGHT, WIDTH

Headers = Mapping[str, bytes]

STRANGER = "01KAN0T5D3W8Y7R2Q4V6X9Z1BZ"
"""The stream of sound frames: none that runs."""

KEY = b"01KAN0T5D3W8Y7R2Q4V6X9Z1BY"
"""Under which all poison stands: of no stream at all."""

ROOM_FOR_HEADERS = 20_000
LARGEST = LARGEST_MESSAGE - ROOM_FOR_HEADERS
BOMB_SIDE = 30_000


@dataclass(frozen=True)
class Poison:
    """`reasons`: the codes that its dead letter may have; none: no letter is written."""

    name: str
    value: bytes | None
    headers: Headers
    reasons: frozenset[str]
    key: bytes = KEY


def bomb() -> bytes:
    """A JPEG whose header claims a picture of 2.7 GB."""
    sizes = struct.pack(">HBHHB", 11, 8, BOMB_SIDE, BOMB_SIDE, 1) + b"\x01\x11\x00"
    return b"\xff\xd8\xff\xc0" + sizes + b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00" + b"\x55" * 64


def of_json(topic: Topic[Any], sound: bytes, headers: Headers) -> Iterator[Poison]:
    """`sound`: a good value of the topic. Headers of these topics are for routing only."""
    too_large = {"TOO_LARGE"} if topic is STREAMS else set()  # a frame's headers carry parts of it
    for name, value in unreadable(sound).items():
        yield Poison(name, value, headers, frozenset({"NOT_JSON"} | too_large))
    for name, value in unlike_any(sound).items():
        yield Poison(name, value, headers, frozenset({"NOT_JSON", "WRONG_SHAPE"}))
    for name, value in misshapen(sound).items():
        yield Poison(name, value, headers, frozenset({"WRONG_SHAPE"} | too_large))
    yield Poison("empty", b"", headers, frozenset({"EMPTY"}))
    yield Poison("no headers", b"{}", {}, frozenset({"WRONG_SHAPE"}))
    yield Poison("headers not UTF-8", b"{}", mangled(headers), frozenset({"WRONG_SHAPE"}))
    if topic not in (STREAMS, STREAM_STATUS):  # there it says that a stream is gone
        yield Poison("null", None, headers, frozenset({"EMPTY"}))


def unreadable(sound: bytes) -> dict[str, bytes]:
    return {
        "truncated": sound[: len(sound) // 2],
        "not JSON": b"quite another thing",
        "NaN": re.sub(rb'":-?\d[\d.]*', b'":NaN', sound, count=1),
        "deep nesting": b'{"deeper":' + b"[" * 200_000,
        "deep nesting of objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        "image bomb": bomb(),
    }


def unlike_any(sound: bytes) -> dict[str, bytes]:
    """Whether the text is looked at first or what it should be depends on the field."""
    return {"invalid UTF-8": sound.replace(b'":"', b'":"\xff\xfe', 1)}


def misshapen(sound: bytes) -> dict[str, bytes]:
    return {
        "wrong JSON": b'["right JSON", "wrong thing"]',
        "wrong types": re.sub(rb'":"[^"]*"', b'":[{}]', sound, count=1),
        "largest": b'"' + b"x" * (LARGEST - 2) + b'"',
    }


def of_jpeg(topic: Topic[Any], headers: Headers) -> Iterator[Poison]:
    """Those whose headers are no good; `headers`: good ones of the topic."""
    wrong_shape, missing = frozenset({"WRONG_SHAPE"}), frozenset({"MISSING_HEADER"})
    numeric = "epoch" if topic is FRAMES else "ce_time"
    good = b"\xff\xd8\xff\xd9"
    yield Poison("empty", b"", headers, frozenset({"EMPTY"}))
    yield Poison("null", None, headers, frozenset({"EMPTY"}))
    yield Poison("no headers", good, {}, missing)
    yield Poison("headers not UTF-8", good, mangled(headers), missing)
    yield Poison("wrong types", good, {**headers, numeric: b"[{}]"}, wrong_shape)
    yield Poison("NaN", good, {**headers, numeric: b"NaN"}, wrong_shape)
    yield Poison("largest", b"x" * LARGEST, {}, missing)
    if topic is FRAMES:
        yield Poison("NaN as confidence", good, {**headers, "minconf": b"nan"}, wrong_shape)
        yield Poison("other key", good, headers, frozenset({"WRONG_KEY"}), key=b"\xff\xfe")
    if topic is SNAPSHOTS:
        path = {**headers, "path": b"/detections/screenshot/../../../etc/passwd"}
        wrong_path = frozenset({"WRONG_PATH"})
        yield Poison("path outside", good, path, wrong_path, key=headers["ce_subject"])


def mangled(headers: Headers) -> Headers:
    return dict.fromkeys(headers, b"\xff\xfe")


@dataclass(frozen=True)
class BadPicture:
    """A frame that says truly who it is, with a value that is no picture to look at."""

    name: str
    jpeg: bytes
    side: tuple[int, int] = (WIDTH, HEIGHT)  # as the headers have it


def bad_pictures(good: bytes) -> list[BadPicture]:
    return [
        BadPicture("not a JPEG", b"\x89PNG\r\n\x1a\n" + b"\x00" * 64),
        BadPicture("cut in its header", good[:10]),
        BadPicture("cut in its picture", good[: len(good) // 3]),
        BadPicture("bomb in the guise of a frame", bomb()),
        BadPicture("bomb that says so", bomb(), (BOMB_SIDE, BOMB_SIDE)),
        BadPicture("of another size", good, (WIDTH, HEIGHT - 1)),
        BadPicture("largest", b"\xff\xd8" + b"\x00" * LARGEST),
    ]


class Strangers:
    """Sound frames of a stream that nobody runs, numbered without a gap."""

    def __init__(self, good: bytes, epoch: int) -> None:
        self.coming = Frame(
            stream_id=STRANGER,
            epoch=epoch,
            seq=0,
            captured_at=now(),
            width=WIDTH,
            height=HEIGHT,
            captured=1,
            max_age_ms=60_000,  # a busy machine
            jpeg=good,
        )

    def next(self, bad: BadPicture | None = None) -> Frame:
        frame = replace(self.coming, captured_at=now())
        self.coming = replace(frame, seq=frame.seq + 1, captured=frame.captured + 1)
        if bad is None:
            return frame
        return replace(frame, jpeg=bad.jpeg, width=bad.side[0], height=bad.side[1])
