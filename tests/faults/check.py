"""python -m tests.faults.check --stack DIR [--stream ID]... [--grace SECONDS]

Whether the books of a stack balance, from its topics and its tables alone. It knows the services'
code only by what they said; of the product it uses the contract (`schemas`).

The last line on stdout is the verdict as JSON; exit status 0: it passes, 1: it does not, 2: usage
or nothing there to read.
"""

import argparse
import json
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any, NoReturn

import psycopg
from confluent_kafka import KafkaException

from tests.faults.books import Verdict, judge
from tests.faults.gather import Gathering, NotReadable, Stack

GRACE_S = 20.0
MOST_SHOWN = 1000  # violations


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.check", description=__doc__)
    parser.add_argument("--stack", type=Path, required=True, metavar="DIR")
    parser.add_argument("--stream", action="append", metavar="ID", help="all where none is named")
    parser.add_argument("--grace", type=float, default=GRACE_S, metavar="SECONDS")
    arguments = parser.parse_args()
    try:
        verdict = check(Stack.described_in(arguments.stack), arguments.stream, arguments.grace)
    except (OSError, json.JSONDecodeError, KeyError) as error:
        usage(f"no stack in {arguments.stack}: {error}")
    except (NotReadable, KafkaException, psycopg.Error) as error:
        usage(str(error))
    print(as_json(verdict))
    sys.exit(0 if verdict.passes else 1)


def check(
    stack: Stack, streams: Collection[str] | None = None, grace_s: float = GRACE_S
) -> Verdict:
    """Of these streams; None: of all that the stack knows."""
    gathering = Gathering(stack, streams, grace_s)
    try:
        return judge(gathering.gather())
    finally:
        gathering.close()


def as_json(verdict: Verdict) -> str:
    """One line."""
    return json.dumps(summary(verdict))


def summary(verdict: Verdict) -> dict[str, Any]:
    return {
        "streams": verdict.streams,
        "published": verdict.published,
        "outcomes": verdict.outcomes,
        "repeats": verdict.repeats,
        "unread": verdict.unread,
        "rows": verdict.rows,
        "violations": [one.as_json() for one in verdict.violations[:MOST_SHOWN]],
        "pass": verdict.passes,
    }


def usage(problem: str) -> NoReturn:
    sys.stderr.write(f"{problem}\n")
    raise SystemExit(2)


if __name__ == "__main__":
    main()
