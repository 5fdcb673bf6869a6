"""`python -m tests.ingestor.stepped FILE`: an ingestor whose UTC is ahead by the file's seconds."""

import sys
from pathlib import Path

from services.ingestor.__main__ import ingest
from services.ingestor.settings import Settings
from services.ingestor.stamp import ClockWatch, clocks_apart_s
from services.process.settings import load


def main(file: Path) -> None:
    ingest(load(Settings), ClockWatch(lambda: clocks_apart_s() + float(file.read_text())))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
