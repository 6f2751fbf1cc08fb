"""Stores on SQLite and on PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kmsd.store.store import Store
from tests import postgresql
from tests.chaos import clock
from tests.enrol.site import Site

MakeStore = Callable[[], Store]


@pytest.fixture(scope="session")
def postgres() -> Iterator[postgresql.PostgreSQL]:
    server = postgresql.start()
    yield server
    server.close()


@pytest.fixture
def ahead(short_tmp: Path) -> dict[str, str]:
    """The environment of a process whose clock is 90 seconds ahead."""
    return clock(short_tmp / "clock", 90)


@pytest.fixture(params=["sqlite", "postgresql"])
def make_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MakeStore]:
    """Opens the same store again and again, as several kmsd would."""
    opened: list[Store] = []
    tmp_path.chmod(0o700)
    url, password = "", None
    if request.param == "postgresql":
        server: postgresql.PostgreSQL = request.getfixturevalue("postgres")
        url, password = server.database(), postgresql.PASSWORD

    def make() -> Store:
        opened.append(Store(url, tmp_path, password))
        return opened[-1]

    yield make
    for store in opened:
        store.close()


@pytest.fixture
def store(make_store: MakeStore) -> Store:
    return make_store()


@pytest.fixture
def site(tmp_path: Path, make_store: MakeStore) -> Iterator[Site]:
    """A CA and its EST servers, on each database."""
    (tmp_path / "site").mkdir()
    made = Site(tmp_path / "site", make_store)
    yield made
    made.close()
