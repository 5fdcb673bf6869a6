"""What the gateway is told from outside."""

import base64
import binascii
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, ValidationInfo, field_validator
from sqlalchemy.exc import ArgumentError

from schemas.tables import engine_url
from services.process.settings import KafkaSettings


class Settings(KafkaSettings):
    http_host: str = Field("127.0.0.1", validation_alias="GATEWAY_HTTP_HOST")
    http_port: int = Field(
        4000, ge=0, le=65535, validation_alias="GATEWAY_HTTP_PORT", description="a port, 0 to 65535"
    )
    database_url: SecretStr = Field(
        validation_alias="DATABASE_URL", description="postgresql://user@host:port/name"
    )
    frame_storage_path: Path = Field(
        Path("./storage/frames"), validation_alias="FRAME_STORAGE_PATH"
    )
    max_fps: float = Field(
        20, gt=0, le=1000, validation_alias="MAX_FPS", description="frames a second, above 0"
    )
    seal_public_key: str = Field(
        "",
        validation_alias="SIGHTLOG_SEAL_PUBLIC_KEY",
        description="base64 of the 32 bytes of an X25519 public key",
    )
    internal_key: SecretStr = Field(
        min_length=16,
        validation_alias="SIGHTLOG_INTERNAL_KEY",
        description="a secret of at least 16 characters, the same for gateway and ingestors",
    )
    source_networks_allowed: str = Field(
        "",
        validation_alias="SIGHTLOG_SOURCE_NETWORKS_ALLOWED",
        description="networks as 10.0.0.0/8, comma separated",
    )
    source_networks_denied: str = Field(
        "",
        validation_alias="SIGHTLOG_SOURCE_NETWORKS_DENIED",
        description="networks as 10.0.0.0/8, comma separated",
    )
    allowed_hosts: str = Field(
        "",
        validation_alias="GATEWAY_ALLOWED_HOSTS",
        description="names this gateway is asked by, and origins (https://cam.home) of other "
        "pages that may use it, comma separated",
    )
    auth: Literal["on", "off"] = Field(
        "on",
        validate_default=True,
        validation_alias="GATEWAY_AUTH",
        description="on, or off where GATEWAY_HTTP_HOST is a loopback address",
    )
    api_keys: SecretStr = Field(
        SecretStr(""),
        validate_default=True,
        validation_alias="GATEWAY_API_KEYS",
        description="role:key, comma or line separated (viewer, operator, admin; a key has at "
        "least 16 characters), unless GATEWAY_AUTH is off",
    )

    @field_validator("database_url")
    @classmethod
    def _is_postgres(cls, value: SecretStr) -> SecretStr:
        try:
            engine_url(value.get_secret_value())
        except ArgumentError:
            raise ValueError("not the address of a database") from None
        return value

    @field_validator("seal_public_key")
    @classmethod
    def _is_key(cls, value: str) -> str:
        try:
            long_enough = not value or len(base64.b64decode(value, validate=True)) == 32
        except binascii.Error:
            long_enough = False
        if not long_enough:
            raise ValueError("not a key")
        return value

    @field_validator("source_networks_allowed", "source_networks_denied")
    @classmethod
    def _are_networks(cls, value: str) -> str:
        for network in words(value):
            ip_network(network, strict=False)
        return value

    @field_validator("auth")
    @classmethod
    def _is_off_only_at_home(cls, value: str, info: ValidationInfo) -> str:
        if value == "off" and not is_loopback(info.data.get("http_host", "")):
            raise ValueError("others could reach this gateway")
        return value

    @field_validator("api_keys")
    @classmethod
    def _are_keys(cls, value: SecretStr, info: ValidationInfo) -> SecretStr:
        keys = [entry.partition(":") for entry in words(value.get_secret_value())]
        roles = {"viewer", "operator", "admin"}
        if any(role not in roles or len(key.strip()) < 16 for role, _, key in keys):
            raise ValueError("not role:key")
        if not keys and info.data.get("auth") == "on":
            raise ValueError("nobody could use this gateway")
        return value


def words(text: str) -> list[str]:
    """What stands between commas, spaces and line ends."""
    return text.replace(",", " ").split()


def is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
