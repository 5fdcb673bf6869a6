"""What every service is told from outside, and how a wrong setting ends the process.

Nothing else reads the environment. Each `NAME` may come as `NAME_FILE`, the path to its value: the
way for secrets, since a file is in no environment. A secret that came in the environment all the
same is taken out of it, as far as that can be done from within; so are those of other services,
which may share one file of settings with this one.
"""

import os
import re
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, SettingsConfigDict

from services.process.redact import hide_setting
from services.process.scrub import scrub

S = TypeVar("S", bound=BaseSettings)

WRONG_SETTING = 2  # the exit status, INTERFACES
NAMES_A_SECRET = re.compile(
    r"\w*(?:PASS(?:WORD|WD|PHRASE)?|SECRET|TOKEN|KEY|CREDENTIAL|URL|URI|DSN)S?(?:_\w+)?"
    r"(?<!_FILE)(?<!_PATH)(?<!_LOCATION)",
    re.I,
)
"""Of variables, whoever's: other services' names are unknown here. An address may have a password
in it."""


class ServiceSettings(BaseSettings):
    """The shared names; each service adds its own under its prefix."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", populate_by_name=True)

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", validation_alias="LOG_LEVEL", description="DEBUG, INFO, WARNING or ERROR"
    )


class KafkaSettings(ServiceSettings):
    """How to reach the brokers: librdkafka's names, upper-cased, behind `KAFKA_`."""

    kafka_bootstrap_servers: str = Field(
        "localhost:9092",
        min_length=1,
        validation_alias="KAFKA_BOOTSTRAP_SERVERS",
        description="host:port, comma separated",
    )
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", validation_alias="KAFKA_SECURITY_PROTOCOL"
    )
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        "SCRAM-SHA-512", validation_alias="KAFKA_SASL_MECHANISM"
    )
    kafka_sasl_username: str = Field("", validation_alias="KAFKA_SASL_USERNAME")
    kafka_sasl_password: SecretStr = Field(
        SecretStr(""), validation_alias="KAFKA_SASL_PASSWORD", description="a secret"
    )
    kafka_ssl_ca_location: Path | None = Field(None, validation_alias="KAFKA_SSL_CA_LOCATION")
    kafka_ssl_certificate_location: Path | None = Field(
        None, validation_alias="KAFKA_SSL_CERTIFICATE_LOCATION"
    )
    kafka_ssl_key_location: Path | None = Field(None, validation_alias="KAFKA_SSL_KEY_LOCATION")
    topic_prefix: str = Field(
        "sightlog.",
        pattern=r"^[a-zA-Z0-9._-]{0,60}$",
        validation_alias="SIGHTLOG_TOPIC_PREFIX",
        description="letters, digits, dots, dashes, underscores",
    )


def load(settings: type[S]) -> S:
    """The settings, or one line `setting NAME: expected ...` on stderr and exit status 2.

    From here on the secrets among them show in no log and in no environment.
    """
    try:
        loaded = settings(**from_files(settings, os.environ))  # noqa: TID251 -- the door
    except ValidationError as error:
        problem = error.errors()[0]
        sys.stderr.write(
            f"setting {_name(settings, problem['loc'])}: {_expected(settings, problem)}\n"
        )
        raise SystemExit(WRONG_SETTING) from None
    except UnreadableFile as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(WRONG_SETTING) from None
    if not is_free(loaded):
        name = _name(settings, ("http_port",))
        sys.stderr.write(f"setting {name}: expected a port that is free at its HTTP_HOST\n")
        raise SystemExit(WRONG_SETTING)
    secrets = {
        variable_of(settings, name, field).upper(): secret.get_secret_value()
        for name, field in settings.model_fields.items()
        if isinstance(secret := getattr(loaded, name), SecretStr)
    }
    for value in secrets.values():
        hide_setting(value)
    environment = os.environ  # noqa: TID251 -- the door
    scrub(
        [name for name in environment if name.upper() in secrets or NAMES_A_SECRET.fullmatch(name)],
        environment,
    )
    return loaded


def is_free(loaded: BaseSettings) -> bool:
    """Whether its server will be able to listen. Asked before anything else is open: who finds
    out later has half a process to take apart."""
    host, port = getattr(loaded, "http_host", None), getattr(loaded, "http_port", 0)
    if host is None:
        return True
    try:
        socket.create_server((host, port), family=family_of(host)).close()
    except OSError:
        return False
    return True


def family_of(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


class UnreadableFile(Exception):
    """`setting NAME_FILE: expected a readable file`."""


def from_files(settings: type[BaseSettings], environment: Mapping[str, str]) -> dict[str, Any]:
    """Values of `NAME_FILE` for every `NAME` that the environment does not hold itself."""
    found: dict[str, Any] = {}
    for field_name, field in settings.model_fields.items():
        name = variable_of(settings, field_name, field)
        path = environment.get(f"{name}_FILE")
        if path is None or name in environment:
            continue
        try:
            found[field_name] = Path(path).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UnreadableFile(f"setting {name}_FILE: expected a readable file") from error
    return found


def variable_of(settings: type[BaseSettings], field_name: str, field: FieldInfo) -> str:
    """The name of the environment variable that sets this field."""
    if isinstance(field.validation_alias, str):
        return field.validation_alias
    return f"{settings.model_config.get('env_prefix', '')}{field_name}".upper()


def _name(settings: type[BaseSettings], location: tuple[int | str, ...]) -> str:
    first = str(location[0]) if location else ""
    for field_name, field in settings.model_fields.items():
        variable = variable_of(settings, field_name, field)
        if first.upper() in {field_name.upper(), variable.upper()}:
            return variable
    return first.upper() or settings.__name__


def _expected(settings: type[BaseSettings], problem: Mapping[str, Any]) -> str:
    """What would have been right; never the value itself, which may be a secret."""
    name = _name(settings, problem["loc"])
    for field_name, field in settings.model_fields.items():
        if variable_of(settings, field_name, field) == name and field.description:
            return f"expected {field.description}"
    return f"expected {problem['msg'][:1].lower()}{problem['msg'][1:]}"
