"""Fetch the broker's jars: locked by sha256, one copy per user, shared by every stack."""

import fcntl
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

CENTRAL = "https://repo.maven.apache.org/maven2"
LOCK = Path(__file__).with_name("kafka.lock")
ATTEMPTS = 3
PARALLEL = 4


class FetchFailed(RuntimeError):
    """A jar could not be had, or is not the one that was locked."""


@dataclass(frozen=True)
class Jar:
    """One Maven artifact and the digest its bytes must have."""

    coordinate: str
    sha256: str

    @property
    def file_name(self) -> str:
        _, artifact, version = self.coordinate.split(":")
        return f"{artifact}-{version}.jar"


def read_lock(path: Path = LOCK) -> list[Jar]:
    """The jars of a lock file: `sha256  group:artifact:version` a line, `#` comments."""
    lines = (line.split("#")[0].split() for line in path.read_text().splitlines())
    return [Jar(coordinate, sha256) for sha256, coordinate in filter(None, lines)]


def cache_folder() -> Path:
    """`SIGHTLOG_CACHE_DIR`, else where this platform keeps a user's caches."""
    named = os.environ.get("SIGHTLOG_CACHE_DIR")
    if named:
        return Path(named).absolute()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "sightlog"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sightlog"


def fetch_jars(
    jars: Sequence[Jar],
    cache: Path,
    repository: str = CENTRAL,
    report: Callable[[str], None] = lambda state: None,
) -> list[Path]:
    """Paths of all jars, each one verified now; only what is missing or damaged is fetched.

    Safe when several processes call it at once: they take turns by a file lock. A jar appears in
    the cache whole or not at all, so a fetch that was cut goes on with the next jar. `report` hears
    how many are to be fetched and how many came. Raises FetchFailed.
    """
    folder = cache / f"kafka-{lock_digest(jars)[:16]}"
    with exclusive(cache / "fetch.lock"):
        folder.mkdir(parents=True, exist_ok=True)
        for left_over in cache.glob("fetch-*/"):  # by one that was killed: we hold the lock
            shutil.rmtree(left_over, ignore_errors=True)
        missing = [jar for jar in jars if not intact(folder / jar.file_name, jar.sha256)]
        if missing:
            report(f"downloading jars={len(missing)}")
            fetch_missing(missing, folder, repository, report)
    return [folder / jar.file_name for jar in jars]


def fetch_missing(
    missing: Sequence[Jar], folder: Path, repository: str, report: Callable[[str], None]
) -> None:
    with (
        tempfile.TemporaryDirectory(prefix="fetch-", dir=folder.parent) as staging,
        ThreadPoolExecutor(PARALLEL) as pool,
    ):
        arrivals = pool.map(lambda jar: fetch_jar(jar, folder, Path(staging), repository), missing)
        for count, _ in enumerate(arrivals, 1):
            if count % 10 == 0 or count == len(missing):
                report(f"downloaded jars={count}/{len(missing)}")


def fetch_jar(jar: Jar, folder: Path, staging: Path, repository: str) -> None:
    """Put one verified jar into the folder; a network error or a wrong digest is tried again."""
    problem = ""
    for attempt in range(ATTEMPTS):
        try:
            path = download(jar, staging / str(attempt), repository)
        except (OSError, RuntimeError) as error:  # what requests and jgo raise
            problem = str(error)
            continue
        if intact(path, jar.sha256):
            path.replace(folder / jar.file_name)
            return
        problem = f"its sha256 is {digest(path)}, locked is {jar.sha256}"
    raise FetchFailed(f"{jar.coordinate} from {repository}: {problem}")


def download(jar: Jar, staging: Path, repository: str) -> Path:
    """One jar through jgo's Maven client, which honours proxies and certificates of the machine."""
    from jgo.maven import (  # noqa: PLC0415 -- 0.4 s that a warm start saves
        MavenContext,
        PythonResolver,
    )

    context = MavenContext(
        resolver=PythonResolver(lenient=True),
        repo_cache=staging,
        local_repos=[],
        remote_repos={"central": repository},
        timeout=30,
    )
    return Path(context.create_dependency(jar.coordinate).artifact.resolve())


def intact(path: Path, sha256: str) -> bool:
    return path.is_file() and digest(path) == sha256


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def lock_digest(jars: Sequence[Jar]) -> str:
    """One digest over all locked digests: names the cache folder of this very set of jars."""
    return hashlib.sha256("".join(jar.sha256 for jar in jars).encode()).hexdigest()


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Holds the lock file; it is let go when the process ends, however that happens."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
