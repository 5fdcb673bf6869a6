"""Every command of the README does what it says, against the demo."""

import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.stack import RunningStack

ROOT = Path(__file__).parents[3]
FENCE = re.compile(
    r"(?:<!-- (?P<note>[^\n]*?) -->\n)?```(?P<kind>sh|python)\n(?P<code>.*?)```", re.S
)


@dataclass(frozen=True)
class Fenced:
    kind: str
    code: str
    note: str


BLOCKS = [
    Fenced(found["kind"], found["code"], found["note"] or "")
    for found in FENCE.finditer((ROOT / "README.md").read_text())
]


def test_the_readme_has_commands() -> None:
    assert len(BLOCKS) >= 6


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.code.splitlines()[0][:40])
def test_a_fenced_command_works_as_it_stands(demo: RunningStack, block: Fenced) -> None:
    if block.note.startswith("not run"):
        pytest.skip(block.note)
    if (needed := block.note.removeprefix("needs ")) != block.note and not shutil.which(needed):
        pytest.skip(f"needs {needed}")
    code = on_the_ports_of(demo, block.code)
    command = ["bash", "-euo", "pipefail", "-c"] if block.kind == "sh" else [sys.executable, "-c"]
    done = subprocess.run(
        [*command, code], check=False, capture_output=True, text=True, timeout=90, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip(), "it shows something"
    assert "sightlog.dev/problems" not in done.stdout


def on_the_ports_of(demo: RunningStack, code: str) -> str:
    """The README speaks of the default ports; the demo of the tests has others."""
    gateway = demo["gatewayUrl"].removeprefix("http://")
    camera = demo["cameras"][0]["url"].removeprefix("rtsp://").split("/")[0]
    return (
        code.replace("localhost:4000", gateway)
        .replace("localhost:9092", demo["kafkaBootstrapServers"])
        .replace("localhost:8554", camera)
        .replace("sightlog.detections", f"{demo['topicPrefix']}detections")
    )
