import importlib
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

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


def test_a_key_that_compose_does_not_know_is_refused(tmp_path: Path) -> None:
    planted = tmp_path / "compose.yaml"
    planted.write_text((DEPLOY / "compose.yaml").read_text().replace("restart:", "restartt:", 1))
    done = parsed(planted)
    assert done.returncode != 0
    assert "restartt" in done.stderr + done.stdout
