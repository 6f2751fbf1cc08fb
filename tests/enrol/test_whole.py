"""A whole site: a key manager with a CA on its token and EST, nodes that enrol by kmsctl, and their proxies."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509

from tests.daemons import Kmsd, wait_for
from tests.enrol.whole import Whole, begin
from tests.remote.certificates import Authority
from tests.remote.conftest import SEED, Manager, decrypt, make_manager, make_proxy, well

pytestmark = pytest.mark.processes
__all__ = ["make_manager", "make_proxy"]


@pytest.fixture
def ca(tmp_path: Path) -> Authority:
    """The CA of the key manager's own certificate, which is not the one on its token."""
    return Authority(tmp_path / "ca")


@pytest.fixture
def whole(make_manager: Callable[..., Manager], ca: Authority, tmp_path: Path) -> Whole:
    return begin(make_manager, ca, tmp_path)


def test_a_node_enrols_serves_and_is_out_when_it_is_revoked(whole: Whole, make_proxy: Callable[..., Kmsd]) -> None:
    token = whole.token("node-1")
    done = whole.enrol("node-1", token=token)
    assert done.returncode == 0, done.stderr
    issued = whole.issued("node-1")
    proxy = well(make_proxy(issued, whole.trusted, whole.manager, flags=("--server-name=manager.test",)))
    sealed = proxy.v2("Encrypt", SEED)
    assert decrypt(proxy, sealed) == SEED.plaintext
    (listed,) = whole.document("ca", "show", "--node", "node-1")["issued"]
    assert (listed["serial"], listed["tenant"]) == (issued.serial, "cluster-a")
    # The token is good once.
    again = whole.enrol("node-1", token=token)
    assert (again.returncode, "has been used" in again.stderr) == (4, True), again.stderr
    whole.done("ca", "revoke", issued.serial, "--reason", "keyCompromise", "--yes")
    wait_for(lambda: proxy.v2("Status").healthz != "ok")
    refused = subprocess.run(
        ["curl", "-sS", "--cacert", str(whole.trusted.file), "--cert", str(issued.certificate), "--key",
         str(issued.key), "-H", "Content-Type: application/pkcs10", "--data-binary", "x",
         f"{whole.url}/.well-known/est/simplereenroll"],
        capture_output=True, text=True, timeout=30, check=True,
    )  # fmt: skip
    assert "is no request" in refused.stdout or "is not base64" in refused.stdout
    crl = subprocess.run(
        ["curl", "-sS", "--cacert", str(whole.trusted.file), f"{whole.url}/crl"], capture_output=True, timeout=30,
        check=True,
    ).stdout  # fmt: skip
    assert isinstance(x509.load_der_x509_crl(crl), x509.CertificateRevocationList)
    # Thousands of certificates are listed page by page.
    with contextlib.closing(sqlite3.connect(whole.kmsd.folder / "state" / "store.sqlite", timeout=20)) as store, store:
        row = store.execute("SELECT * FROM certificates WHERE serial = ?", (issued.serial,)).fetchone()
        number = bytes.fromhex(issued.serial.rjust(len(issued.serial) + len(issued.serial) % 2, "0"))
        for each in range(2100):
            other = number[:-4] + each.to_bytes(4, "big")
            new = [one.replace(number, other) if isinstance(one, bytes) else one for one in row[1:]]
            store.execute(f"INSERT INTO certificates VALUES (?{', ?' * len(new)})", (f"{int(other.hex(), 16):x}", *new))  # noqa: S608
    last = whole.document("ca", "show")
    assert (len(last["issued"]), last["more"]) == (50, True)
    every = whole.done("ca", "show", "--all", "-o", "name").split()
    assert len(every) == len(set(every)) > 2100
    assert issued.serial in every
    audit = "".join(each.read_text() for each in (whole.kmsd.folder / "state").glob("audit*.jsonl"))
    assert f"serial={issued.serial}" in audit
    assert token.rpartition("-")[2] not in audit + whole.kmsd.log_text()


def test_a_node_of_one_tenant_never_gets_the_names_of_another(whole: Whole) -> None:
    done = whole.enrol("node-2", token=whole.token("node-1"))
    assert (done.returncode, "is not that of node 'node-2'" in done.stderr) == (4, True), done.stderr
    assert whole.enrol("node-1", token=whole.token("node-1", "cluster-b")).returncode == 0
    names = whole.issued("node-1").read.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["node-1.cluster-b.test"]


def test_the_server_shows_a_certificate_of_the_ca_here_and_keeps_it_over_a_restart(whole: Whole) -> None:
    own = whole.kmsd.folder / "state" / "est.crt"
    before = own.read_bytes()
    assert whole.enrol("node-1", token=whole.token("node-1")).returncode == 0
    whole.kmsd.stop()
    whole.kmsd.start().wait_ok()
    wait_for(lambda: whole.kmsd.log_text().count("serving EST") == 2)
    assert whole.enrol("node-1", "--if-needed").returncode == 0
    assert own.read_bytes() == before


def test_while_the_token_is_away_a_node_is_told_to_come_again_and_its_token_stays_good(whole: Whole) -> None:
    pin, token = whole.pin, whole.token("node-1")
    host = next(each for each in whole.kmsd.status().tokens).process.pid
    os.kill(host, signal.SIGSTOP)
    try:
        done = whole.ctl(
            "enrol", "--server", whole.url, "--ca-fingerprint", pin, "--node", "node-1", "--out",
            str(whole.folder / "node-1"), "--token-file", "-", "--timeout", "8s", stdin=token,
        )  # fmt: skip
    finally:
        os.kill(host, signal.SIGCONT)
    assert done.returncode == 3, done.stderr
    assert "retry:" in done.stderr
    whole.kmsd.wait_ok()
    # Whether or not the token got round to it: what was issued for this key is had with the same token.
    done = whole.enrol("node-1", token=token)
    assert done.returncode == 0, done.stderr
    assert len(whole.document("ca", "show", "--node", "node-1")["issued"]) == 1
