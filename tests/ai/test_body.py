import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from services.ai.body import (
    BodyTooLarge,
    BodyTooSlow,
    MalformedBody,
    UnsupportedType,
    jpeg_in,
    read_body,
)

FORM = "multipart/form-data; boundary=x"


def part(name: str, content: bytes) -> bytes:
    head = f'--x\r\nContent-Disposition: form-data; name="{name}"; filename="a"\r\n\r\n'
    return head.encode() + content + b"\r\n"


async def chunks(*sent: bytes) -> AsyncIterator[bytes]:
    for chunk in sent:
        yield chunk


async def test_a_body_of_the_limit_is_read_and_one_byte_more_is_not() -> None:
    assert await read_body(chunks(b"ab", b"cd"), 4, 1) == b"abcd"
    with pytest.raises(BodyTooLarge):
        await read_body(chunks(b"ab", b"cd", b"e"), 4, 1)


async def test_a_body_that_does_not_end_is_given_up() -> None:
    async def stalling() -> AsyncIterator[bytes]:
        yield b"ab"
        await asyncio.sleep(60)

    with pytest.raises(BodyTooSlow):
        await read_body(stalling(), 4, 0.05)


@pytest.mark.parametrize("content", [b"\xff\xd8jpeg", b"", b"a\r\n--xyz\r\nb"])
def test_the_image_field_is_found_as_it_was_sent(content) -> None:
    assert jpeg_in(part("image", content) + b"--x--\r\n", FORM) == content


def test_a_raw_body_is_the_picture() -> None:
    assert jpeg_in(b"abc", "image/jpeg") == b"abc"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"--x--\r\n",
        b"no multipart",
        part("other", b"a") + b"--x--\r\n",
        part("image", b"a"),
        part("image", b"a") + part("more", b"b") + b"--x--\r\n",
        b"--x\r\nContent-Disposition: form-data\r\n\r\na\r\n--x--\r\n",
        b"--x\r\nX: " + bytes([65]) * 2**20,
        b"--x\r\n" + b"A: b\r\n" * 10_000,
    ],
)
def test_a_form_without_just_the_image_is_malformed(body) -> None:
    with pytest.raises(MalformedBody):
        jpeg_in(body, FORM)


def test_a_form_of_very_many_parts_is_refused_at_the_second() -> None:
    body = part("image", b"a") * 100_000
    started = time.thread_time()
    with pytest.raises(MalformedBody, match="more than one part"):
        jpeg_in(body, FORM)
    assert time.thread_time() - started < 0.5


@pytest.mark.parametrize("kind", ["", "image/png", "application/json", "multipart/mixed"])
def test_another_content_type_is_unsupported(kind) -> None:
    with pytest.raises(UnsupportedType):
        jpeg_in(b"abc", kind)


@pytest.mark.parametrize("kind", ["multipart/form-data", f"{FORM}{'x' * 300}"])
def test_a_form_needs_a_boundary_of_bounded_length(kind) -> None:
    with pytest.raises(MalformedBody):
        jpeg_in(b"--x--\r\n", kind)
