"""What a wrong setting does, and that secrets don't stay around."""

import subprocess
import sys

import pytest

from services.ingestor.settings import Settings, forget_secrets
from services.ingestor.unseal import private_keys
from services.process.settings import load


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SIGHTLOG_SOURCE_NETWORKS_ALLOWED", "10.0.0.0/8,here"),
        ("SIGHTLOG_SEAL_PRIVATE_KEYS", "c2hvcnQ="),
        ("INGESTOR_HTTP_PORT", "-1"),
        ("MAX_FPS", "-3"),
        ("INGESTOR_HEARTBEAT_S", "10.5"),  # who is silent for longer is taken for dead
        ("INGESTOR_STARTS_AT_ONCE", "0"),
    ],
)
def test_a_wrong_setting_is_named_and_its_value_is_not(name, value, monkeypatch, capsys):
    monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as ended:
        load(Settings)
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert said.startswith(f"setting {name}: expected ")
    assert f" {value}" not in said
    assert len(said.splitlines()) == 1


def test_networks_are_read_from_a_list(monkeypatch):
    monkeypatch.setenv("SIGHTLOG_SOURCE_NETWORKS_ALLOWED", "127.0.0.0/8, ::1/128")
    assert [str(network) for network in Settings().source_networks_allowed] == [
        "127.0.0.0/8",
        "::1/128",
    ]


def test_only_what_a_camera_needs_stays_in_the_environment():
    needed = {"PATH": "/bin", "LC_ALL": "C", "PYTHONPATH": ".", "OMP_NUM_THREADS": "1", "TZ": "UTC"}
    secret = dict.fromkeys(
        [
            "SIGHTLOG_INTERNAL_KEY",
            "SIGHTLOG_SEAL_PRIVATE_KEYS",
            "KAFKA_SASL_PASSWORD",
            "DATABASE_URL",
            "GATEWAY_API_KEYS",
            "MY_PATH",
            "PATH_KEY",
        ],
        "secret",
    )
    environment = needed | secret
    forget_secrets(environment)
    assert environment == needed


def test_a_key_pair_is_made_for_both_sides():
    made = subprocess.run(
        [sys.executable, "-m", "services.ingestor", "keys"],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    lines = dict(line.partition("=")[::2] for line in made.stdout.splitlines())
    assert list(lines) == ["SIGHTLOG_SEAL_PUBLIC_KEY", "SIGHTLOG_SEAL_PRIVATE_KEYS"]
    assert len(private_keys(lines["SIGHTLOG_SEAL_PRIVATE_KEYS"])) == 1
