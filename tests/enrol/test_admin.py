"""Enrolment through the admin API of a real kmsd: tokens, the store, and what it is without."""

from __future__ import annotations

import json
import sqlite3
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import forkserver
from tests.daemons import KMSCTL, Kmsd, wait_for
from tests.postgresql import PASSWORD, PostgreSQL
from tests.remote.certificates import Authority
from tests.remote.conftest import free_port

pytestmark = pytest.mark.processes

TENANTS = """
[[tenants]]
name = "cluster-a"
san = ["DNS:*.cluster-a.test"]
key_label = "kek-a"
"""
Ctl = Callable[..., subprocess.CompletedProcess[str]]
Start = Callable[..., Kmsd]


@pytest.fixture
def start(start_kmsd: Start, short_tmp: Path, tmp_path: Path) -> Start:
    """Starts a key manager with EST; store: more of its configuration."""

    def make(store: str = "", **fields: Any) -> Kmsd:
        shown = Authority(tmp_path / "ca").issue("est", "DNS:localhost", server=True)
        config = short_tmp / "est.toml"
        config.write_text(
            f'[est]\nlisten = "127.0.0.1:{free_port()}"\ntls_certificate = "{shown.certificate}"\n'
            f'tls_key = "{shown.key}"\n{store}\n{TENANTS}'
        )
        kmsd = start_kmsd(f"--config={config}", **fields)
        wait_for(lambda: ctl(kmsd, "store", "check").returncode == 0)
        return kmsd

    return make


def ctl(kmsd: Kmsd, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [KMSCTL, "--target", f"unix://{kmsd.admin_socket}", *arguments]
    return forkserver.run(command, capture_output=True, text=True, timeout=60, check=False)


def read(kmsd: Kmsd, *arguments: str) -> Any:
    done = ctl(kmsd, *arguments, "-o", "json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def audit(kmsd: Kmsd) -> str:
    return "".join(each.read_text() for each in (kmsd.folder / "state").glob("audit*.jsonl"))


def test_a_token_is_shown_once_listed_without_its_secret_and_revoked(start: Start) -> None:
    kmsd = start()
    done = ctl(kmsd, "enrol", "token", "node-1", "--tenant", "cluster-a", "--ttl", "5m")
    assert done.returncode == 0, done.stderr
    text = done.stdout.strip()
    token_id, secret = text.split("-")[2:]
    assert secret not in done.stderr
    (listed,) = read(kmsd, "enrol", "tokens")["tokens"]
    assert (listed["id"], listed["node"], listed["tenant"], listed["usable"]) == (token_id, "node-1", "cluster-a", True)
    assert "uid=" in listed["made_by"]
    assert read(kmsd, "enrol", "revoke-token", token_id)["token"]["usable"] is False
    assert ctl(kmsd, "enrol", "revoke-token", "f" * 16).returncode == 5
    records = audit(kmsd)
    assert f"token={token_id} node=node-1 tenant=cluster-a uses=1" in records
    assert records.count('"RevokeEnrolmentToken"') == 2
    kmsd.stop()
    for place in (kmsd.log_text(), records, *(each.read_bytes().hex() for each in (kmsd.folder / "state").iterdir())):
        assert secret not in place
        assert secret.encode().hex() not in place


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["node-1", "--tenant", "cluster-z"], 5, "there is no tenant 'cluster-z'"),
        (["Node One", "--tenant", "cluster-a"], 2, "a node's name must be a DNS name"),
        (["node-1", "--tenant", "cluster-a", "--ttl", "1s"], 2, "a token must last 60 to 2592000 seconds, got 1"),
        (["node-1", "--tenant", "cluster-a", "--ttl", "90d"], 2, ""),
        (["node-1", "--tenant", "cluster-a", "--uses", "1001"], 2, ""),
    ],
)
def test_a_token_for_nobody_is_refused(start: Start, arguments: list[str], code: int, words: str) -> None:
    done = ctl(start(), "enrol", "token", *arguments)
    assert (done.returncode, words in done.stderr, done.stdout) == (code, True, ""), done.stderr


def test_the_store_is_checked_and_copied_and_the_copy_serves_in_its_place(start: Start, tmp_path: Path) -> None:
    kmsd = start()
    kept = kmsd.folder / "state" / "store.sqlite"
    assert ctl(kmsd, "enrol", "token", "node-1", "--tenant", "cluster-a").returncode == 0
    found = read(kmsd, "store", "check")
    assert (found["kind"], found["version"], found["problem"]) == ("sqlite", found["newest_version"], None)
    assert found["rows"]["enrolment_tokens"] == 1
    copy = tmp_path / "copy.sqlite"
    assert ctl(kmsd, "store", "backup", str(copy)).returncode == 0
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert '"BackUpStore"' in audit(kmsd)
    kmsd.stop()
    for each in kept.parent.glob("store.sqlite*"):
        each.unlink()
    copy.rename(kept)
    kmsd.start()
    wait_for(lambda: ctl(kmsd, "store", "check").returncode == 0)
    assert len(read(kmsd, "enrol", "tokens")["tokens"]) == 1


def test_postgresql_with_its_password_in_a_file_serves_and_its_loss_is_told_and_heals(
    start: Start, postgres: PostgreSQL
) -> None:
    kmsd = start(f'[store]\nurl = "{postgres.database()}"\npassword_file = "{postgres.password_file}"\n')
    assert read(kmsd, "store", "check")["kind"] == "postgresql"
    postgres.stop()
    try:
        done = ctl(kmsd, "enrol", "tokens")
        assert (done.returncode, "the store" in done.stderr, "retry:" in done.stderr) == (1, True, True)
        wait_for(lambda: any("the store" in each["message"] for each in read(kmsd, "status")["problems"]), 40)
    finally:
        postgres.start()
    wait_for(lambda: not any("the store" in each["message"] for each in read(kmsd, "status")["problems"]), 40)
    assert PASSWORD not in kmsd.log_text() + audit(kmsd) + json.dumps(read(kmsd, "config", "view"))


def test_a_store_of_a_newer_kmsd_is_refused_and_keys_are_served(start: Start) -> None:
    kmsd = start()
    kmsd.stop()
    with sqlite3.connect(kmsd.folder / "state" / "store.sqlite") as database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
    database.close()
    kmsd.start()
    newer = "is of a newer version of kmsd"
    wait_for(lambda: any(newer in each["message"] for each in read(kmsd, "status")["problems"]))
    assert ctl(kmsd, "enrol", "token", "node-1", "--tenant", "cluster-a").returncode == 6
    assert read(kmsd, "keys", "list") is not None


def test_a_url_with_a_password_is_refused_without_telling_it(start_kmsd: Start, short_tmp: Path) -> None:
    config = short_tmp / "est.toml"
    config.write_text('[store]\nurl = "postgresql+psycopg://kmsd:word-of-mouth@db/kmsd"\n')
    kmsd = start_kmsd(f"--config={config}", wait=False)
    assert kmsd.process is not None
    assert kmsd.process.wait(30) == 2
    assert "must have no password" in kmsd.log_text()
    assert "word-of-mouth" not in kmsd.log_text()


def test_without_est_its_commands_say_what_is_missing(start_kmsd: Start) -> None:
    kmsd = start_kmsd()
    for command in (["enrol", "tokens"], ["enrol", "pending"], ["store", "check"], ["store", "backup", "/dev/null/x"]):
        done = ctl(kmsd, *command)
        assert (done.returncode, "this kmsd enrols nobody" in done.stderr) == (6, True), done.stderr
    assert not (kmsd.folder / "state" / "store.sqlite").exists()


def test_without_a_ca_nodes_are_told_to_come_again(start: Start) -> None:
    kmsd = start()
    config = read(kmsd, "config", "view")["settings"]
    listen = next(each["value"] for each in config if each["name"] == "est.listen")
    done = subprocess.run(
        ["curl", "-sSk", "-i", f"https://{listen}/.well-known/est/cacerts"],
        capture_output=True, text=True, timeout=30, check=True,
    )  # fmt: skip
    assert done.stdout.startswith("HTTP/1.1 503")
    assert "retry-after: 10" in done.stdout.lower()
    assert f"https://{listen}" in [each["socket"] for each in read(kmsd, "status")["listeners"]]
