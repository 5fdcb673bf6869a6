"""Writes the JSON Schema of every topic's value, and of the headers that carry facts."""

import json
from pathlib import Path
from typing import Any

import msgspec

from schemas.topics import TOPICS, Topic


def export(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for topic in TOPICS:
        text = json.dumps(schema(topic), indent=2, ensure_ascii=False) + "\n"
        (folder / f"{topic.name}.json").write_text(text, encoding="utf-8")


def schema(topic: Topic[Any]) -> dict[str, Any]:
    """For JPEG topics: of the facts, which travel as headers."""
    made = msgspec.json.schema(topic.type)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"https://sightlog.dev/schemas/{topic.name}.json",
        "title": topic.ce_type,
        **made,
    }
