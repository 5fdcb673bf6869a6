"""`/streams/{id}/frame` and `/live`, from the ingestor that owns the camera."""

from functools import partial

from fastapi import APIRouter, Depends, Response
from starlette.background import BackgroundTask
from starlette.responses import StreamingResponse

from schemas.messages import Status, StreamSpec, StreamStatus
from services.gateway import streams
from services.gateway.answers import status_of
from services.gateway.owners import NoPicture
from services.gateway.parts import Parts, PartsOf
from services.gateway.problems import (
    AWAY,
    NO_PICTURE,
    NOT_FOUND,
    TOO_MANY,
    Problem,
    documented,
)
from services.gateway.strict import strict

router = APIRouter(tags=["pictures"], dependencies=[Depends(strict)])

JPEG = {"image/jpeg": {"schema": {"type": "string", "format": "binary"}}}
MJPEG = {"multipart/x-mixed-replace": {"schema": {"type": "string", "format": "binary"}}}
NEVER_KEPT = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


@router.get(
    "/streams/{id}/frame",
    response_class=Response,
    responses={
        200: {
            "content": JPEG,
            "headers": {
                "X-Captured-At": {"schema": {"type": "string", "format": "date-time"}},
                "X-Frame-Id": {"schema": {"type": "string"}},
            },
        },
        **documented(NOT_FOUND, NO_PICTURE, AWAY),
    },
)
async def newest_frame(id: str, parts: PartsOf) -> Response:
    """The newest JPEG of the stream."""
    status, endpoint = await _owner(parts, id)
    try:
        picture = await parts.owners.picture(endpoint, id)
    except NoPicture as none:
        raise _no_picture(status, none.reason) from None
    return Response(picture.jpeg, media_type="image/jpeg", headers=picture.facts | NEVER_KEPT)


@router.get(
    "/streams/{id}/live",
    response_class=Response,
    responses={200: {"content": MJPEG}, **documented(NOT_FOUND, NO_PICTURE, TOO_MANY, AWAY)},
)
async def live_view(id: str, parts: PartsOf) -> Response:
    """MJPEG as it is captured; the boxes come over the WebSocket."""
    status, endpoint = await _owner(parts, id)
    try:
        live = await parts.owners.live(endpoint, id)
    except NoPicture as none:
        raise _no_picture(status, none.reason) from None
    return StreamingResponse(
        live.chunks(),
        media_type=live.media_type,
        headers=NEVER_KEPT,
        background=BackgroundTask(live.close),
    )


async def _owner(parts: Parts, id: str) -> tuple[StreamStatus, str]:
    spec, seen = await _wanted(parts, id), parts.observed.status(id)
    status = status_of(spec, seen)
    if seen is None or seen.endpoint is None or status is Status.STOPPED:
        raise Problem(NO_PICTURE, f"the stream is {status}")
    return seen, seen.endpoint


async def _wanted(parts: Parts, id: str) -> StreamSpec:
    """As the topic says it: who looks goes on looking while the database is away. Raises
    NoSuchStream."""
    said = parts.observed.spec(id)
    if said is not None:
        return said
    row = await parts.database.run(partial(streams.find, id=id))  # perhaps not said yet
    return row.spec


def _no_picture(status: StreamStatus, reason: str | None) -> Problem:
    why = ": ".join(filter(None, (status.reason or reason, status.message)))
    return Problem(NO_PICTURE, f"the stream is {status.status}" + (f" ({why})" if why else ""))
