"""What the ingestor is told from outside."""

import os
import re
from base64 import b64decode
from binascii import Error as NotBase64
from collections.abc import MutableMapping
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr
from pydantic_settings import NoDecode, SettingsConfigDict

from services.process.scrub import scrub
from services.process.settings import KafkaSettings

A_CHILD_NEEDS = re.compile(
    r"PATH|HOME|TZ|TMPDIR|VIRTUAL_ENV|LANG|LC_\w+|LD_LIBRARY_PATH|PYTHON\w*|SSL_CERT_\w+"
    r"|OPENBLAS\w*|OMP_\w+|SIGHTLOG_CRASH_AT"
)
KEY_BYTES = 32  # X25519
# Measured, of what RLIMIT_DATA counts: 115 MB at 640x360, 140 MB at 1920x1080, 170 to 260 MB at
# 3840x2160, 450 to 560 MB at 7680x4320; an H.264 decoder may hold 17 pictures of 50 MB there.
CAMERA_NEEDS_BYTES = 192 << 20
CAMERA_MEMORY_BYTES = 1 << 30


def _networks(value: Any) -> Any:  # any: whatever the environment or a test holds
    if not isinstance(value, str):
        return value
    return tuple(ip_network(part.strip()) for part in value.split(",") if part.strip())


def _sealing_keys(value: SecretStr) -> SecretStr:
    for key in value.get_secret_value().split(","):
        try:
            right = len(b64decode(key.strip(), validate=True)) == KEY_BYTES
        except NotBase64:
            right = False
        if not right:
            raise ValueError("not an X25519 key")
    return value


Networks = Annotated[tuple[IPv4Network | IPv6Network, ...], NoDecode, BeforeValidator(_networks)]
SealingKeys = Annotated[SecretStr, AfterValidator(_sealing_keys)]


class Settings(KafkaSettings):
    """`INGESTOR_*`, and the names it shares with other services."""

    model_config = SettingsConfigDict(env_prefix="INGESTOR_")

    http_host: str = Field("127.0.0.1", min_length=1, description="an address to listen on")
    http_port: int = Field(9101, ge=0, le=65535, description="a port number")
    endpoint: str | None = Field(
        None, pattern=r"^https?://[^/]+$", description="http://host:port, as gateways reach us"
    )
    media_path: Path = Field(Path("media"), description="the folder of `file:` sources")
    capacity: int = Field(100, ge=1, description="how many cameras run at once, from 1")
    starts_at_once: int | None = Field(
        None, ge=1, description="how many cameras start at once, from 1"
    )
    retry_base_s: float = Field(2, gt=0, description="seconds above 0")
    retry_cap_s: float = Field(60, gt=0, description="seconds above 0")
    heartbeat_s: float = Field(10, gt=0, le=10, description="seconds above 0, 10 at most")
    buffer_bytes: int = Field(
        4 << 20, ge=1 << 16, description="bytes per stream that may wait for the broker, from 65536"
    )
    camera_memory_bytes: int = Field(
        CAMERA_MEMORY_BYTES,
        ge=CAMERA_NEEDS_BYTES,
        description=f"bytes that one camera's process may take, from {CAMERA_NEEDS_BYTES}",
    )
    max_fps: float = Field(
        20, gt=0, le=240, validation_alias="MAX_FPS", description="frames a second, 0-240"
    )
    seal_private_keys: SealingKeys | None = Field(
        None,
        validation_alias="SIGHTLOG_SEAL_PRIVATE_KEYS",
        description="base64 X25519 private keys, comma separated, the current one first",
    )
    internal_key: SecretStr | None = Field(
        None, validation_alias="SIGHTLOG_INTERNAL_KEY", description="a secret"
    )
    source_networks_allowed: Networks = Field(
        (),
        validation_alias="SIGHTLOG_SOURCE_NETWORKS_ALLOWED",
        description="networks as 10.0.0.0/8, comma separated",
    )
    source_networks_denied: Networks = Field(
        (),
        validation_alias="SIGHTLOG_SOURCE_NETWORKS_DENIED",
        description="networks as 10.0.0.0/8, comma separated",
    )


def forget_secrets(
    environment: MutableMapping[str, str] = os.environ,  # noqa: TID251 -- the door, closed behind us
) -> None:
    """Leave in the environment only what a camera's process needs.

    Services may share one file of settings: secrets of others, by names unknown here, are in our
    environment too, and every child process inherits what is in it.
    """
    scrub([name for name in environment if not A_CHILD_NEEDS.fullmatch(name)], environment)
