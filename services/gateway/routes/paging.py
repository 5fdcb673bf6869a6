"""`?limit=&cursor=` in, `Link: rel="next"` out: the body of a list stays a plain array."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, TypeVar

from fastapi import Depends, Query, Request, Response

from services.gateway.pages import Pages
from services.gateway.parts import PartsOf

T = TypeVar("T")

LINK = {"Link": {"description": '`rel="next"`, if there is more', "schema": {"type": "string"}}}


@dataclass(frozen=True)
class Paging:
    pages: Pages
    request: Request
    response: Response
    limit: int

    @property
    def position(self) -> list[str] | None:
        """After which item the page begins; None: at the newest. Raises ForeignCursor."""
        return self.pages.position(self.request.url.path, self.request.query_params)

    def page(self, found: list[T], position_of: Callable[[T], Sequence[str]]) -> list[T]:
        """`found`: one more than `limit`, if there is one more."""
        if len(found) <= self.limit:
            return found
        last = found[self.limit - 1]
        path, query = self.request.url.path, self.request.query_params
        self.response.headers["Link"] = self.pages.link(path, query, position_of(last))
        return found[: self.limit]


def paging(limit: int) -> Callable[..., Paging]:
    def asked(
        parts: PartsOf,
        request: Request,
        response: Response,
        limit: Annotated[int, Query(ge=1, le=1000)] = limit,
        cursor: Annotated[str | None, Query(description="of a `rel=next` link")] = None,
    ) -> Paging:
        return Paging(parts.pages, request, response, limit)

    return asked


By50 = Annotated[Paging, Depends(paging(50))]
By100 = Annotated[Paging, Depends(paging(100))]
