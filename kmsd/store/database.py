"""The database behind the store: how it is opened, brought to this version, and used one transaction at a time.

Every failure of it leaves here as a KmsdError. No value of a statement is ever in one, nor a password.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep
from typing import Any, Final

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError
from sqlalchemy import Connection, Engine, create_engine, event, inspect, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, IntegrityError, SQLAlchemyError
from sqlalchemy.orm import Session
from sqlalchemy.pool import QueuePool

from kmsd import plainfile, safepath
from kmsd.errors import AlreadyExists, Misconfigured, Unavailable

TIMEOUT: Final = 5
"""Seconds that a statement waits for the database, or for another kmsd that has it."""
CONNECTIONS: Final = 8
_PAUSE: Final = 0.01
_MIGRATIONS: Final = Path(__file__).with_name("migrations")
_LOCK: Final = 0x6B6D7364
"""The advisory lock of PostgreSQL under which the tables are changed: "kmsd"."""
_POSTGRESQL: Final = "postgresql+psycopg"


class Database:
    """An open database of this version's tables.

    url: of PostgreSQL, without a password; empty for SQLite at `file`. password: of PostgreSQL. Raises Unavailable
    while it cannot be reached, and Misconfigured if it never can as it is.
    """

    def __init__(self, url: str, file: Path, password: str | None = None) -> None:
        self._file = None if url else file
        self._mark: tuple[int, int] | None = None
        if url:
            parsed = _parsed(url)
            self.name = parsed.render_as_string(hide_password=True)
            self._engine = _postgresql(parsed, password)
        else:
            self.name = f"SQLite at {file}"
            self._mark = _make(file)
            self._engine = _sqlite(file)
        try:
            with self._translated():
                self._migrate()
        except BaseException:
            self.close()
            raise

    @property
    def kind(self) -> str:
        return "postgresql" if self._file is None else "sqlite"

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """Yield a session in which nothing is changed. Raises Unavailable."""
        with self._translated(), self._session(writing=False) as session:
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """Yield a session whose changes are made together at its end. Raises AlreadyExists, Unavailable."""
        with self._translated(), self._session(writing=True) as session, session.begin():
            yield session

    def version(self) -> tuple[str, str]:
        """Return the version of the tables, and the newest that this kmsd knows. Raises Unavailable."""
        with self._translated(), self._engine.connect() as connection:
            return _version(connection), _newest()

    def integrity(self) -> str:
        """Return what is wrong with the file of SQLite, by its own check; empty if nothing is. Raises Unavailable."""
        if self._file is None:
            return ""
        with self.reading() as session:
            said = [str(row[0]) for row in session.execute(text("PRAGMA quick_check(10)"))]
        return "" if said == ["ok"] else "; ".join(said)

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    @contextmanager
    def _session(self, *, writing: bool) -> Iterator[Session]:
        self._look()
        engine = self._engine if writing else self._engine.execution_options(reading=True)
        with Session(engine, expire_on_commit=False) as session:
            yield session

    def _look(self) -> None:
        """Raise Unavailable if the file of SQLite is not the one that was opened: what is written to that one would be
        lost."""
        if self._file is None:
            return
        try:
            found = self._file.stat()
        except OSError as error:
            why = (error.strerror or str(error)).lower()
            raise Unavailable(
                f"the store {self._file} is gone: {why}",
                "put it back; without it, restart kmsd: it begins with an empty one, and certificates that are out go "
                "on working",
            ) from error
        if (found.st_dev, found.st_ino) != self._mark:
            raise Unavailable(f"the store {self._file} was replaced while kmsd had it open", "restart kmsd")

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except IntegrityError as error:
            raise AlreadyExists("the store has such an entry already") from error
        except SQLAlchemyError as error:
            raise Unavailable(
                f"the store ({self.name}) cannot be used: {_why(error)}", "kmsctl store check says more"
            ) from error

    def _migrate(self) -> None:
        """Bring the tables to this version, one kmsd at a time. Raises Misconfigured if they are of a newer one."""
        with self._engine.begin() as connection:
            if self._file is None:
                connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
            there = _version(connection)
            if there == _newest():
                return
            if there and not _known(there):
                raise Misconfigured(
                    f"the store ({self.name}) is of a newer version of kmsd: its tables have version {there}, and this "
                    f"kmsd knows {_newest()} and older",
                    "run that version of kmsd, or put back a copy that was made before it ran",
                )
            config = _config()
            config.attributes["connection"] = connection
            command.upgrade(config, "head")


def _parsed(url: str) -> URL:
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise Misconfigured("store.url is no URL of a database", f"expected {_POSTGRESQL}://user@host/name") from error
    if parsed.drivername != _POSTGRESQL:
        raise Misconfigured(
            f"store.url must begin with {_POSTGRESQL}://, got {parsed.drivername}://",
            "leave it empty for SQLite in state.dir",
        )
    if parsed.password is not None or "password" in parsed.query:
        raise Misconfigured("store.url has a password in it", "put the password in a file, and name it in "
                            "store.password_file")  # fmt: skip
    return parsed


def _postgresql(url: URL, password: str | None) -> Engine:
    arguments = {
        "connect_timeout": TIMEOUT,
        "application_name": "kmsd",
        "options": f"-c statement_timeout={TIMEOUT * 1000} -c lock_timeout={TIMEOUT * 1000}",
    }
    if password is not None:
        url = url.set(password=password)
    return create_engine(
        url,
        connect_args=arguments,
        pool_size=CONNECTIONS,
        max_overflow=0,
        pool_timeout=TIMEOUT,
        pool_pre_ping=True,
        hide_parameters=True,
    )


def _sqlite(file: Path) -> Engine:
    engine = create_engine(
        "sqlite://",
        creator=opener(file),
        poolclass=QueuePool,
        pool_size=CONNECTIONS,
        max_overflow=0,
        pool_timeout=TIMEOUT,
        hide_parameters=True,
    )

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # Python's driver begins a transaction at the first change, too late for what is read before it to still hold.
        reading = connection.get_execution_options().get("reading", False)
        connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")

    return engine


def opener(file: Path) -> Callable[[], Any]:
    """Return what opens a connection to a file of SQLite that is there. It raises sqlite3.OperationalError."""
    import sqlite3

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(
            f"{file.absolute().as_uri()}?mode=rw", uri=True, timeout=TIMEOUT, isolation_level=None,
            check_same_thread=False,
        )  # fmt: skip
        _write_ahead(connection)
        connection.execute("PRAGMA synchronous=FULL")
        return connection

    def _write_ahead(connection: sqlite3.Connection) -> None:
        # For this change alone SQLite does not wait for others that have the file open, as when several kmsd start.
        until = monotonic() + TIMEOUT
        while True:
            try:
                connection.execute("PRAGMA journal_mode=WAL")
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or monotonic() > until:
                    connection.close()
                    raise
            sleep(_PAUSE)

    return connect


def _make(file: Path) -> tuple[int, int]:
    """Make the file if it is missing, with mode 0600, and return its device and inode. Raises Misconfigured."""
    safepath.prepare(file.parent, "the store")
    try:
        opened = plainfile.open_regular(file, os.O_RDWR | os.O_CREAT)
    except OSError as error:
        raise Misconfigured(
            f"the store {file} cannot be opened: {(error.strerror or str(error)).lower()}",
            f"let {safepath.owner()} read and write it, or choose another state.dir",
        ) from error
    try:
        found = os.fstat(opened)
    finally:
        os.close(opened)
    if found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise Misconfigured(f"the store {file} may be read or written by others", f"chmod 600 {file}")
    return found.st_dev, found.st_ino


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    return config


def _newest() -> str:
    return ScriptDirectory.from_config(_config()).get_current_head() or ""


def _known(version: str) -> bool:
    try:
        return ScriptDirectory.from_config(_config()).get_revision(version) is not None
    except CommandError:
        return False


def _version(connection: Connection) -> str:
    """Return the version of the tables; empty if there are none yet."""
    if not inspect(connection).has_table("alembic_version"):
        return ""
    return str(connection.execute(text("SELECT version_num FROM alembic_version")).scalar() or "")


def _why(error: SQLAlchemyError) -> str:
    """Return what the driver says, on one line, without the statement and its values."""
    said = str(getattr(error, "orig", None) or error).strip() or type(error).__name__
    return " ".join(said.split())[:200]
