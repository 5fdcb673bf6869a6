"""Snapshots -> the object store, whole or not at all.

A folder's store writes beside and links into place, so that a picture is seen whole or not at all;
it does not sync to the disk, so that after a power cut (not after a crash) the pictures of the last
seconds may be missing or empty although their offsets are committed. An S3 store has no such gap.
"""

import re
from collections.abc import Iterable
from pathlib import Path

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import LocalStore, ObjectStore

from schemas.messages import Snapshot, image_path, snapshot_key
from services.persister.arrival import Arrival, Refusal

_FILENAME = re.compile(r"[0-9]{8}T[0-9]{12}Z_[0-9]{1,20}_[0-9]{1,20}\.jpg", re.ASCII)
_STREAM_ID = re.compile(r"[0-9A-Za-z][0-9A-Za-z_-]{0,63}", re.ASCII)
_BEGINS, _ENDS = b"\xff\xd8\xff", b"\xff\xd9"
_MOST_PADDING = 1024


class StoreAway(Exception):
    """The object store can't be reached, or is full; the same may succeed later."""


def open_folder(folder: Path) -> ObjectStore:
    """Made if it is not there. Raises StoreAway."""
    try:
        return LocalStore(folder.absolute(), mkdir=True)
    except (BaseError, OSError) as error:
        raise StoreAway(str(error).partition("\n")[0]) from error


def keep(store: ObjectStore, arrivals: Iterable[Arrival]) -> tuple[int, list[Refusal]]:
    """Returns how many were new, and those that are none or have no place. Raises StoreAway.

    One that is there already is the same: its name says which frame it is.
    """
    new, refusals = 0, []
    for arrival in arrivals:
        key = key_of(arrival.message)
        if key is None:
            refusals.append(Refusal(arrival.origin, "WRONG_PATH", "not a snapshot's path"))
        elif not is_jpeg(arrival.message.jpeg):
            refusals.append(Refusal(arrival.origin, "NOT_JPEG", "does not begin and end as a JPEG"))
        else:
            new += _put(store, key, arrival.message.jpeg)
    return new, refusals


def key_of(snapshot: Snapshot) -> str | None:
    """None unless its path is exactly one that a detector gives; nothing else can reach a key."""
    filename = snapshot.path.rpartition("/")[2]
    if not (_STREAM_ID.fullmatch(snapshot.stream_id) and _FILENAME.fullmatch(filename)):
        return None
    if snapshot.path != image_path(snapshot.stream_id, filename):
        return None
    return snapshot_key(snapshot.stream_id, filename)


def is_jpeg(picture: bytes) -> bool:
    """Begins as one and is not cut; some cameras pad theirs behind its end. What is compressed
    never looks like the end."""
    return picture.startswith(_BEGINS) and _ENDS in picture[-_MOST_PADDING:]


def _put(store: ObjectStore, key: str, jpeg: bytes) -> bool:
    try:
        obstore.put(store, key, jpeg, mode="create")
    except AlreadyExistsError:
        return False
    except (BaseError, OSError) as error:
        raise StoreAway(str(error).partition("\n")[0]) from error
    return True
