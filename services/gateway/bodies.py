"""What clients send. JSON's own types only: no number in a string, no unknown field."""

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    SecretStr,
    StrictBool,
    StrictStr,
    WithJsonSchema,
    model_validator,
)
from pydantic.alias_generators import to_camel

from services.gateway.addresses import LONGEST, Address, Credentials, address

_BIDI = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u061c")
_UNSEEN = {"Cc", "Cs", "Zl", "Zp"}


def _printable(text: str) -> str:
    if any(c in _BIDI or unicodedata.category(c) in _UNSEEN for c in text):
        raise ValueError("expected no control characters")
    return text


def _said(text: str) -> str:
    if not text.strip():
        raise ValueError("expected more than white space")
    return text


def _without_commas(text: str) -> str:
    if "," in text:
        raise ValueError("expected no commas")
    return text


def _unlike(*others: type) -> BeforeValidator:
    """JSON has strings and booleans of its own: they are not numbers."""

    def refused(value: Any) -> Any:
        if isinstance(value, others):
            raise ValueError("expected a number")
        return value

    return BeforeValidator(refused)


def _address(text: Any) -> Address:
    if not isinstance(text, str):
        raise ValueError("expected a string")
    return address(text)


Text = Annotated[StrictStr, AfterValidator(_printable)]
Name = Annotated[Text, Field(min_length=1, max_length=100), AfterValidator(_said)]
Label = Annotated[
    Text,
    Field(min_length=1, max_length=100),
    AfterValidator(_said),
    AfterValidator(_without_commas),
]
_a_number = _unlike(str, bool)
Fps = Annotated[int, Field(ge=1, le=30), _a_number]
Width = Annotated[int, Field(ge=64, le=7680), _a_number]
AgeMs = Annotated[int, Field(ge=1, le=3_600_000), _a_number]
Confidence = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False), _a_number]
Url = Annotated[
    Address,
    PlainValidator(_address),
    WithJsonSchema(
        {
            "type": "string",
            "maxLength": LONGEST,
            "pattern": "^(rtsp://[A-Za-z0-9_\\[]|file:[A-Za-z0-9_])",
            "examples": ["rtsp://192.168.1.20/stream1", "file:walk.mp4?loop=1"],
            "description": "`rtsp://`, `rtsps://` or `file:NAME[?loop=1]`. User name and password "
            "in it are taken out and sealed.",
        }
    ),
]
Secret = Annotated[SecretStr, Field(max_length=256)]


class Body(BaseModel):
    model_config = ConfigDict(
        extra="forbid", alias_generator=to_camel, frozen=True, hide_input_in_errors=True
    )


class SourceBody(Body):
    """A media address of a camera."""

    url: Url
    roles: list[Literal["detect", "snapshot", "live"]] = Field(
        default=["detect", "snapshot", "live"], min_length=1, max_length=3
    )


class CameraBody(Body):
    """How a camera lets us in."""

    username: Annotated[Text, Field(max_length=256)] | None = None
    password: Secret | None = Field(None, description="write-only: sealed at once, never shown")
    verify_tls: StrictBool = Field(
        True, description="false: a camera over TLS (rtsps) may show any certificate"
    )

    @model_validator(mode="after")
    def _credentials_are_whole(self) -> Self:
        if self.password is not None and self.username is None:
            raise ValueError("password: needs username beside it")
        return self

    @property
    def spoken_credentials(self) -> Credentials | None:
        """Those of the fields; an address may hold others."""
        if self.username is None:
            return None
        password = self.password.get_secret_value() if self.password else ""
        return Credentials(self.username, password)


class ProbeBody(CameraBody):
    """A source to be looked at: its fields are those of a new stream."""

    rtsp_url: Url


class StreamBody(CameraBody):
    """What a stream is told; the fields of `POST` and `PATCH` alike."""

    fps: Fps = 5
    detection_enabled: StrictBool = True
    frame_width: Width | None = Field(640, description="null: as the camera sends")
    model: Annotated[Name, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] | None = None
    min_confidence: Confidence | None = Field(None, description="null: the model's own default")
    labels: list[Label] = Field([], max_length=100, description="empty: all")
    max_frame_age_ms: AgeMs = 2000
    idle_gate: StrictBool = False
    trust_source_clock: StrictBool = False
    tags: list[Label] = Field([], max_length=100)
    sources: list[SourceBody] = Field(
        [], max_length=8, description="more than one address of a camera; the first is rtspUrl"
    )

    @model_validator(mode="after")
    def _sources_hold_no_credentials(self) -> Self:
        if any(source.url.credentials for source in self.sources):
            raise ValueError("sources: expected credentials in username and password")
        return self

    def _columns(self, names: Iterable[str]) -> dict[str, Any]:
        values = {name: getattr(self, name) for name in names if name not in _NO_COLUMNS}
        if "sources" in values:
            values["sources"] = [
                {"url": source.url.url, "roles": source.roles} for source in self.sources
            ]
        return values


_NO_COLUMNS = {"username", "password", "rtsp_url"}


class NewStream(StreamBody):
    name: Name
    rtsp_url: Url
    running: StrictBool = Field(False, description="start it at once")

    @model_validator(mode="after")
    def _first_source_is_the_url(self) -> Self:
        if self.sources and self.sources[0].url.url != self.rtsp_url.url:
            raise ValueError("sources: expected rtspUrl as the first")
        return self

    def columns(self) -> dict[str, Any]:
        """Named as the table's; credentials aside."""
        return self._columns(type(self).model_fields) | {"url": self.rtsp_url.url}


def _without_defaults(schema: dict[str, Any]) -> None:
    for field in schema["properties"].values():
        field.pop("default", None)


class StreamChange(StreamBody):
    """Only what is given changes. `username: null` drops the stored credentials."""

    model_config = ConfigDict(json_schema_extra=_without_defaults)

    name: Name = Field(default_factory=str)
    rtsp_url: Url = Field(default_factory=lambda: Address("", "", "", 0))
    running: StrictBool = False

    @model_validator(mode="after")
    def _password_is_given_too(self) -> Self:
        if self.username is not None and self.password is None:
            raise ValueError("username: needs password beside it")
        return self

    @model_validator(mode="after")
    def _first_source_is_the_url(self) -> Self:
        if self.sources and self.address not in {None, self.sources[0].url}:
            raise ValueError("sources: expected rtspUrl as the first")
        return self

    @property
    def address(self) -> Address | None:
        """The new one, if there is one."""
        if "rtsp_url" in self.model_fields_set:
            return self.rtsp_url
        return self.sources[0].url if self.sources else None

    @property
    def drops_credentials(self) -> bool:
        return bool({"username", "password"} & self.model_fields_set) and self.username is None

    def columns(self, sources: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Of the given fields. `sources`: the stored ones, of which a new url becomes the first."""
        values = self._columns(self.model_fields_set)
        if self.address is not None:
            values["url"] = self.address.url
            if sources and "sources" not in values:
                values["sources"] = [{**sources[0], "url": self.address.url}, *sources[1:]]
        return values
