"""`/streams/{id}/ledger`: what became of every picture."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query
from pydantic import AwareDatetime
from sqlalchemy import Connection

from schemas.messages import now
from services.gateway import streams
from services.gateway.ledgers import LedgerAnswer, Span, ledger
from services.gateway.parts import PartsOf
from services.gateway.problems import NOT_FOUND, documented, invalid
from services.gateway.strict import strict

router = APIRouter(tags=["streams"], dependencies=[Depends(strict)])

LARGEST = 2**53  # as epochs and seqs on the wire


def span(
    epoch: Annotated[int | None, Query(ge=0, le=LARGEST)] = None,
    first: Annotated[int | None, Query(alias="fromSeq", ge=0, le=LARGEST)] = None,
    last: Annotated[int | None, Query(alias="toSeq", ge=0, le=LARGEST)] = None,
    since: Annotated[AwareDatetime | None, Query(alias="from")] = None,
    until: Annotated[AwareDatetime | None, Query(alias="to")] = None,
) -> Span:
    asked = Span(epoch, first, last, since, until)
    for name, value in (("epoch", epoch), ("fromSeq", first), ("toSeq", last)):
        if asked.is_of_time and value is not None:
            raise invalid(f"?{name}", "expected either a time or seqs of an epoch")
    if first is not None and last is not None and first > last:
        raise invalid("?fromSeq", "expected a seq up to that of `toSeq`")
    if since is not None and until is not None and since > until:
        raise invalid("?from", "expected a time before that of `to`")
    return asked


@router.get("/streams/{id}/ledger", responses=documented(NOT_FOUND))
async def show_ledger(
    id: str, parts: PartsOf, asked: Annotated[Span, Depends(span)]
) -> LedgerAnswer:
    """The books of an epoch (without parameters, of the newest), of seqs in it, or of a time. They
    close from one checkpoint to another, about a minute apart, so they are of the `ranges` of seqs
    around what was asked for."""

    def work(connection: Connection) -> LedgerAnswer:
        streams.find(connection, id)
        return ledger(connection, id, asked, now())

    return await parts.database.run(work)
