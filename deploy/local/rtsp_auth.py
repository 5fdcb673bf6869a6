"""Basic (RFC 7617) and Digest (RFC 7616, MD5) proof of a password that is not stored here.

Both are checked against `ha1`, the MD5 of `user:realm:password`: enough to verify, and of no use
at another realm. RTSP has nothing stronger than MD5 that cameras and FFmpeg share.
"""

import base64
import binascii
import hashlib
import re
from secrets import compare_digest
from typing import Literal

from msgspec import Struct

REALM = "sightlog"
PARAMETER = re.compile(r'(\w+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,]*))')

Scheme = Literal["digest", "basic"]


class Account(Struct, frozen=True):
    """Who may watch, how they may prove it, and the nonce they were challenged with."""

    username: str
    ha1: str
    schemes: tuple[Scheme, ...]
    nonce: str


def digest_ha1(username: str, password: str) -> str:
    """What a cameras file holds instead of the password."""
    return _md5(f"{username}:{REALM}:{password}".encode())


def challenges(account: Account) -> tuple[tuple[str, str], ...]:
    """Digest first, since some clients take the first they know."""
    values = {
        "digest": f'Digest realm="{REALM}", nonce="{account.nonce}", qop="auth"',
        "basic": f'Basic realm="{REALM}"',
    }
    return tuple(("WWW-Authenticate", values[scheme]) for scheme in account.schemes)


def is_proof(authorization: str, method: str, account: Account) -> bool:
    """Whether this `Authorization` header proves the account's password for a `method` request."""
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() == "digest" and "digest" in account.schemes:
        return _is_digest_proof(value, method, account)
    if scheme.lower() == "basic" and "basic" in account.schemes:
        return _is_basic_proof(value, account)
    return False


def _is_digest_proof(value: str, method: str, account: Account) -> bool:
    """With or without `qop=auth`: old clients answer a challenge that has it without."""
    fields = {name.lower(): quoted or bare for name, quoted, bare in PARAMETER.findall(value)}
    if (fields.get("username"), fields.get("nonce")) != (account.username, account.nonce):
        return False
    parts = [account.ha1, account.nonce]
    if "qop" in fields:
        parts += [fields.get("nc", ""), fields.get("cnonce", ""), fields["qop"]]
    parts.append(_md5(_bytes(f"{method}:{fields.get('uri', '')}")))
    expected = _md5(_bytes(":".join(parts)))
    return compare_digest(expected.encode(), _bytes(fields.get("response", "").lower()))


def _is_basic_proof(value: str, account: Account) -> bool:
    try:
        username, _, password = base64.b64decode(_bytes(value), validate=True).partition(b":")
    except binascii.Error:
        return False
    ha1 = _md5(b":".join((username, REALM.encode(), password)))
    return username == account.username.encode() and compare_digest(ha1, account.ha1)


def _bytes(text: str) -> bytes:
    """The bytes that came over the wire, also where they were not UTF-8."""
    return text.encode("utf-8", "surrogateescape")


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()
