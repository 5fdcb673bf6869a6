"""What is going on, a line at a time on stderr: fixed words for scripts, readable for a person."""

import sys
import threading

_one_line_at_a_time = threading.Lock()


def report(stage: str, part: str | None = None, **facts: object) -> None:
    """`stage=start part=kafka state=ready after=2.1s`."""
    named = {"stage": stage, "part": part} | facts
    line = " ".join(f"{name}={value}" for name, value in named.items() if value is not None)
    with _one_line_at_a_time:
        print(line, file=sys.stderr, flush=True)


def explain(problem: str) -> None:
    """Free text for a person, below the line it belongs to."""
    with _one_line_at_a_time:
        print(problem, file=sys.stderr, flush=True)
