"""`/streams/probe`: what is at an address, before it is saved."""

import time

from fastapi import APIRouter, Depends, Request
from ulid import ULID

from services.gateway.answers import ProbeAnswer, probe_answer
from services.gateway.bodies import ProbeBody
from services.gateway.parts import PartsOf
from services.gateway.probes import Asked
from services.gateway.problems import AWAY, MALFORMED_JSON, NOT_JSON, TOO_MANY, documented
from services.gateway.routes.cameras import refuse_network, sealed
from services.gateway.routes.guard import Guarded
from services.gateway.strict import strict

router = APIRouter(tags=["streams"], dependencies=[Depends(strict)], route_class=Guarded)


@router.post("/streams/probe", responses=documented(MALFORMED_JSON, NOT_JSON, TOO_MANY, AWAY))
async def probe_source(body: ProbeBody, parts: PartsOf, request: Request) -> ProbeAnswer:
    """Opens a source without saving it, on some ingestor, for 10 s at most. What can't be opened
    is answered with 200, too: `ok` is false, and `reason`, `message` and `hint` say why."""
    began_s = time.monotonic()
    place, id = body.rtsp_url, str(ULID())
    refuse_network(parts, "/rtspUrl", place)
    credentials = body.spoken_credentials or place.credentials
    asked = Asked(
        id=id,
        url=place.url,
        sealed_credentials=sealed(parts, id, place, credentials) if credentials else None,
        verify_tls=body.verify_tls,
    )
    look = await parts.probes.look(asked, parts.observed.instances.alive(), _left(request))
    return probe_answer(look, round((time.monotonic() - began_s) * 1000))


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
