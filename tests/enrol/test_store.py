"""What several kmsd share: on SQLite and on a real PostgreSQL."""

from __future__ import annotations

import sqlite3
import stat
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from kmsd.ca.ledger import Issued, Ledger
from kmsd.errors import AlreadyExists, Conflict, KmsdError, Misconfigured, NotFound, Overloaded, Unavailable
from kmsd.store import requests as requests_of_store
from kmsd.store.database import opener
from kmsd.store.records import EnrolmentRequest, EnrolmentToken, RequestState
from kmsd.store.schema import Base
from kmsd.store.store import FILE, Store
from tests import postgresql

pytestmark = pytest.mark.processes

NOW = int(time.time())
TOKEN = EnrolmentToken("t1", b"salt", b"hash", "node-1", "cluster-a", NOW + 3600, 1, 1, "uid 0", NOW)
TIME = datetime.fromtimestamp(NOW, UTC)
CERTIFICATE = Issued(
    (1 << 158) + 31, b"issuer", "node-1", "cluster-a", b"k" * 32, TIME, TIME + timedelta(days=1), b"der \x00\xff"
)
REQUEST = EnrolmentRequest("r1", "p" * 64, b"csr", "CN=node-1", "", "127.0.0.1", NOW, NOW + 3600)

MakeStore = Callable[[], Store]


def test_what_one_kmsd_keeps_another_finds(make_store: MakeStore) -> None:
    one, other = make_store(), make_store()
    one.tokens.add(TOKEN)
    one.ledger.record(CERTIFICATE)
    one.requests.ask(REQUEST)
    assert other.tokens.find("t1") == TOKEN
    assert other.ledger.find(CERTIFICATE.serial) == CERTIFICATE
    assert other.requests.all() == [REQUEST]
    assert [other.tokens.find("t2"), other.requests.find("r2"), other.ledger.find(1)] == [None, None, None]


def test_the_memory_of_the_ca_answers_by_key_node_and_age(store: Store) -> None:
    ledger: Ledger = store.ledger
    later = replace(CERTIFICATE, serial=2, tenant="cluster-b", not_after=TIME + timedelta(days=9))
    ledger.record(CERTIFICATE)
    ledger.record(later)
    assert list(ledger.of_key(b"k" * 32)) == list(ledger.of_node("node-1")) == list(ledger.latest(9))
    assert set(ledger.latest(9)) == {CERTIFICATE, later}
    assert list(ledger.of_node("node-1", "cluster-b")) == [later]
    assert len(ledger.latest(1)) == 1
    assert [*ledger.of_key(b"x" * 32), *ledger.of_node("node-2")] == []
    assert (ledger.last_end(b"issuer"), ledger.last_end(b"another")) == (later.not_after, None)
    ledger.revoke(2, TIME, "superseded")
    assert ledger.last_end(b"issuer") == CERTIFICATE.not_after
    assert list(ledger.revoked(TIME + timedelta(days=2))) == [replace(later, revoked_at=TIME, reason="superseded")]
    assert list(ledger.revoked(TIME + timedelta(days=9))) == []


def test_certificates_of_cas_are_kept_once_and_in_order(make_store: MakeStore) -> None:
    one, other = make_store(), make_store()
    for der in (b"root", b"cross", b"root"):
        one.ledger.keep_authority(der)
    other.ledger.keep_authority(b"cross")
    other.ledger.keep_authority(b"another")
    assert one.ledger.authorities() == [b"root", b"cross", b"another"]


def test_a_token_is_used_once_whatever_the_number_of_replicas(make_store: MakeStore) -> None:
    replicas = [make_store() for _ in range(8)]
    replicas[0].tokens.add(TOKEN)
    begin = threading.Barrier(16)

    def use(number: int) -> int:
        begin.wait()
        return sum(replicas[(number + each) % 8].tokens.use("t1", NOW) for each in range(12))

    with ThreadPoolExecutor(16) as pool:
        assert sum(pool.map(use, range(16))) == 1
    assert replicas[3].tokens.find("t1") == replace(TOKEN, uses_left=0)


def test_a_use_that_led_to_nothing_is_given_back_and_never_more_than_were_taken(store: Store) -> None:
    store.tokens.add(replace(TOKEN, uses=2, uses_left=2))
    store.tokens.give_back("t1")
    assert [store.tokens.use("t1", NOW) for _ in range(3)] == [True, True, False]
    store.tokens.give_back("t1")
    assert [store.tokens.use("t1", NOW) for _ in range(2)] == [True, False]


def test_a_token_that_has_ended_or_was_revoked_is_not_used(store: Store) -> None:
    store.tokens.add(TOKEN)
    assert not store.tokens.use("t1", TOKEN.expires)
    revoked = store.tokens.revoke("t1", NOW)
    assert revoked is not None
    assert (revoked.revoked_at, revoked.usable(NOW)) == (NOW, False)
    assert not store.tokens.use("t1", NOW)
    assert store.tokens.revoke("t2", NOW) is None
    with pytest.raises(AlreadyExists):
        store.tokens.add(TOKEN)


def test_tokens_that_ended_long_ago_are_forgotten_and_their_number_has_a_bound(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.tokens.add(replace(TOKEN, expires=NOW - 31 * 86400))
    store.tokens.add(replace(TOKEN, id="t2", expires=NOW - 86400))
    assert [each.id for each in store.tokens.all()] == ["t2"]
    monkeypatch.setattr("kmsd.store.tokens.MOST", 1)
    with pytest.raises(Overloaded, match="there are 1 enrolment tokens"):
        store.tokens.add(replace(TOKEN, id="t3"))


def test_a_certificate_is_revoked_once_and_stays_listed(store: Store) -> None:
    store.ledger.record(CERTIFICATE)
    with pytest.raises(Conflict, match="was issued before"):
        store.ledger.record(CERTIFICATE)
    revoked = replace(CERTIFICATE, revoked_at=TIME, reason="keyCompromise")
    assert store.ledger.revoke(CERTIFICATE.serial, TIME, "keyCompromise") == revoked
    assert store.ledger.revoke(CERTIFICATE.serial, TIME + timedelta(hours=1), "superseded") == revoked
    assert store.ledger.find(CERTIFICATE.serial) == revoked
    with pytest.raises(NotFound, match="no certificate ff was issued here"):
        store.ledger.revoke(255, TIME, "superseded")


def test_numbers_of_crls_only_grow_and_no_two_are_the_same(make_store: MakeStore) -> None:
    replicas = [make_store() for _ in range(4)]
    assert replicas[0].ledger.next_crl_number() == 1

    def draw(number: int) -> list[int]:
        return [replicas[number % 4].ledger.next_crl_number() for _ in range(5)]

    with ThreadPoolExecutor(8) as pool:
        drawn = [number for each in pool.map(draw, range(8)) for number in each]
    assert sorted(drawn) == list(range(2, 42))


def test_a_request_waits_until_it_is_decided_once_and_its_certificate_is_taken_once(store: Store) -> None:
    assert store.requests.ask(REQUEST) == store.requests.ask(replace(REQUEST, id="r2", asked_at=NOW + 9)) == REQUEST
    approved = replace(
        REQUEST, state=RequestState.APPROVED, node="node-1", tenant="cluster-a", decided_by="uid 0", decided_at=NOW
    )
    assert not store.requests.take("r1")
    assert store.requests.decide(approved)
    assert not store.requests.decide(replace(approved, state=RequestState.DENIED))
    assert store.requests.find("r1") == approved
    assert [store.requests.take("r1"), store.requests.take("r1")] == [True, False]
    store.requests.give_back(approved)
    assert store.requests.find("r1") == approved


def test_requests_end_and_their_number_has_a_bound_in_all_and_for_each_address(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests_of_store, "MOST", 3)
    monkeypatch.setattr(requests_of_store, "MOST_OF_ONE", 2)
    store.requests.ask(replace(REQUEST, expires=NOW - 1))
    assert store.requests.all() == []
    assert store.requests.find("r1") is None

    def ask(number: int, address: str) -> None:
        store.requests.ask(replace(REQUEST, id=f"n{number}", public_key_sha256=f"{number:064x}", address=address))

    ask(1, "::1")
    ask(2, "::1")
    with pytest.raises(Overloaded):
        ask(3, "::1")
    ask(4, "::2")
    with pytest.raises(Overloaded):
        ask(5, "::3")
    ask(1, "::1")


def test_the_tables_that_are_migrated_to_are_those_of_the_schema(store: Store) -> None:
    with store._database._engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []


def test_many_kmsd_that_start_on_an_empty_database_make_its_tables_once(make_store: MakeStore) -> None:
    with ThreadPoolExecutor(6) as pool:
        stores = list(pool.map(lambda _: make_store(), range(6)))
    assert {(each.check().version, each.check().newest) for each in stores} == {("0002", "0002")}
    assert stores[0].check().rows == {
        "authorities": 0, "certificates": 0, "counters": 1, "enrolment_requests": 0, "enrolment_tokens": 0,
    }  # fmt: skip


def test_many_that_open_a_new_file_of_sqlite_at_once_wait_for_each_other(tmp_path: Path) -> None:
    def opened(_: int) -> str:
        together.wait()
        connection = connect()
        mode: str = connection.execute("PRAGMA journal_mode").fetchone()[0]
        connection.close()
        return mode

    together = threading.Barrier(8)
    with ThreadPoolExecutor(8) as pool:
        for number in range(150):
            file = tmp_path / str(number)
            file.touch(0o600)
            connect = opener(file)
            assert list(pool.map(opened, range(8))) == ["wal"] * 8


def test_a_database_of_a_newer_version_is_refused_and_left_as_it_is(make_store: MakeStore) -> None:
    first = make_store()
    with first._database.writing() as session:
        session.connection().exec_driver_sql("UPDATE alembic_version SET version_num = '0099'")
    with pytest.raises(Misconfigured, match="is of a newer version of kmsd: its tables have version 0099") as caught:
        make_store()
    assert "put back a copy" in caught.value.hint
    assert first.check().version == "0099"


def test_a_backup_of_either_database_can_stand_in_the_place_of_sqlites(make_store: MakeStore, tmp_path: Path) -> None:
    store = make_store()
    store.tokens.add(TOKEN)
    store.ledger.record(CERTIFICATE)
    store.requests.ask(REQUEST)
    store.ledger.next_crl_number()
    store.ledger.keep_authority(b"root")
    (tmp_path / "restored").mkdir(mode=0o700)
    size = store.backup(tmp_path / "restored" / FILE)
    assert size == (tmp_path / "restored" / FILE).stat().st_size
    assert stat.S_IMODE((tmp_path / "restored" / FILE).stat().st_mode) == 0o600
    restored = Store("", tmp_path / "restored")
    assert restored.tokens.all() == [TOKEN]
    assert restored.ledger.find(CERTIFICATE.serial) == CERTIFICATE
    assert restored.ledger.authorities() == [b"root"]
    assert restored.requests.all() == [REQUEST]
    assert restored.ledger.next_crl_number() == 2
    assert restored.check().problem == ""
    restored.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "state").mkdir(mode=0o700)
    return tmp_path / "state"


def test_the_file_of_sqlite_is_for_kmsd_alone(folder: Path) -> None:
    store = Store("", folder)
    store.tokens.add(TOKEN)
    assert {stat.S_IMODE(each.stat().st_mode) for each in folder.iterdir()} == {0o600}
    store.close()
    (folder / FILE).chmod(0o640)
    with pytest.raises(Misconfigured, match="may be read or written by others"):
        Store("", folder)


def test_a_database_that_somebody_holds_locked_is_unavailable_in_bounded_time(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kmsd.store.database.TIMEOUT", 0.3)
    store = Store("", folder)
    store.tokens.add(TOKEN)
    holder = sqlite3.connect(folder / FILE, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    began = time.monotonic()
    with pytest.raises(Unavailable, match="database is locked"):
        store.tokens.use("t1", NOW)
    assert time.monotonic() - began < 3
    assert store.tokens.find("t1") == TOKEN
    holder.close()
    assert store.tokens.use("t1", NOW)
    store.close()


def test_a_file_that_is_gone_or_replaced_is_told_and_never_written_to(folder: Path) -> None:
    store = Store("", folder)
    store.tokens.add(TOKEN)
    kept = folder.with_name("kept")
    (folder / FILE).rename(kept)
    with pytest.raises(Unavailable, match="is gone: no such file") as caught:
        store.tokens.use("t1", NOW)
    assert "certificates that are out go on working" in caught.value.hint
    (folder / FILE).touch(0o600)
    with pytest.raises(Unavailable, match="was replaced while kmsd had it open"):
        store.tokens.use("t1", NOW)
    kept.replace(folder / FILE)
    assert store.tokens.use("t1", NOW)
    store.close()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"not a database, whatever its name says", "file is not a database"),
        (b"SQLite format 3\x00" + b"\xff" * 200, "malformed|not a database"),
    ],
)
def test_a_file_that_is_no_database_is_refused_in_words(folder: Path, content: bytes, words: str) -> None:
    (folder / FILE).write_bytes(content)
    (folder / FILE).chmod(0o600)
    with pytest.raises(Unavailable, match=words):
        Store("", folder)
    assert (folder / FILE).read_bytes() == content


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("postgresql+psycopg://u:word@host/db", "has a password in it"),
        ("postgresql+psycopg://u@host/db?password=word", "has a password in it"),
        ("mysql://host/db", r"must begin with postgresql\+psycopg://, got mysql://"),
        ("sqlite:////tmp/word.db", "must begin with"),
        ("word", "is no URL of a database"),
    ],
)
def test_a_url_that_names_no_postgresql_is_refused_and_its_password_never_told(
    folder: Path, url: str, words: str
) -> None:
    with pytest.raises(Misconfigured, match=words) as caught:
        Store(url, folder)
    assert "word@" not in caught.value.sentence()
    assert "=word" not in caught.value.sentence()


def test_a_postgresql_that_is_away_or_refuses_is_unavailable_and_comes_back(
    postgres: postgresql.PostgreSQL, folder: Path
) -> None:
    url = postgres.database()
    with pytest.raises(Unavailable, match="password authentication failed") as caught:
        Store(url, folder, "another word")
    assert "another word" not in caught.value.sentence()
    store = Store(url, folder, postgresql.PASSWORD)
    store.tokens.add(TOKEN)
    postgres.stop()
    try:
        for what in (
            lambda: store.tokens.find("t1"),
            store.check,
            store.touch,
            lambda: Store(url, folder, postgresql.PASSWORD),
        ):
            with pytest.raises(KmsdError) as away:
                what()
            assert away.value.retryable
            assert postgresql.PASSWORD not in away.value.sentence()
    finally:
        postgres.start()
    assert store.tokens.use("t1", NOW)
    store.close()


def test_certificates_are_listed_page_by_page_each_once_whatever_is_issued_meanwhile(store: Store) -> None:
    ledger: Ledger = store.ledger
    for serial in range(1, 8):
        ledger.record(replace(CERTIFICATE, serial=serial, node=f"node-{serial % 2}"))
    seen: list[int] = []
    while page := ledger.latest(2, seen[-1] if seen else None):
        assert len(page) <= 2
        seen += [each.serial for each in page]
        ledger.record(replace(CERTIFICATE, serial=100 + len(seen), node="node-9"))
        if len(seen) > 20:
            break
    old = [each for each in seen if each < 100]
    assert sorted(old) == list(range(1, 8))
    assert len(seen) == len(set(seen))
    assert {each.serial for each in ledger.latest(9, node="node-1")} == {1, 3, 5, 7}
    first = ledger.latest(1, node="node-1")[0].serial
    assert {each.serial for each in ledger.latest(9, first, "node-1", "cluster-a")} == {1, 3, 5, 7} - {first}
    with pytest.raises(NotFound, match="no certificate ff was issued here"):
        ledger.latest(1, 255)
