"""`/streams`: what is wanted of the cameras, and how they fare."""

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Response
from sqlalchemy import Connection
from ulid import ULID

from schemas.messages import Status, now
from services.gateway import streams
from services.gateway.addresses import Address, address
from services.gateway.answers import (
    HealthAnswer,
    StreamAnswer,
    TransitionAnswer,
    health_answer,
    status_of,
    stream_answer,
)
from services.gateway.bodies import NewStream, StreamBody, StreamChange
from services.gateway.history import Placed, transitions
from services.gateway.parts import Parts, PartsOf
from services.gateway.problems import (
    CHANGED_MEANWHILE,
    MALFORMED_JSON,
    NOT_FOUND,
    NOT_JSON,
    away,
    documented,
    invalid,
)
from services.gateway.routes.cameras import refuse_network, sealed
from services.gateway.routes.guard import Guarded
from services.gateway.routes.paging import LINK, By100
from services.gateway.streams import ChangedMeanwhile, StreamRow
from services.gateway.strict import strict

router = APIRouter(tags=["streams"], dependencies=[Depends(strict)], route_class=Guarded)

AT_ONCE = 500  # rows read while those of one status are looked for
ETAG = {
    "ETag": {
        "description": "the generation: what is wanted, not what is seen",
        "schema": {"type": "string"},
    }
}
LOCATION = {"Location": {"description": "the stream", "schema": {"type": "string"}}}

IfMatch = Annotated[str | None, Header(description="an ETag: change only what you have seen")]


@router.post(
    "/streams",
    status_code=201,
    responses={201: {"headers": LOCATION}, **documented(MALFORMED_JSON, NOT_JSON)},
)
async def create_stream(body: NewStream, parts: PartsOf, response: Response) -> StreamAnswer:
    """Stopped, unless `running` says otherwise."""
    id = str(ULID())
    _refuse_networks(parts, body.rtsp_url, body)
    values = body.columns() | {"id": id}
    credentials = body.spoken_credentials or body.rtsp_url.credentials
    if credentials is not None:
        values["sealed_credentials"] = sealed(parts, id, body.rtsp_url, credentials)
    slots = parts.observed.slots
    if not slots:
        raise away("Kafka")
    row = await parts.database.run(partial(streams.create, values=values, slots=slots))
    parts.nudge()
    response.headers["Location"] = f"/streams/{id}"
    return _shown(parts, row, response)


@router.get("/streams", responses={200: {"headers": LINK}})
async def list_streams(
    parts: PartsOf,
    paging: By100,
    status: Status | None = None,
    tag: Annotated[str | None, Query(max_length=100, pattern=r"^[^\x00]*$")] = None,
) -> list[StreamAnswer]:
    """Newest first."""
    position = paging.position

    def is_wanted(row: StreamRow) -> bool:
        return status in {None, status_of(row.spec, parts.observed.status(row.id))}

    def work(connection: Connection) -> list[StreamRow]:
        before = position[0] if position else None
        return _found(connection, paging.limit + 1, before, tag, is_wanted)

    rows = paging.page(await parts.database.run(work), lambda row: [row.id])
    return [stream_answer(row, parts.observed, parts.max_fps) for row in rows]


def _found(
    connection: Connection,
    limit: int,
    before: str | None,
    tag: str | None,
    is_wanted: Callable[[StreamRow], bool],
) -> list[StreamRow]:
    """A status is nothing the table knows: rows are read until enough have the wanted one."""
    found: list[StreamRow] = []
    while len(found) < limit:
        rows = streams.newest(connection, AT_ONCE, before, tag)
        found += filter(is_wanted, rows)
        if len(rows) < AT_ONCE:
            break
        before = rows[-1].id
    return found[:limit]


@router.get("/streams/health")
async def streams_health(parts: PartsOf) -> HealthAnswer:
    """A running stream without a heartbeat for 30 s is unhealthy."""
    rows = await parts.database.run(streams.everything)
    alive = [row for row in rows if row.deleted_at is None]
    return health_answer(alive, parts.observed, now())


@router.get("/streams/{id}", responses={200: {"headers": ETAG}, **documented(NOT_FOUND)})
async def show_stream(id: str, parts: PartsOf, response: Response) -> StreamAnswer:
    row = await parts.database.run(partial(streams.find, id=id))
    return _shown(parts, row, response)


@router.patch(
    "/streams/{id}",
    responses={
        200: {"headers": ETAG},
        **documented(MALFORMED_JSON, NOT_FOUND, CHANGED_MEANWHILE, NOT_JSON),
    },
)
async def change_stream(
    id: str, body: StreamChange, parts: PartsOf, response: Response, if_match: IfMatch = None
) -> StreamAnswer:
    """A new scheme, host or port without the password drops the stored credentials: a password
    goes to no place it was not meant for."""
    if body.address is not None:
        _refuse_networks(parts, body.address, body)

    def work(connection: Connection) -> StreamRow:
        row = streams.find(connection, id, for_update=True)
        _refuse_stale(row, if_match)
        values = body.columns(row.sources) | _credentials_column(parts, row, body)
        return streams.change(connection, row, values)

    row = await parts.database.run(work)
    parts.nudge()
    return _shown(parts, row, response)


@router.delete("/streams/{id}", status_code=204, responses=documented(NOT_FOUND))
async def delete_stream(
    id: str,
    parts: PartsOf,
    purge: Annotated[bool, Query(description="its detections and pictures too, for good")] = False,
) -> None:
    """Stops it. Its detections stay until retention takes them."""

    def work(connection: Connection) -> None:
        row = streams.find(connection, id, for_update=True)
        streams.mark_deleted(connection, row, purge=purge)

    await parts.database.run(work)
    parts.nudge()


@router.post("/streams/{id}/start", status_code=202, responses=documented(NOT_FOUND))
async def start_stream(id: str, parts: PartsOf, response: Response) -> StreamAnswer:
    """Repeating is harmless; a file that has ended begins again."""
    return await _run(parts, id, response, running=True)


@router.post("/streams/{id}/stop", status_code=202, responses=documented(NOT_FOUND))
async def stop_stream(id: str, parts: PartsOf, response: Response) -> StreamAnswer:
    """Repeating is harmless."""
    return await _run(parts, id, response, running=False)


async def _run(parts: Parts, id: str, response: Response, *, running: bool) -> StreamAnswer:
    def work(connection: Connection) -> StreamRow:
        row = streams.find(connection, id, for_update=True)
        rests = status_of(row.spec, parts.observed.status(id)) is Status.STOPPED
        return streams.change(connection, row, {"running": running}, anew=running and rests)

    row = await parts.database.run(work)
    parts.nudge()
    return _shown(parts, row, response)


@router.get("/streams/{id}/history", responses={200: {"headers": LINK}, **documented(NOT_FOUND)})
async def show_history(id: str, parts: PartsOf, paging: By100) -> list[TransitionAnswer]:
    """The statuses it had, newest first."""
    position = paging.position

    def work(connection: Connection) -> list[Placed]:
        streams.find(connection, id)
        return transitions(connection, id, paging.limit + 1, position)

    found = await parts.database.run(work)
    return [placed.answer for placed in paging.page(found, lambda placed: placed.position)]


def _shown(parts: Parts, row: StreamRow, response: Response) -> StreamAnswer:
    response.headers["ETag"] = _etag(row)
    return stream_answer(row, parts.observed, parts.max_fps)


def _etag(row: StreamRow) -> str:
    return f'"{row.generation}"'


def _refuse_stale(row: StreamRow, if_match: str | None) -> None:
    tags = [tag.strip().removeprefix("W/") for tag in (if_match or "*").split(",")]
    if "*" not in tags and _etag(row) not in tags:
        raise ChangedMeanwhile


def _refuse_networks(parts: Parts, url: Address, body: StreamBody) -> None:
    refuse_network(parts, "/rtspUrl", url)
    for number, source in enumerate(body.sources):
        refuse_network(parts, f"/sources/{number}/url", source.url)


def _credentials_column(parts: Parts, row: StreamRow, body: StreamChange) -> dict[str, Any]:
    old = _accepted(row.url)
    new = body.address or old
    credentials = body.spoken_credentials or (new.credentials if new else None)
    if credentials is not None:
        if new is None:
            raise invalid("/username", "the stored address is accepted no more: give rtspUrl too")
        return {"sealed_credentials": sealed(parts, row.id, new, credentials)}
    moves = body.address is not None and (old is None or body.address.place != old.place)
    return {"sealed_credentials": None} if body.drops_credentials or moves else {}


def _accepted(url: str) -> Address | None:
    """None: stored when more was accepted than is now."""
    try:
        return address(url)
    except ValueError:
        return None
