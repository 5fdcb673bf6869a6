import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict

from services.process.settings import KafkaSettings, load


class Settings(KafkaSettings):
    model_config = SettingsConfigDict(env_prefix="DOOR_")

    http_host: str = "127.0.0.1"
    http_port: int = Field(0, ge=0, le=65535, description="a port, 1-65535")
    key: SecretStr


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {})  # what is loaded is scrubbed: not this process's own
    monkeypatch.setenv("DOOR_KEY", "hunter2-in-the-clear")


def test_a_wrong_setting_ends_the_process_with_its_name_and_never_its_value(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DOOR_HTTP_PORT", "hunter2")
    with pytest.raises(SystemExit) as ended:
        load(Settings)
    assert ended.value.code == 2
    assert capsys.readouterr().err == "setting DOOR_HTTP_PORT: expected a port, 1-65535\n"


def test_a_port_that_is_taken_is_named_before_anything_is_open(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        monkeypatch.setenv("DOOR_HTTP_PORT", str(other.getsockname()[1]))
        with pytest.raises(SystemExit) as ended:
            load(Settings)
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("setting DOOR_HTTP_PORT: expected a port that is fr")


def test_a_missing_setting_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("DOOR_KEY")
    with pytest.raises(SystemExit):
        load(Settings)
    assert capsys.readouterr().err.startswith("setting DOOR_KEY: expected ")


def test_a_secret_may_lie_in_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("DOOR_KEY")
    (tmp_path / "key").write_text("from-a-file\n")
    monkeypatch.setenv("DOOR_KEY_FILE", str(tmp_path / "key"))
    settings = load(Settings)
    assert settings.key.get_secret_value() == "from-a-file"
    assert "from-a-file" not in repr(settings)


def test_an_unreadable_secret_file_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("DOOR_KEY")
    monkeypatch.setenv("DOOR_KEY_FILE", "/nowhere/at/all")
    with pytest.raises(SystemExit):
        load(Settings)
    assert capsys.readouterr().err == "setting DOOR_KEY_FILE: expected a readable file\n"


def test_shared_settings_have_the_names_of_the_contract(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1")
    monkeypatch.setenv("SIGHTLOG_TOPIC_PREFIX", "other.")
    settings = load(Settings)
    assert (settings.kafka_bootstrap_servers, settings.topic_prefix) == ("127.0.0.1:1", "other.")


def environment_after(code: str, environment: dict[str, str]) -> dict[str, str]:
    """As /proc shows it once this is done, and as a child gets it: the same, or a value is gone."""
    code += """
import os, pathlib, sys
sys.stdout.buffer.write(pathlib.Path("/proc/self/environ").read_bytes() + b"|")
sys.stdout.flush()
os.execv("/usr/bin/env", ["env", "-0"])
"""
    ran = subprocess.run(
        [sys.executable, "-c", code], check=True, env=environment, capture_output=True, timeout=30
    )
    shown, inherited = (
        dict(line.split("=", 1) for line in part.split("\0") if "=" in line)
        for part in ran.stdout.decode(errors="surrogateescape").split("|")
    )
    shown = {name: value for name, value in shown.items() if value}
    inherited.pop("LC_CTYPE", None)  # Python's own
    assert shown == inherited
    return shown


PLAIN = {
    "PATH": "/usr/bin",
    "TOPIC": "seen",
    "KEYBOARD": "qwertz",
    "MY_KEY_FILE": "/run/secrets/key",
    "KAFKA_SSL_KEY_LOCATION": "/etc/key.pem",
}
SECRETS = dict.fromkeys(
    [
        *("GATEWAY_API_KEYS", "SIGHTLOG_INTERNAL_KEY", "SIGHTLOG_SEAL_PRIVATE_KEYS", "PGPASSWORD"),
        *("DATABASE_URL", "SMTP_PASS", "KAFKA_SASL_PASSWORD", "AWS_SECRET_ACCESS_KEY", "db_dsn"),
        *("API_TOKEN_OLD", "door_word"),
    ],
    "hunter2",
)


def test_other_services_secrets_are_gone_from_the_environment_too() -> None:
    code = """
from pydantic import SecretStr
from services.process.settings import ServiceSettings, load
class Settings(ServiceSettings):
    door_word: SecretStr
assert load(Settings).door_word.get_secret_value() == "hunter2"
"""
    assert environment_after(code, PLAIN | SECRETS) == PLAIN


def test_of_an_ingestors_environment_no_more_is_left_than_cameras_need() -> None:
    code = "from services.ingestor.settings import forget_secrets; forget_secrets()"
    odd = {"WORD_OF_SOMEBODY": "hunter2", "W\udcffRD": "hunter2"}
    assert environment_after(code, PLAIN | SECRETS | odd) == {"PATH": "/usr/bin"}
