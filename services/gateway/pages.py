"""Where the next page of a list begins: opaque, signed, good only for the query it came from."""

import base64
import binascii
import hmac
from collections.abc import Mapping, Sequence
from urllib.parse import urlencode

import msgspec

_TAG = 16  # bytes
_LONGEST = 500
_UNBOUND = {"cursor", "limit"}  # what of a query may differ from page to page

Query = Mapping[str, str]


class ForeignCursor(ValueError):
    """None that we gave out for this path and query."""


class Pages:
    def __init__(self, key: str) -> None:
        """The key is the same on every replica: any of them goes on where another stopped."""
        self._key = hmac.digest(key.encode(), b"page cursors", "sha256")

    def link(self, path: str, query: Query, position: Sequence[str]) -> str:
        """The value of a `Link` header; `position` comes back from `position`."""
        content = msgspec.json.encode(position)
        cursor = base64.urlsafe_b64encode(self._tag(path, query, content) + content)
        parameters = {**query, "cursor": cursor.decode().rstrip("=")}
        return f'<{path}?{urlencode(parameters)}>; rel="next"'

    def position(self, path: str, query: Query) -> list[str] | None:
        """None without a cursor. Raises ForeignCursor."""
        cursor = query.get("cursor")
        if cursor is None:
            return None
        try:
            both = base64.b64decode(
                cursor[:_LONGEST] + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True
            )
        except (binascii.Error, ValueError) as error:
            raise ForeignCursor from error
        tag, content = both[:_TAG], both[_TAG:]
        if not hmac.compare_digest(tag, self._tag(path, query, content)):
            raise ForeignCursor
        return msgspec.json.decode(content, type=list[str])

    def _tag(self, path: str, query: Query, content: bytes) -> bytes:
        bound = sorted((name, value) for name, value in query.items() if name not in _UNBOUND)
        message = msgspec.json.encode([path, bound]) + b"\n" + content
        return hmac.digest(self._key, message, "sha256")[:_TAG]
