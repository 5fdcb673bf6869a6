import re
from pathlib import Path

import httpx

from tests.stack import RunningStack

ROW = re.compile(r"^\| `(sightlog_\w+)` \| (\w+) \|", re.M)
EXPORTED = re.compile(r"^# TYPE (sightlog_\w+) (\w+)$", re.M)


def test_the_list_of_metrics_is_what_the_processes_export(demo: RunningStack) -> None:
    listed = dict(ROW.findall((Path(__file__).parents[3] / "docs" / "metrics.md").read_text()))
    exported: dict[str, str] = {}
    for service in demo["services"]:
        answer = httpx.get(f"http://127.0.0.1:{service['httpPort']}/metrics").raise_for_status()
        exported |= dict(EXPORTED.findall(answer.text))
    ours = {name: kind for name, kind in exported.items() if not name.endswith("_created")}
    assert listed == ours
