"""A PostgreSQL of the tests' own, with a password, and a database for each who asks."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import psycopg

PASSWORD = "a word that no log may have"
_USER = "postgres"


@dataclass
class PostgreSQL:
    """A server on this machine. url: of the last database that was made."""

    folder: Path
    port: int
    _numbers: count[int] = field(default_factory=count)

    @property
    def password_file(self) -> Path:
        return self.folder / "password"

    def database(self) -> str:
        """Make a database of its own, and return its URL, without the password."""
        name = f"kmsd{next(self._numbers)}"
        with self.connect("postgres") as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return f"postgresql+psycopg://{_USER}@127.0.0.1:{self.port}/{name}"

    def connect(self, database: str) -> psycopg.Connection[tuple[object, ...]]:
        return psycopg.connect(
            host="127.0.0.1", port=self.port, user=_USER, password=PASSWORD, dbname=database, autocommit=True
        )

    def start(self) -> None:
        options = f"-c port={self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off"
        _run("pg_ctl", "-D", self.folder / "data", "-l", self.folder / "log", "-o", options, "-w", "start")

    def stop(self) -> None:
        _run("pg_ctl", "-D", self.folder / "data", "-m", "immediate", "-w", "stop")

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self.folder)


def start() -> PostgreSQL:
    """Start a server. It does not run as root, so its folder lies where every user may pass."""
    folder = Path(tempfile.mkdtemp(prefix="kmsd-pg-"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        server = PostgreSQL(folder, free.getsockname()[1])
    server.password_file.write_text(PASSWORD + "\n")
    if os.geteuid() == 0:
        shutil.chown(folder, _USER)
        shutil.chown(server.password_file, _USER)
    server.password_file.chmod(0o600)
    _run(
        "initdb", "-D", folder / "data", "-U", _USER, "-A", "scram-sha-256", "--pwfile", server.password_file,
        "--no-sync", "-E", "UTF8", "--locale=C",
    )  # fmt: skip
    server.start()
    return server


def _run(program: str, *arguments: object) -> None:
    found = shutil.which(program) or max(map(str, Path("/usr/lib/postgresql").glob(f"*/bin/{program}")))
    who = pwd.getpwnam(_USER) if os.geteuid() == 0 else None
    subprocess.run(
        [found, *map(str, arguments)], check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, timeout=60,
        user=who.pw_uid if who else None, group=who.pw_gid if who else None, cwd="/",
    )  # fmt: skip
