"""Looks at sources that nobody has saved, by whichever ingestor answers first."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx
import msgspec
import structlog

from schemas.messages import Instance, Reason, SourceFacts
from services.process.token import sign

log = structlog.get_logger()

LONGEST_S = 9.5  # of it all: a client is promised 10
HEAD_S = 2.0  # an ingestor that is well is at it at once, and says so; then the next is asked
MARGIN_S = 0.5  # for what it found to come back
SHORTEST_S = 1.0  # in less no camera shows itself
MOST_AT_ONCE = 100  # of one gateway
LARGEST_ANSWER = 4_000_000  # bytes


class NoIngestor(Exception):
    """None is up, or none answers."""


class TooManyProbes(Exception):
    """All that answer have as many under way as they take."""


@dataclass(frozen=True)
class Asked:
    """A source to look at. `id` is the probe's, and what the credentials were sealed for."""

    id: str
    url: str  # without userinfo
    sealed_credentials: str | None
    verify_tls: bool


class Found(msgspec.Struct, frozen=True):
    """What the ingestor saw, or why it saw nothing."""

    source: SourceFacts | None = None
    jpeg: str = ""  # base64
    reason: Reason | None = None
    message: str | None = None
    hint: str | None = None


@dataclass(frozen=True)
class Look:
    """What was found, and by whom."""

    found: Found
    instance: str


class Probes:
    def __init__(self, internal_key: str, transport: httpx.AsyncBaseTransport | None = None):
        self._key = internal_key
        self._running: set[asyncio.Task[Look]] = set()
        self._client = httpx.AsyncClient(
            transport=transport,
            timeout=LONGEST_S,
            # A probe is not sent twice: none is risked on a connection that may just be closing.
            limits=httpx.Limits(max_connections=MOST_AT_ONCE, max_keepalive_connections=0),
            follow_redirects=False,
            trust_env=False,
        )

    async def look(self, at: Asked, by: Sequence[Instance], left: Awaitable[None]) -> Look:
        """`left` ends when nobody waits for the answer any more. Raises NoIngestor, TooManyProbes.

        Where an ingestor does not answer, the next one is asked in the time that is left; the last
        one may be as slow as that.
        """
        task = asyncio.create_task(self._look(at, by))
        leaving = asyncio.ensure_future(left)
        self._running.add(task)
        try:
            await asyncio.wait({task, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done() or task.cancelled():
                raise NoIngestor
            return task.result()
        finally:
            self._running.discard(task)
            for each in (task, leaving):
                each.cancel()

    async def _look(self, at: Asked, by: Sequence[Instance]) -> Look:
        until_s = time.monotonic() + LONGEST_S
        busy = False
        places = _each_place_once(by)
        for number, instance in enumerate(places, 1):
            within_s = until_s - time.monotonic() - MARGIN_S
            if within_s < SHORTEST_S:
                break
            head_s = HEAD_S if number < len(places) else within_s
            try:
                async with asyncio.timeout(within_s + MARGIN_S):
                    return Look(await self._ask(instance, at, within_s, head_s), instance.instance)
            except TooManyProbes:
                busy = True
            except (TimeoutError, NoIngestor, httpx.HTTPError, httpx.InvalidURL) as error:
                # Neither their words nor the address are told: who knows what is in them.
                log.warning("probe.unanswered", by=instance.instance, error=type(error).__name__)
        raise TooManyProbes if busy else NoIngestor

    async def _ask(self, instance: Instance, at: Asked, within_s: float, head_s: float) -> Found:
        async with self._begun(instance, at, within_s, head_s) as response:
            content = b""
            async for chunk in response.aiter_bytes():
                content += chunk
                if len(content) > LARGEST_ANSWER:
                    raise NoIngestor
        try:
            return msgspec.json.decode(content, type=Found)
        except msgspec.DecodeError:
            raise NoIngestor from None

    @asynccontextmanager
    async def _begun(
        self, instance: Instance, at: Asked, within_s: float, head_s: float
    ) -> AsyncIterator[httpx.Response]:
        request = self._client.build_request(
            "POST",
            f"{instance.endpoint}/internal/probes/{at.id}",
            headers={"Authorization": f"Bearer {sign(self._key, audience=at.id)}"},
            json={
                "url": at.url,
                "withinS": within_s,
                "sealedCredentials": at.sealed_credentials,
                "verifyTls": at.verify_tls,
            },
        )
        async with asyncio.timeout(head_s):
            response = await self._client.send(request, stream=True)
        try:
            if response.status_code == httpx.codes.TOO_MANY_REQUESTS:
                raise TooManyProbes
            if response.status_code != httpx.codes.OK:
                raise NoIngestor
            yield response
        finally:
            await response.aclose()

    def end(self) -> None:
        """So that probes do not hold up the end of the process."""
        for task in tuple(self._running):
            task.cancel()

    async def close(self) -> None:
        self.end()
        await self._client.aclose()


def _each_place_once(instances: Sequence[Instance]) -> list[Instance]:
    """An ingestor that was started anew is where the one before it was."""
    places = {one.endpoint: one for one in reversed(instances) if one.endpoint is not None}
    return [one for one in instances if one.endpoint and places[one.endpoint] is one]
