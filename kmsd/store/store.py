"""The store as others see it."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sqlalchemy import delete, func, insert, select
from sqlalchemy.orm import Session

from kmsd.store.certificates import StoredLedger
from kmsd.store.database import Database
from kmsd.store.requests import Requests
from kmsd.store.schema import Base, CounterRow
from kmsd.store.tokens import Tokens

FILE: Final = "store.sqlite"
"""The name of SQLite's file in the state directory."""
_ROWS: Final = 500
"""Rows that are copied at once."""


@dataclass(frozen=True)
class StoreCheck:
    """The outcome of a look at the store.

    name: which database it is, without a password. version, newest: of its tables, and the one that this kmsd knows.
    rows: number of rows of each table. problem: what is wrong with it; empty if nothing is.
    """

    kind: str
    name: str
    version: str
    newest: str
    rows: dict[str, int]
    problem: str = ""


class Store:
    """The store. Raises Unavailable while the database cannot be reached, and Misconfigured if it never can be used as
    it is: another version's, a file that others may read, a URL that is none.

    url: of PostgreSQL; empty for SQLite in the state directory. password: of PostgreSQL.
    """

    def __init__(self, url: str, state_dir: Path, password: str | None = None) -> None:
        self._database = Database(url, state_dir / FILE, password)
        self.tokens = Tokens(self._database)
        self.ledger = StoredLedger(self._database)
        self.requests = Requests(self._database)

    @property
    def name(self) -> str:
        """The database in words, without a password."""
        return self._database.name

    def touch(self) -> None:
        """Ask the database for next to nothing. Raises Unavailable if it does not answer."""
        with self._database.reading() as session:
            session.scalar(select(CounterRow.value))

    def check(self) -> StoreCheck:
        """Look at the store, and write nothing. Raises Unavailable."""
        version, newest = self._database.version()
        with self._database.reading() as session:
            rows = {name: _count(session, name) for name in sorted(Base.metadata.tables)}
        return StoreCheck(self._database.kind, self.name, version, newest, rows, self._database.integrity())

    def backup(self, file: Path) -> int:
        """Copy all of it, as of one moment, into a new SQLite file that can stand in its place; return its bytes.

        Raises Unavailable, and Misconfigured if the file cannot be made.
        """
        copy = Database("", file)
        try:
            with self._database.reading() as source, copy.writing() as target:
                if self._database.kind == "postgresql":
                    source.connection(execution_options={"isolation_level": "REPEATABLE READ"})
                for table in Base.metadata.sorted_tables:
                    target.execute(delete(table))
                    for rows in source.execute(select(table)).mappings().partitions(_ROWS):
                        target.execute(insert(table), [dict(row) for row in rows])
        except BaseException:
            with contextlib.suppress(OSError):
                file.unlink()
            raise
        finally:
            copy.close()
        return file.stat().st_size

    def close(self) -> None:
        """Close all connections."""
        self._database.close()


def _count(session: Session, table: str) -> int:
    return session.scalar(select(func.count()).select_from(Base.metadata.tables[table])) or 0
