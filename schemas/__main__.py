"""python -m schemas migrate | provision | export DIR

Reads DATABASE_URL; KAFKA_* (librdkafka's names, upper-cased), SIGHTLOG_TOPIC_PREFIX and
SIGHTLOG_SIZE (local, small or large). Secrets also as NAME_FILE.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import Any, NoReturn

from confluent_kafka import KafkaException
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from schemas.export import export
from schemas.migrate import migrate
from schemas.provision import SIZES, provision


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m schemas", description=__doc__)
    jobs = parser.add_subparsers(dest="job", required=True)
    jobs.add_parser("migrate", help="bring the database to the newest shape")
    jobs.add_parser("provision", help="create the topics")
    jobs.add_parser("export", help="write JSON Schema").add_argument("folder", type=Path)
    arguments = parser.parse_args()
    try:
        if arguments.job == "migrate":
            migrate(setting("DATABASE_URL", "postgresql://user@host:port/name"))
        elif arguments.job == "provision":
            prefix = setting("SIGHTLOG_TOPIC_PREFIX", "a prefix", "sightlog.")
            provision(kafka(), prefix, SIZES[size()])
        else:
            export(arguments.folder)
    except ArgumentError:
        wrong("DATABASE_URL", "postgresql://user@host:port/name")
    except (KafkaException, SQLAlchemyError, OSError) as error:
        sys.exit(f"{arguments.job} failed: {type(error).__name__}: {str(error).splitlines()[0]}")


def kafka() -> dict[str, Any]:
    """KAFKA_SASL_USERNAME -> sasl.username, and so on."""
    names = {name.removesuffix("_FILE") for name in environment if name.startswith("KAFKA_")}
    settings = {name[6:].lower().replace("_", "."): setting(name, "a value") for name in names}
    return {"bootstrap.servers": "localhost:9092"} | settings


def size() -> str:
    name = setting("SIGHTLOG_SIZE", "local, small or large", "local")
    return name if name in SIZES else wrong("SIGHTLOG_SIZE", "local, small or large")


environment = os.environ  # noqa: TID251 -- this command's settings


def setting(name: str, expected: str, default: str | None = None) -> str:
    if name in environment:
        return environment[name]
    try:
        return Path(environment[f"{name}_FILE"]).read_text(encoding="utf-8").strip()
    except KeyError:
        return default if default is not None else wrong(name, expected)
    except OSError:
        wrong(f"{name}_FILE", "a readable file")


def wrong(name: str, expected: str) -> NoReturn:
    sys.stderr.write(f"setting {name}: expected {expected}\n")
    raise SystemExit(2)


if __name__ == "__main__":
    main()
