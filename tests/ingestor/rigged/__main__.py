"""`python -m tests.ingestor.rigged names FILE|burn`"""

import sys
from functools import partial
from pathlib import Path

from services.ingestor import camera
from services.ingestor.__main__ import ingest
from services.ingestor.settings import Settings
from services.ingestor.stamp import ClockWatch
from services.process.settings import load
from tests.ingestor.rigged.cameras import Names, burn


def main(kind: str, *file: str) -> None:
    show = burn if kind == "burn" else partial(camera.main, resolve=Names(*map(Path, file)))
    ingest(load(Settings), ClockWatch(), show)


if __name__ == "__main__":
    main(*sys.argv[1:])
