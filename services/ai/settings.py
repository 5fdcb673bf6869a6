"""What the AI service is told from outside."""

import os
from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from services.process.settings import ServiceSettings

BUNDLED = Path(__file__).parent / "models" / "yolox_nano.onnx"


class Settings(ServiceSettings):
    model_config = SettingsConfigDict(env_prefix="AI_")

    http_host: str = Field("127.0.0.1", description="an address to listen on")
    http_port: int = Field(8000, ge=1, le=65535, description="a port, 1 to 65535")
    model_path: Path = Field(
        BUNDLED, description="an .onnx file with its manifest (.toml) beside it"
    )
    provider: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="auto, cpu or cuda (where it can be started)"
    )
    threads: int = Field(
        default_factory=lambda: os.cpu_count() or 1,
        ge=1,
        le=256,
        description="pictures worked on at a time, 1 to 256",
    )
    intra_op_threads: int = Field(
        1, ge=1, le=256, description="threads within one picture, 1 to 256"
    )
    queue_size: int = Field(64, ge=0, le=10_000, description="pictures that may wait, 0 to 10000")
    max_body_bytes: int = Field(
        10 * 2**20, ge=1024, le=2**30, description="bytes of a request, 1024 to 1073741824"
    )
    max_pixels: int = Field(
        2**25, ge=4096, le=2**28, description="width x height of a picture, 4096 to 268435456"
    )
    body_seconds: float = Field(
        10, gt=0, le=300, allow_inf_nan=False, description="seconds to send a picture in, up to 300"
    )
