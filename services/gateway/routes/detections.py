"""`/detections`: what was seen, and the pictures that show it."""

from dataclasses import replace
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Response
from pydantic import AwareDatetime
from sqlalchemy import Connection

from services.gateway.detections import (
    DetectionAnswer,
    Wanted,
    newest,
    position_from,
    position_of,
)
from services.gateway.parts import Parts, PartsOf
from services.gateway.problems import NOT_FOUND, Problem, documented, invalid, not_found
from services.gateway.routes.paging import LINK, By50, Paging
from services.gateway.routes.pictures import JPEG
from services.gateway.strict import strict

router = APIRouter(tags=["detections"], dependencies=[Depends(strict)])

StreamId = Annotated[str, Path(alias="streamId")]
FOR_EVER = {
    "Cache-Control": "private, max-age=31536000, immutable",
    "X-Content-Type-Options": "nosniff",
}


def wanted(
    label: Annotated[str | None, Query(max_length=100)] = None,
    min_confidence: Annotated[
        float | None, Query(alias="minConfidence", ge=0, le=1, allow_inf_nan=False)
    ] = None,
    since: Annotated[AwareDatetime | None, Query(alias="from")] = None,
    until: Annotated[AwareDatetime | None, Query(alias="to")] = None,
) -> Wanted:
    if label is not None and "\0" in label:
        raise invalid("?label", "expected no control characters")
    if since is not None and until is not None and since > until:
        raise invalid("?from", "expected a time before that of `to`")
    return Wanted(label=label, min_confidence=min_confidence, since=since, until=until)


WantedOf = Annotated[Wanted, Depends(wanted)]


@router.get("/detections", responses={200: {"headers": LINK}})
async def list_detections(
    wanted: WantedOf,
    parts: PartsOf,
    paging: By50,
    stream_id: Annotated[str | None, Query(alias="streamId", pattern=r"^[0-9A-Z]{26}$")] = None,
) -> list[DetectionAnswer]:
    """Of all streams, newest first; `from` is part of the time span, `to` is not."""
    return await _page(parts, paging, replace(wanted, stream_id=stream_id))


@router.get(
    "/detections/stream/{streamId}", responses={200: {"headers": LINK}, **documented(NOT_FOUND)}
)
async def list_detections_of_stream(
    stream_id: StreamId, wanted: WantedOf, parts: PartsOf, paging: By50
) -> list[DetectionAnswer]:
    """Newest first; also of a stream that was deleted, until retention takes them."""
    if not (stream_id.isascii() and stream_id.isalnum() and len(stream_id) == 26):
        raise not_found("stream")
    return await _page(parts, paging, replace(wanted, stream_id=stream_id))


async def _page(parts: Parts, paging: Paging, wanted: Wanted) -> list[DetectionAnswer]:
    position = paging.position

    def work(connection: Connection) -> list[DetectionAnswer]:
        after = position_from(position) if position else None
        return newest(connection, wanted, paging.limit + 1, after)

    return paging.page(await parts.database.run(work), position_of)


@router.get(
    "/detections/screenshot/{streamId}/{filename}",
    response_class=Response,
    responses={200: {"content": JPEG}, **documented(NOT_FOUND)},
)
async def show_screenshot(stream_id: StreamId, filename: str, parts: PartsOf) -> Response:
    """The picture that a detection names as its `imagePath`."""
    jpeg = await parts.snapshots.read(stream_id, filename)
    if jpeg is None:
        raise Problem(NOT_FOUND, "there is no such picture yet", headers={"Retry-After": "1"})
    return Response(jpeg, media_type="image/jpeg", headers=FOR_EVER)
