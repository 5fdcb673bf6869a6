"""What the persister is told from outside."""

from pathlib import Path

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import SettingsConfigDict
from sqlalchemy.exc import ArgumentError

from schemas.tables import engine_url
from services.process.settings import KafkaSettings


class Settings(KafkaSettings):
    model_config = SettingsConfigDict(
        env_prefix="PERSISTER_", frozen=True, extra="ignore", populate_by_name=True
    )

    database_url: SecretStr = Field(
        ..., validation_alias="DATABASE_URL", description="postgresql://user@host:port/name"
    )
    frame_storage_path: Path = Field(
        Path("./storage/frames"), validation_alias="FRAME_STORAGE_PATH", description="a folder"
    )
    http_host: str = Field("127.0.0.1", min_length=1, description="an address to listen on")
    http_port: int = Field(9301, ge=0, le=65535, description="a port to listen on")
    batch_size: int = Field(2000, ge=1, le=20_000, description="1 to 20000 messages")
    batch_seconds: float = Field(0.25, ge=0, le=5, description="0 to 5 seconds")
    batch_bytes: int = Field(8 << 20, ge=1, le=256 << 20, description="1 to 268435456 bytes")

    @field_validator("database_url")
    @classmethod
    def is_address_of_postgres(cls, value: SecretStr) -> SecretStr:
        try:
            engine_url(value.get_secret_value())
        except ArgumentError:
            raise ValueError("not an address of a database") from None
        return value
