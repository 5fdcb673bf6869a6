"""W3C Trace Context: one trace follows a frame from the camera to its rows."""

import re
import secrets

_FORMAT = re.compile(r"00-([0-9a-f]{32})-[0-9a-f]{16}-([0-9a-f]{2})")


def new_traceparent() -> str:
    return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"


def child_of(traceparent: str | None) -> str:
    """The same trace with a new span; a new trace where there is none, or one not of the form."""
    match = _FORMAT.fullmatch(traceparent or "")
    if match is None:
        return new_traceparent()
    return f"00-{match[1]}-{secrets.token_hex(8)}-{match[2]}"
