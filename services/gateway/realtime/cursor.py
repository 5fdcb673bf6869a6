"""How far a client has been told, as a short string that any replica understands.

A cursor is a time watermark: everything appended before it has been sent, or reported as a gap.
"""

import re
from datetime import UTC, datetime, timedelta

from schemas.messages import EPOCH_BEGIN

_FORM = re.compile(r"w([0-9a-f]{9,12})")  # milliseconds since 1970, hexadecimal
LEAD = timedelta(minutes=1)  # by which another replica's clock may be ahead of ours


class UnknownCursor(ValueError):
    """Nothing that a replica of ours has given out."""


def cursor(watermark: datetime) -> str:
    return f"w{(watermark - EPOCH_BEGIN) // timedelta(milliseconds=1):x}"


def watermark(cursor: str) -> datetime:
    """Raises `UnknownCursor`, also for a time that has not come yet."""
    match = _FORM.fullmatch(cursor)
    if match is None:
        raise UnknownCursor("not a cursor")
    try:
        at = EPOCH_BEGIN + timedelta(milliseconds=int(match[1], 16))
    except OverflowError as error:
        raise UnknownCursor("not a time") from error
    if at > datetime.now(UTC) + LEAD:
        raise UnknownCursor("a time that has not come yet")
    return at
