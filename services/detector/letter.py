"""A message that no frame can be made of -> its dead letter, which is small whatever that was."""

from dataclasses import dataclass
from typing import Self

import msgspec

from schemas.messages import DeadLetter
from schemas.topics import DEAD_LETTERS, Header, Origin, dead_letter, origin_headers
from services.process.redact import redact


@dataclass(frozen=True, slots=True)
class Letter:
    content: DeadLetter
    brought: list[Header]  # by the message itself
    traceparent: str

    @property
    def key(self) -> bytes:
        """Compaction needs one."""
        return DEAD_LETTERS.key(self.content) or DEAD_LETTERS.id_of(self.content).encode()

    @property
    def size(self) -> int:
        """Bytes, but for what is in each letter."""
        said = len(self.content.key or "") + len(self.content.payload or "")
        return said + sum(len(name) + len(value or b"") for name, value in self.brought)

    def headers(self, source: str) -> list[Header]:
        return [*DEAD_LETTERS.headers(self.content, source, self.traceparent), *self.brought]

    def bare(self) -> Self:
        """Without what the message brought."""
        content = msgspec.structs.replace(self.content, key=None, payload=None)
        return type(self)(content, [], self.traceparent)


def letter_of(origin: Origin, reason: str, error: str, traceparent: str) -> Letter:
    """Looks for secrets in all that is kept: up to tens of milliseconds."""
    content = dead_letter(origin, reason, error, "detector", redact)
    return Letter(content, origin_headers(origin, redact), traceparent)


def size_of(origin: Origin) -> int:
    """Bytes."""
    headers = sum(len(name) + len(value or b"") for name, value in origin.headers)
    return len(origin.key or b"") + len(origin.value or b"") + headers
