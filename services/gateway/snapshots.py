"""The stored pictures, by the name that a detection gives them. Never a path from outside."""

import asyncio
import re
import time
from pathlib import Path

from obstore.exceptions import BaseError, NotFoundError
from obstore.store import LocalStore

from schemas.messages import snapshot_key

WAIT_S = 2.0  # a record names its picture a moment before the picture is stored
LOOK_EVERY_S = 0.1

_STREAM_ID = re.compile(r"[0-9A-HJKMNP-TV-Z]{26}", re.ASCII)
_FILENAME = re.compile(r"[0-9]{8}T[0-9]{12}Z_[0-9]{1,20}_[0-9]{1,20}\.jpg", re.ASCII)


class NoSuchName(Exception):
    """No picture of ours is called that."""


class StoreAway(Exception):
    """The store can't be read or written now."""


class Snapshots:
    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()
        self._store = LocalStore(self._folder, mkdir=True)

    async def read(self, stream_id: str, filename: str) -> bytes | None:
        """None: not there, also not a moment later. Raises NoSuchName, StoreAway."""
        if not _STREAM_ID.fullmatch(stream_id) or not _FILENAME.fullmatch(filename):
            raise NoSuchName
        key = snapshot_key(stream_id, filename)
        deadline = time.monotonic() + WAIT_S
        while (jpeg := await self._there(key)) is None and time.monotonic() < deadline:  # noqa: ASYNC110 -- a folder tells nobody
            await asyncio.sleep(LOOK_EVERY_S)
        return jpeg

    async def _there(self, key: str) -> bytes | None:
        place = self._folder / key
        if place.resolve() != place:  # somebody put a link there
            return None
        try:
            found = await self._store.get_async(key)
            return bytes(await found.bytes_async())
        except (NotFoundError, FileNotFoundError):
            return None
        except (BaseError, OSError) as error:
            raise StoreAway(type(error).__name__) from error

    def remove(self, stream_id: str, at_most: int) -> int:
        """Some of a stream's pictures, for good; returns how many. Raises StoreAway."""
        try:
            listing = self._store.list(f"{stream_id}/", chunk_size=at_most)
            keys = [found["path"] for found in next(iter(listing), [])]
            if keys:
                self._store.delete(keys)
        except (BaseError, OSError) as error:
            raise StoreAway(type(error).__name__) from error
        return len(keys)
