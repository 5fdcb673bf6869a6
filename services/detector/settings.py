"""What the detector is told from outside."""

from pydantic import AnyHttpUrl, Field
from pydantic_settings import SettingsConfigDict

from services.process.settings import KafkaSettings


class Settings(KafkaSettings):
    model_config = SettingsConfigDict(env_prefix="DETECTOR_")

    ai_service_url: AnyHttpUrl = Field(
        AnyHttpUrl("http://localhost:8000"),
        validation_alias="AI_SERVICE_URL",
        description="an http or https address",
    )
    ai_timeout_s: float = Field(2.0, gt=0, le=30, description="seconds, above 0 and at most 30")
    ai_calls: int = Field(8, ge=1, le=256, description="calls at once, 1 to 256")
    http_host: str = Field("127.0.0.1", min_length=1, description="an address to listen on")
    http_port: int = Field(9201, ge=0, le=65535, description="a port, 0 to 65535")
    snapshots_per_minute: int = Field(60, ge=0, le=6000, description="0 to 6000")
    waiting_bytes: int = Field(
        64 * 1024 * 1024, ge=2_000_000, description="bytes of frames that wait, from 2000000"
    )
    unaccounted_frames: int = Field(
        5000, ge=100, le=100_000, description="frames read and not yet accounted for, 100 to 100000"
    )
    session_timeout_s: float = Field(
        10, ge=3, le=30, description="seconds until a dead worker's partitions go on, 3 to 30"
    )
    stall_s: float = Field(30, ge=5, description="seconds without progress, from 5")
