"""Credentials of cameras are written here and read nowhere but in an ingestor.

A sealed box (X25519) of `{streamId, scheme, host, port, username, password}`: an ingestor uses them
for that stream at that place only, so that a box moved to another row opens nothing.
"""

import base64

import msgspec
from nacl.public import PublicKey, SealedBox

from services.gateway.addresses import Address, Credentials
from services.process.redact import hide


class NoSealingKey(Exception):
    """There is no SIGHTLOG_SEAL_PUBLIC_KEY, and nothing is stored unsealed."""


class Seal:
    def __init__(self, public_key: str) -> None:
        """Base64 of 32 bytes; empty: there is none, and every seal raises NoSealingKey."""
        key = base64.b64decode(public_key)
        self._box = SealedBox(PublicKey(key)) if key else None

    def sealed(self, stream_id: str, address: Address, credentials: Credentials) -> str:
        if self._box is None:
            raise NoSealingKey
        hide(credentials.password)
        content = {
            "streamId": stream_id,
            "scheme": address.scheme,
            "host": address.host.strip("[]"),
            "port": address.port,
            "username": credentials.username,
            "password": credentials.password,
        }
        return base64.b64encode(self._box.encrypt(msgspec.json.encode(content))).decode()
