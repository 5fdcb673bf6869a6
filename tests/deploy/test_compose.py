import base64
import importlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from nacl.public import PrivateKey

from services.process.settings import variable_of

DEPLOY = Path(__file__).parents[2] / "deploy"
PARSER = "github.com/compose-spec/compose-go/v2/cmd@v2.16.2"
SERVICES = ("ingestor", "detector", "persister", "gateway", "ai")


def parsed(file: Path) -> subprocess.CompletedProcess[str]:
    """The file through Compose's own parser, which refuses what it does not know."""
    if not shutil.which("go"):
        pytest.skip("needs Go, to build Compose's own parser")
    return subprocess.run(
        ["go", "run", PARSER, "-format", "json", file],
        check=False,
        cwd=DEPLOY,
        capture_output=True,
        text=True,
        timeout=170,
    )


@pytest.fixture(scope="module")
def compose() -> Any:
    done = parsed(DEPLOY / "compose.yaml")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_compose_file_builds_a_target_that_the_dockerfile_has(compose: Any) -> None:
    targets = set(re.findall(r"^FROM \S+ AS (\S+)$", (DEPLOY / "Dockerfile").read_text(), re.M))
    built = {
        service["build"]["target"] for service in compose["services"].values() if "build" in service
    }
    assert set(SERVICES) <= built <= targets


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_is_given_only_settings_that_it_has(compose: Any, service: str) -> None:
    settings = importlib.import_module(f"services.{service}.settings").Settings
    known = {variable_of(settings, name, field) for name, field in settings.model_fields.items()}
    given = compose["services"][service]["environment"]
    assert {name.removesuffix("_FILE") for name in given} <= known | {
        # shared by all for brevity, of no use to the AI service
        *(("KAFKA_BOOTSTRAP_SERVERS", "SIGHTLOG_TOPIC_PREFIX") if service == "ai" else ())
    }


def readers(compose: Any, volume: str) -> set[str]:
    return {
        name
        for name, service in compose["services"].items()
        if any(mount["source"] == volume for mount in service.get("volumes") or ())
    }


def test_a_secret_is_mounted_only_where_it_is_read(compose: Any) -> None:
    assert readers(compose, "secrets-ingestor") == {"secrets", "ingestor"}  # the private keys
    assert readers(compose, "secrets-gateway") == {"secrets", "gateway"}
    assert readers(compose, "secrets-database") == {
        *("secrets", "postgres", "tables", "persister", "gateway")
    }


def test_every_secret_that_a_service_is_told_of_is_made_and_mounted_there(
    compose: Any, made: Path
) -> None:
    told = 0
    for name, service in compose["services"].items():
        mounts = [mount["target"] for mount in service.get("volumes") or ()]
        for variable, value in (service.get("environment") or {}).items():
            if variable.endswith("_FILE"):
                told += 1
                assert str(Path(value).parent) in mounts, (name, variable)
                assert (made / value.removeprefix("/secrets/")).is_file(), (name, variable)
    assert told == 9


@pytest.fixture
def made(tmp_path: Path) -> Path:
    for reader in ("ingestor", "gateway", "database"):
        (tmp_path / reader).mkdir()
    make_secrets(tmp_path)
    return tmp_path


def make_secrets(folder: Path) -> None:
    python = Path(sys.executable).parent
    done = subprocess.run(
        ["sh", DEPLOY / "secrets.sh", folder],
        check=False,
        cwd=DEPLOY.parent,
        env={"PATH": f"{python}:/usr/bin:/bin", "PYTHONPATH": str(DEPLOY.parent)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def contents(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_text() for path in files}


def test_secrets_are_made_once_and_stay(made: Path) -> None:
    before = contents(made)
    make_secrets(made)
    assert contents(made) == before
    assert all(path.stat().st_mode & 0o77 == 0 for path in made.rglob("*") if path.is_file())
    assert before["ingestor/internal_key"] == before["gateway/internal_key"]
    assert before["database/database_password"].strip() in before["database/database_url"]
    assert "ingestor/seal_private_keys" in before


def test_a_pair_of_keys_that_was_half_made_is_made_anew(made: Path) -> None:
    before = contents(made)
    (made / "ingestor" / "seal_private_keys").unlink()
    make_secrets(made)
    after = contents(made)
    assert after["gateway/seal_public_key"] != before["gateway/seal_public_key"]
    private = after["ingestor/seal_private_keys"].strip()
    public = PrivateKey(base64.b64decode(private)).public_key
    assert base64.b64encode(bytes(public)).decode() == after["gateway/seal_public_key"].strip()


def test_a_key_that_compose_does_not_know_is_refused(tmp_path: Path) -> None:
    planted = tmp_path / "compose.yaml"
    planted.write_text((DEPLOY / "compose.yaml").read_text().replace("restart:", "restartt:", 1))
    done = parsed(planted)
    assert done.returncode != 0
    assert "restartt" in done.stderr + done.stdout
