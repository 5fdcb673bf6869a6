"""A request's body -> the JPEG in it, raw or as the multipart field `image`; bounded."""

import asyncio
from collections.abc import AsyncIterator

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

FIELD = b"image"
LINGER_BYTES = 128 * 2**20
"""Read and thrown away, so that a client that sends too much reads our answer, not a reset."""


class BodyTooLarge(ValueError):
    """More bytes than the limit."""


class BodyTooSlow(ValueError):
    """Not whole within the time allowed."""


class UnsupportedType(ValueError):
    """Neither of the two content types."""


class MalformedBody(ValueError):
    """Not multipart as RFC 7578 has it, or not with exactly the one field."""


async def read_body(chunks: AsyncIterator[bytes], limit: int, seconds: float) -> bytes:
    """The whole body; never more than `limit` bytes of it are held."""
    kept: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(seconds):
            async for chunk in chunks:
                size += len(chunk)
                if size > limit:
                    kept.clear()
                    await discard(chunks, seconds)
                    break
                kept.append(chunk)
    except TimeoutError:
        if size <= limit:
            raise BodyTooSlow(f"the body was not whole after {seconds:g} s") from None
    if size > limit:
        raise BodyTooLarge(f"the body is larger than {limit} bytes")
    return b"".join(kept)


async def discard(chunks: AsyncIterator[bytes], seconds: float) -> None:
    """Reads on to the end, the deadline or `LINGER_BYTES`, whichever comes first; keeps nothing."""
    size = 0
    try:
        async with asyncio.timeout(seconds):
            async for chunk in chunks:
                size += len(chunk)
                if size > LINGER_BYTES:
                    return
    except TimeoutError:
        return


def jpeg_in(body: bytes, content_type: str) -> bytes:
    """What the type says the picture is; whether it is a JPEG shows when it is decoded."""
    kind, options = parse_options_header(content_type)
    if kind == b"image/jpeg":
        return body
    if kind != b"multipart/form-data":
        raise UnsupportedType("expected image/jpeg, or multipart/form-data with a field `image`")
    if b"boundary" not in options:
        raise MalformedBody("multipart/form-data without a boundary")
    return image_field(body, options[b"boundary"])


def image_field(body: bytes, boundary: bytes) -> bytes:
    """The content of the one part, whose name is `image`; a second part ends the reading."""
    form = _Form()
    try:
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": form.part_began,
                "on_header_field": form.header_named,
                "on_header_value": form.header_continued,
                "on_header_end": form.header_ended,
                "on_part_data": form.data_came,
                "on_end": form.ended,
            },
        )
        parser.write(body)
    except FormParserError as error:
        raise MalformedBody(f"not multipart/form-data: {error}") from error
    return form.image()


class _Form:
    """What the parser's callbacks collect."""

    def __init__(self) -> None:
        self._parts = 0
        self._header = b""
        self._value = b""
        self._name: bytes | None = None
        self._data: list[bytes] = []
        self._whole = False

    def part_began(self) -> None:
        self._parts += 1
        if self._parts > 1:
            raise MalformedBody("more than one part: expected the field `image` alone")

    def header_named(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def header_continued(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def header_ended(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._name = parse_options_header(self._value)[1].get(b"name")
        self._header = self._value = b""

    def data_came(self, data: bytes, start: int, end: int) -> None:
        if self._name != FIELD:
            raise MalformedBody("expected one field, named `image`")
        self._data.append(data[start:end])

    def ended(self) -> None:
        self._whole = True

    def image(self) -> bytes:
        if not self._whole or self._name != FIELD:
            raise MalformedBody("the multipart body is cut or has no field `image`")
        return b"".join(self._data)
