"""The EST server, asked by strongSwan's pki: a client of EST, PKCS#10 and TLS 1.3 that shares no code with kmsd."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509

from kmsd.store.store import Store
from tests.ca import software
from tests.enrol.site import Served, Site

pytestmark = pytest.mark.processes


@pytest.fixture
def make_store(tmp_path: Path) -> Iterator[Callable[[], Store]]:
    """Stores on SQLite alone: what a client sees does not depend on the database."""
    tmp_path.chmod(0o700)
    made: list[Store] = []

    def make() -> Store:
        made.append(Store("", tmp_path))
        return made[-1]

    yield make
    for each in made:
        each.close()


@dataclass
class Swan:
    """strongSwan's pki in a folder, and the server that it asks."""

    site: Site
    served: Served
    folder: Path

    def pki(self, *words: str, given: bytes = b"", fails: bool = False) -> bytes:
        """What a command of pki writes. Fails if it does, or with `fails` if it does not, and returns what it says."""
        environment = {**os.environ, "STRONGSWAN_CONF": str(self.folder / "strongswan.conf")}
        done = subprocess.run(
            ["pki", *words], input=given, capture_output=True, timeout=60, check=False, cwd=self.folder, env=environment
        )
        assert (done.returncode != 0) is fails, done.stderr.decode()
        return done.stderr if fails else done.stdout

    def key(self, name: str) -> str:
        (self.folder / name).write_bytes(self.pki("--gen", "--type", "ecdsa", "--size", "256", "--outform", "pem"))
        return name

    def request(self, key: str, *names: str) -> bytes:
        return self.pki(
            "--req", "--type", "priv", "--in", key, "--dn", "CN=node-1", "--digest", "sha256",
            *(word for name in names for word in ("--san", name)),
        )  # fmt: skip

    def est(self, *words: str, given: bytes, fails: bool = False) -> bytes:
        """Send a request. The host has a name: pki compares no addresses."""
        url = self.served.url("", "").split("/.well-known")[0].replace("127.0.0.1", "localhost")
        return self.pki("--est", "--url", url, "--cacert", str(self.site.ca_file), *words, given=given, fails=fails)


@pytest.fixture
def swan(site: Site, tmp_path: Path) -> Swan:
    folder = tmp_path / "swan"
    folder.mkdir()
    (folder / "strongswan.conf").write_text("libtls {\n  version_max = 1.3\n}\n")  # its default is 1.2
    return Swan(site, site.serve(), folder)


def test_strongswan_enrols_with_a_token_and_renews_with_the_certificate(swan: Swan, tmp_path: Path) -> None:
    token = swan.site.token(swan.served)
    first = swan.est("--userpass", f"node-1:{token}", given=swan.request(swan.key("first.pem")))
    certificate = x509.load_der_x509_certificate(first)
    assert software.openssl_verify(tmp_path, certificate, [swan.site.root]) == (True, "leaf.pem: OK\n")
    (swan.folder / "first.der").write_bytes(first)
    then = swan.est("--cert", "first.der", "--key", "first.pem", given=swan.request(swan.key("then.pem")))
    renewed = x509.load_der_x509_certificate(then)
    assert renewed.serial_number != certificate.serial_number
    assert renewed.public_key() != certificate.public_key()
    assert renewed.subject == certificate.subject
    assert [each[:2] for each in swan.site.records.said] == [("Enrol", "OK"), ("Renew", "OK")]


def test_strongswan_gets_the_chain_and_hears_that_a_token_is_not_known(swan: Swan) -> None:
    url = swan.served.url("").split("/.well-known")[0].replace("127.0.0.1", "localhost")
    swan.pki("--estca", "--url", url, "--cacert", str(swan.site.ca_file), "--caout", "chain.pem", "--outform", "pem")
    files = sorted(swan.folder.glob("chain*.pem"))
    assert [x509.load_pem_x509_certificate(each.read_bytes()) for each in files] == [swan.site.root]
    said = swan.est(
        "--userpass", f"node-1:kmsd-enrol-{'0' * 16}-{'0' * 64}", given=swan.request(swan.key("k.pem")), fails=True
    )
    assert b"401" in said
