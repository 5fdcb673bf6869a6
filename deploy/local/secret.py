"""The secrets of one stack: made once, kept in files only its owner can read."""

import base64
import secrets
from pathlib import Path

from nacl.public import PrivateKey

from deploy.local.files import write_whole


class Secrets:
    """Files below one folder; what is there already is kept."""

    def __init__(self, folder: Path) -> None:
        self.seal_private_keys_file = folder / "seal-private-keys"
        self.internal_key_file = folder / "internal-key"
        self.seal_public_key_file = folder / "seal-public-key"
        self.api_keys_file = folder / "api-keys"
        self.postgres_password_file = folder / "pgpass"
        make_once(self.seal_private_keys_file, encoded(PrivateKey.generate().encode()))
        write_whole(self.seal_public_key_file, self._seal_public_key() + "\n")
        make_once(self.internal_key_file, secrets.token_urlsafe(32))
        make_once(self.api_keys_file, f"admin:{secrets.token_urlsafe(32)}")

    def _seal_public_key(self) -> str:
        """Base64 of the X25519 key that credentials of cameras are sealed with: the first's."""
        current = self.seal_private_keys_file.read_text().partition(",")[0]
        return encoded(PrivateKey(base64.b64decode(current)).public_key.encode())

    @property
    def api_key(self) -> str:
        return self.api_keys_file.read_text().strip().removeprefix("admin:")


def make_once(file: Path, value: str) -> None:
    if not file.exists():
        write_whole(file, value + "\n")


def encoded(key: bytes) -> str:
    return base64.b64encode(key).decode()
