"""The detections table, read by pages: newest first."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel
from sqlalchemy import Connection, delete, select, tuple_

from schemas.messages import frame_id
from schemas.tables import detections
from services.gateway.times import Time


@dataclass(frozen=True)
class Wanted:
    """Which detections; `since` is part of the time span, `until` is not."""

    stream_id: str | None = None
    label: str | None = None
    min_confidence: float | None = None
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True)
class Position:
    """A place in the list: after this row."""

    captured_at: datetime
    id: UUID


class BoxAnswer(BaseModel):
    """COCO: the origin is at the top left."""

    x: float
    y: float
    width: float
    height: float


class DetectionAnswer(BaseModel):
    """One object in a frame. `boundingBox` is in pixels of the frame, `normalizedBox` in 0-1."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)

    id: UUID
    stream_id: str
    timestamp: Time
    label: str
    confidence: float
    bounding_box: BoxAnswer
    normalized_box: BoxAnswer
    image_path: str | None
    metadata: dict[str, Any]


def newest(
    connection: Connection, wanted: Wanted, limit: int, after: Position | None = None
) -> list[DetectionAnswer]:
    column = detections.c
    query = select(detections)
    if wanted.stream_id is not None:
        query = query.where(column.stream_id == wanted.stream_id)
    if wanted.label is not None:
        query = query.where(column.label == wanted.label)
    if wanted.min_confidence is not None:
        query = query.where(column.confidence >= wanted.min_confidence)
    if wanted.since is not None:
        query = query.where(column.captured_at >= wanted.since)
    if wanted.until is not None:
        query = query.where(column.captured_at < wanted.until)
    if after is not None:
        here = tuple_(column.captured_at, column.id)
        query = query.where(here < tuple_(after.captured_at, after.id))
        query = query.where(column.captured_at <= after.captured_at)  # lets partitions be pruned
    query = query.order_by(column.captured_at.desc(), column.id.desc()).limit(limit)
    return [_answer(row) for row in connection.execute(query)]


def remove(connection: Connection, stream_id: str, at_most: int) -> int:
    """Some of a stream's rows, for good; returns how many."""
    keys = (detections.c.captured_at, detections.c.id)
    some = select(*keys).where(detections.c.stream_id == stream_id).limit(at_most)
    return connection.execute(delete(detections).where(tuple_(*keys).in_(some))).rowcount


def _answer(row: Any) -> DetectionAnswer:  # any: a row of SQLAlchemy's, typed by the table
    return DetectionAnswer(
        id=row.id,
        stream_id=row.stream_id,
        timestamp=row.captured_at,
        label=row.label,
        confidence=row.confidence,
        bounding_box=BoxAnswer(x=row.x, y=row.y, width=row.width, height=row.height),
        normalized_box=BoxAnswer(
            x=_share(row.x, row.frame_width),
            y=_share(row.y, row.frame_height),
            width=_share(row.width, row.frame_width),
            height=_share(row.height, row.frame_height),
        ),
        image_path=row.image_path,
        metadata=_metadata(row),
    )


def _share(pixels: float, of: int) -> float:
    return round(min(max(pixels / of, 0.0), 1.0), 6) if of else 0.0


def _metadata(row: Any) -> dict[str, Any]:
    """What else the AI sent, and beside it what we know; our names win."""
    frame = frame_id(row.stream_id, row.epoch, row.seq)
    return {
        **(row.metadata.get("attributes") or {}),
        "frameId": frame,
        "recordId": frame,
        "seq": row.seq,
        "epoch": row.epoch,
        "frame": {"width": row.frame_width, "height": row.frame_height},
        "clock": row.metadata.get("clock"),
        "model": {
            "name": row.model_name,
            "version": row.model_version,
            "digest": row.model_digest,
        },
        "classId": row.class_id,
        "trackId": row.track_id,
    }


def position_of(last: DetectionAnswer) -> Sequence[str]:
    """Of a page: what the next one begins after. `position_from` reads it."""
    return [last.timestamp.isoformat(), str(last.id)]


def position_from(words: Sequence[str]) -> Position:
    captured_at, id = words
    return Position(datetime.fromisoformat(captured_at), UUID(id))
