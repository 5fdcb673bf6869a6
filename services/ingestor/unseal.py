"""Sealed credentials, opened: here and nowhere else."""

from base64 import b64decode, b64encode
from binascii import Error as NotBase64
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

import structlog
from msgspec import DecodeError, Struct, ValidationError, json
from nacl.exceptions import CryptoError
from nacl.public import PrivateKey, SealedBox
from typing_extensions import override

from services.process.redact import hide

log = structlog.get_logger()

DEFAULT_PORTS = {"rtsp": 554, "rtsps": 322}


class SealBroken(Exception):
    """None of our keys opens it, or it belongs to another stream or address. Names no secret."""


class Credentials(Struct, frozen=True, rename="camel"):
    """What lies in the box: for whom, for which address, and what."""

    stream_id: str
    scheme: str
    host: str
    port: int | None
    username: str
    password: str | None = None

    @override
    def __repr__(self) -> str:
        return f"Credentials({self.stream_id!r})"


def private_keys(setting: str) -> tuple[PrivateKey, ...]:
    """From base64, comma separated, the current one first."""
    return tuple(PrivateKey(b64decode(key.strip())) for key in setting.split(","))


def new_key_pair() -> tuple[str, str]:
    """A public key to seal with and its private one, in base64."""
    private = PrivateKey.generate()
    return _text(bytes(private.public_key)), _text(bytes(private))


def _text(key: bytes) -> str:
    return b64encode(key).decode()


def unseal(
    sealed: str,
    keys: Sequence[PrivateKey],
    stream_id: str,
    url: str,
    hide: Callable[[str], None] = hide,
) -> Credentials:
    """Raises SealBroken, also where they were sealed for another stream or another address.

    What an older key opens is worth a line: that key can go once there is none any more.
    """
    opened, age = _opened(sealed, keys)
    credentials = _decoded(opened)
    hide(credentials.password or "")
    if age:
        log.warning("seal.outdated", stream=stream_id, key=age + 1)
    if credentials.stream_id != stream_id:
        raise SealBroken("The stored credentials belong to another stream")
    if (credentials.scheme, credentials.host, _port(credentials)) != address(url):
        raise SealBroken("The stored credentials are for another address")
    return credentials


def address(url: str) -> tuple[str, str, int | None]:
    """Scheme, host and port, the scheme's own port where the url names none."""
    try:
        parts = urlsplit(url)
        return parts.scheme, parts.hostname or "", parts.port or DEFAULT_PORTS.get(parts.scheme)
    except ValueError:
        raise SealBroken("The address is no valid url") from None


def _port(credentials: Credentials) -> int | None:
    return credentials.port or DEFAULT_PORTS.get(credentials.scheme)


def _opened(sealed: str, keys: Sequence[PrivateKey]) -> tuple[bytes, int]:
    """And which key did it, from 0."""
    try:
        box = b64decode(sealed, validate=True)
    except NotBase64:
        raise SealBroken("The stored credentials are damaged") from None
    for age, key in enumerate(keys):
        try:
            return SealedBox(key).decrypt(box), age
        except CryptoError:
            continue
    raise SealBroken("The stored credentials were sealed with a key this ingestor does not have")


def _decoded(opened: bytes) -> Credentials:
    try:
        return json.decode(opened, type=Credentials)
    except (DecodeError, ValidationError):
        raise SealBroken("The stored credentials are damaged") from None
