"""Pictures from the ingestor that owns a camera: the newest, and the live ones."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import httpx
import msgspec
import structlog

from services.process.token import sign

log = structlog.get_logger()

LIVE_VIEWS = 64  # at once
LARGEST_PICTURE = 4_000_000  # bytes
LARGEST_REFUSAL = 8192
CONNECT_S, READ_S = 1.0, 3.0
SILENCE_S = 30.0  # of a live view: then it ends
TOLD = ("X-Captured-At", "X-Frame-Id")


class NoPicture(Exception):
    """The owner has none now; `reason` is why, if it said so."""

    def __init__(self, reason: str | None) -> None:
        super().__init__(reason)
        self.reason = reason


class OwnerAway(Exception):
    """The owner does not answer, or not as it should."""


class TooManyViews(Exception):
    """As many people look at live pictures as this gateway serves."""


@dataclass(frozen=True)
class Picture:
    jpeg: bytes
    facts: dict[str, str]  # headers, named as in `TOLD`


class Live:
    """A view that has begun; `chunks` must be used, or `close` called."""

    def __init__(self, owners: "Owners", response: httpx.Response) -> None:
        self._owners = owners
        self._response = response
        self.media_type = response.headers["content-type"]

    async def chunks(self) -> AsyncIterator[bytes]:
        """As they come: nothing is kept, a slow viewer slows its own connection only."""
        try:
            async for chunk in self._response.aiter_raw():
                yield chunk
        except httpx.HTTPError as error:
            log.info("live.ended", error=type(error).__name__)
        finally:
            await self.close()

    async def close(self) -> None:
        self._owners.views.discard(self)
        await self._response.aclose()


class Owners:
    def __init__(self, internal_key: str, transport: httpx.AsyncBaseTransport | None = None):
        self._key = internal_key
        self.views: set[Live] = set()
        self._beginning = 0
        self._client = httpx.AsyncClient(
            transport=transport,
            timeout=httpx.Timeout(READ_S, connect=CONNECT_S),
            limits=httpx.Limits(max_connections=LIVE_VIEWS + 32, max_keepalive_connections=16),
            follow_redirects=False,
            trust_env=False,
        )

    async def picture(self, endpoint: str, stream_id: str) -> Picture:
        """Raises NoPicture, OwnerAway."""
        response = await self._begun(self._request(endpoint, stream_id, "frame"))
        try:
            jpeg = await _bounded(response, LARGEST_PICTURE)
        finally:
            await response.aclose()
        facts = {name: response.headers[name] for name in TOLD if name in response.headers}
        return Picture(jpeg, facts)

    async def live(self, endpoint: str, stream_id: str) -> Live:
        """Raises NoPicture, OwnerAway, TooManyViews."""
        if len(self.views) + self._beginning >= LIVE_VIEWS:
            raise TooManyViews
        self._beginning += 1
        try:
            request = self._request(endpoint, stream_id, "live")
            request.extensions["timeout"]["read"] = SILENCE_S  # between frames
            async with asyncio.timeout(READ_S):
                response = await self._begun(request)
            if not response.headers.get("content-type", "").startswith("multipart/"):
                await response.aclose()
                raise OwnerAway
            view = Live(self, response)
            self.views.add(view)
        except TimeoutError as error:
            raise OwnerAway from error
        finally:
            self._beginning -= 1
        return view

    def _request(self, endpoint: str, stream_id: str, what: str) -> httpx.Request:
        return self._client.build_request(
            "GET",
            f"{endpoint}/internal/streams/{stream_id}/{what}",
            headers={"Authorization": f"Bearer {sign(self._key, audience=stream_id)}"},
        )

    async def _begun(self, request: httpx.Request) -> httpx.Response:
        try:
            response = await self._client.send(request, stream=True)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise OwnerAway from error
        if response.status_code == httpx.codes.OK:
            return response
        try:
            if response.status_code == httpx.codes.NOT_FOUND:
                raise NoPicture(_reason(await _bounded(response, LARGEST_REFUSAL)))
            log.warning("owner.refused", status=response.status_code)
            raise OwnerAway
        finally:
            await response.aclose()

    async def end_views(self) -> None:
        """So that people who look do not hold up the end of the process."""
        for view in tuple(self.views):
            await view.close()

    async def close(self) -> None:
        await self.end_views()
        await self._client.aclose()


async def _bounded(response: httpx.Response, limit: int) -> bytes:
    """Raises OwnerAway, also for more than the limit."""
    content = b""
    try:
        async for chunk in response.aiter_bytes():
            content += chunk
            if len(content) > limit:
                raise OwnerAway
    except httpx.HTTPError as error:
        raise OwnerAway from error
    return content


class _Refusal(msgspec.Struct):
    reason: str | None = None


def _reason(problem: bytes) -> str | None:
    try:
        return msgspec.json.decode(problem, type=_Refusal).reason
    except msgspec.DecodeError:
        return None
