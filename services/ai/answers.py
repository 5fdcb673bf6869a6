"""The bodies of this service's HTTP answers, and what may be asked in a query."""

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel


class Body(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True)


class Asked(Body):
    """The query of `POST /detect`; a parameter it does not name is refused."""

    model_config = ConfigDict(extra="forbid")

    model: str | None = Field(None, max_length=63)
    min_confidence: float | None = Field(None, ge=0, le=1, allow_inf_nan=False)


class BoundingBox(Body):
    """Pixels of the picture sent, origin top left."""

    x: float
    y: float
    width: float
    height: float


class Detection(Body):
    label: str
    class_id: int
    confidence: float
    bounding_box: BoundingBox


class UsedModel(Body):
    name: str
    version: str
    digest: str


class FrameSize(Body):
    width: int
    height: int


class Answer(Body):
    """Best first."""

    detections: list[Detection]
    model: UsedModel
    frame: FrameSize


class ServerFacts(Body):
    """Open Inference Protocol v2, server metadata."""

    name: str
    version: str
    extensions: list[str]


class TensorFacts(Body):
    name: str
    datatype: str
    shape: list[int]


class ModelFacts(Body):
    """Open Inference Protocol v2, model metadata; a free dimension is -1."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorFacts]
    outputs: list[TensorFacts]
