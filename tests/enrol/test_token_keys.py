"""Certificates whose keys are on a token: `kmsctl enrol --key`, and a proxy that renews, on SoftHSM and on a TPM."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from kmsd.ca.profile import Profile
from kmsd.errors import Denied
from kmsd.est.client import Server
from kmsd.est.enrolling import current, enrol, trusted
from kmsd.est.node_token import opened
from kmsd.store.store import Store
from kmsd.transport.peers import NamePattern
from tests import tpm
from tests.daemons import KMSCTL, KMSD, Kmsd, wait_for
from tests.enrol.site import Served, Site
from tests.remote.certificates import Authority
from tests.remote.conftest import SEED, Manager, decrypt, make_manager, well
from tests.tokens import MODULE, PIN, SoftToken, Token, make_token
from tests.tpm import TpmToken

pytestmark = pytest.mark.processes
__all__ = ["make_manager"]

LABEL = "kmsd-proxy"


@dataclass
class Node:
    """A node with a token, and the EST server that it enrols at."""

    site: Site
    served: Served
    token: SoftToken | TpmToken
    folder: Path
    module: str = MODULE

    @property
    def uri(self) -> str:
        named = f"pkcs11:token={self.token.label};object={LABEL}"
        return f"{named}?module-path={self.module}&pin-source=file:{self.token.pin_file}"

    @property
    def certificate(self) -> x509.Certificate:
        return x509.load_pem_x509_certificate((self.folder / "tls.crt").read_bytes())

    def lasting(self, lifetime: timedelta, backdate: timedelta = timedelta()) -> None:
        profile = Profile(tenants={"cluster-a": (NamePattern.parse("DNS:*.cluster-a.test"),)})
        self.served.ca.profile = replace(profile, lifetime=lifetime, backdate=backdate)

    def enrol(self, *flags: str, uri: str = "", token: str | None = None) -> subprocess.CompletedProcess[str]:
        given = ["--token-file", "-"] if token is not None else []
        return subprocess.run(
            [KMSCTL, "enrol", "--server", f"https://127.0.0.1:{self.served.port}", "--ca", str(self.site.ca_file),
             "--node", "node-1", "--out", str(self.folder), "--key", uri or self.uri, *given, *flags],
            input=token or "", capture_output=True, text=True, timeout=60, check=False, env=self.token.environment,
        )  # fmt: skip

    def labels(self) -> list[str]:
        """The labels of the private keys on the token."""
        shown = _tool(self, "--list-objects", "--type", "privkey").splitlines()
        return sorted(line.split(":", 1)[1].strip() for line in shown if line.lstrip().startswith("label:"))


@pytest.fixture
def make_store(tmp_path: Path) -> Iterator[Callable[[], Store]]:
    tmp_path.chmod(0o700)
    made: list[Store] = []

    def make() -> Store:
        made.append(Store("", tmp_path))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def node(site: Site, short_tmp: Path) -> Node:
    folder = short_tmp / "tls"
    folder.mkdir(0o700)
    made = Node(site, site.serve(), make_token(short_tmp / "node", "node-token"), folder)
    made.lasting(timedelta(hours=1))
    return made


def test_kmsctl_enrols_and_renews_with_keys_that_never_leave_the_token(node: Node) -> None:
    node.lasting(timedelta(seconds=100), timedelta(seconds=400))
    done = node.enrol(token=node.site.token(node.served))
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(node.folder / "tls.crt"), str(node.folder / "ca.crt")]
    (first,) = node.labels()
    assert first.startswith(f"{LABEL}@2")
    before = node.certificate
    # It is due: the next one is asked for by a connection that the present key signs.
    node.lasting(timedelta(hours=1))
    done = node.enrol("--if-needed")
    assert (done.returncode, "was renewed" in done.stderr) == (0, True), done.stderr
    assert node.certificate.public_key() != before.public_key()
    assert len(node.labels()) == 2
    # It is good, and nothing is asked for.
    assert "is good" in node.enrol("--if-needed").stderr
    assert len(node.served.store.ledger.latest(9)) == 2
    assert not (node.folder / "tls.key").exists()
    assert all(PIN not in each.read_text() for each in node.folder.iterdir())


def test_a_key_goes_when_its_certificate_has_ended_and_no_sooner(node: Node) -> None:
    with _environment(node.token), opened(node.uri, node.folder) as files:
        server = trusted(
            Server.parse(f"https://127.0.0.1:{node.served.port}"), files, "", node.site.ca_file.read_bytes()
        )
        token = node.site.token(node.served, uses=2)
        first = enrol(server, files, "node-1", lambda: token, renew=False).certificate
        # A server that refuses the request has its key destroyed: there is no certificate for it.
        with pytest.raises(Denied):
            enrol(server, files, "node-1", lambda: "kmsd-enrol-none", renew=False)
        assert (len(node.labels()), files.present()) == (1, first)
        enrol(server, files, "node-1", lambda: token, renew=True)
        files.retire()
        assert len(node.labels()) == 2
        second = node.certificate
        # The first is remembered as one that has ended; a key that nobody here made, and the present one, stay.
        ended = node.site.expired(public=first.public_key())
        (node.folder / ".tls.crt.old").write_bytes(ended.public_bytes(Encoding.PEM))
        _tool(node, "--keypairgen", "--key-type", "EC:prime256v1", "--usage-sign", "--label", LABEL, "--id", "01")
        files.retire()
        assert files.has_key_of(second)
        assert not files.has_key_of(first)
        assert LABEL in node.labels()
        assert len(node.labels()) == 2
        assert current(files) == second


def test_a_proxy_renews_with_a_new_key_beside_the_old_one(
    node: Node, manager: Manager, start_kmsd: Callable[..., Kmsd], short_tmp: Path
) -> None:
    node.lasting(timedelta(seconds=100), timedelta(seconds=400))
    done = node.enrol(token=node.site.token(node.served))
    assert done.returncode == 0, done.stderr
    before = node.certificate
    node.lasting(timedelta(hours=1))
    proxy = well(
        start_kmsd(
            f"--upstream=127.0.0.1:{manager.port}", f"--tls-ca={node.folder / 'ca.crt'}",
            f"--tls-certificate={node.folder / 'tls.crt'}", f"--tls-key={node.uri}", "--server-name=manager.test",
            name="p", command=(KMSD, "proxy"), default_flags=False,
            environment={
                **node.token.environment, "KMSD_HEALTH__INTERVAL": "0.5",
                "KMSD_PROXY__EST_SERVER": f"https://127.0.0.1:{node.served.port}",
            },
        )
    )  # fmt: skip
    sealed = proxy.v2("Encrypt", SEED)
    wait_for(lambda: "certificate renewed" in proxy.log_text())
    assert node.certificate.public_key() != before.public_key()
    wait_for(lambda: proxy.status().certificate.serial == f"{node.certificate.serial_number:x}")
    assert decrypt(well(proxy), sealed) == SEED.plaintext
    assert len(node.labels()) == 2
    assert not [each.message for each in proxy.status().problems if "not renewed" in each.message]
    proxy.stop()
    # The certificate says which key it is, after a restart as well.
    assert decrypt(well(proxy.start()), sealed) == SEED.plaintext


@pytest.fixture
def ca(site: Site, tmp_path: Path) -> Authority:
    """The CA of the EST server, which has issued the key manager's certificate, too."""
    made = Authority(tmp_path / "ca")
    made.key, made.certificate, made.name = site.key, site.root, site.root.subject
    made.file.write_bytes(site.root.public_bytes(Encoding.PEM))
    return made


@pytest.fixture
def manager(make_manager: Callable[..., Manager]) -> Manager:
    """A key manager whose tenants are healthy."""
    made = make_manager()
    made.kmsd.wait_ok()
    wait_for(lambda: made.kmsd.log_text().count("tenant is healthy") >= 2)
    return made


def test_a_wrong_pin_is_tried_once_and_told(node: Node, short_tmp: Path) -> None:
    pin = short_tmp / "wrong-pin"
    pin.touch(0o600)
    pin.write_text("not-the-pin\n")
    uri = node.uri.replace(str(node.token.pin_file), str(pin))
    assert isinstance(node.token, SoftToken)
    before = node.token.logins()
    for _ in range(3):
        done = node.enrol(uri=uri, token="kmsd-enrol-none")
        assert (done.returncode, "refused the PIN" in done.stderr) == (6, True), done.stderr
        assert f"correct the PIN in {pin}, then repeat this" in done.stderr
        assert "not-the-pin" not in done.stderr
    assert node.token.logins() == before + 1
    assert node.labels() == []


@pytest.mark.parametrize(
    ("change", "told", "code"),
    [
        (("&pin-source", "&pin-value=1234&pin-source"), "a PIN in the URI (pin-value) is not taken", 2),
        ((f"object={LABEL}", f"object={LABEL};id=%01"), "name it by object= alone, without id=", 6),
        ((f"object={LABEL}", "object="), "object has no value", 2),
        (("token=node-token", "token=elsewhere"), "there is no token labelled 'elsewhere'", 3),
    ],
)
def test_a_uri_that_will_not_do_is_told(node: Node, change: tuple[str, str], told: str, code: int) -> None:
    done = node.enrol(uri=node.uri.replace(*change), token="kmsd-enrol-none")
    assert (done.returncode, told in done.stderr) == (code, True), done.stderr
    assert "1234" not in done.stderr


def test_a_key_in_a_tpm_is_renewed(site: Site, short_tmp: Path) -> None:
    token = tpm.make_tpm(short_tmp / "tpm", "node-tpm", managed=True)
    try:
        (short_tmp / "tls").mkdir(0o700)
        node = Node(site, site.serve(), token, short_tmp / "tls", tpm.MODULE)
        node.lasting(timedelta(seconds=100), timedelta(seconds=400))
        done = node.enrol(token=site.token(node.served))
        assert done.returncode == 0, done.stderr
        before = node.certificate
        done = node.enrol("--if-needed")
        assert (done.returncode, "was renewed" in done.stderr) == (0, True), done.stderr
        assert node.certificate.public_key() != before.public_key()
        assert len(node.labels()) == 2
    finally:
        token.stop()


@contextlib.contextmanager
def _environment(token: Token) -> Iterator[None]:
    """Have this process see the token."""
    kept = dict(os.environ)
    os.environ.update(token.environment)
    yield
    os.environ.clear()
    os.environ.update(kept)


def _tool(node: Node, *command: str) -> str:
    login = ("--token-label", node.token.label, "--login", "--pin", PIN)
    return subprocess.run(
        ("pkcs11-tool", "--module", node.module, *login, *command),
        env=node.token.environment, capture_output=True, text=True, timeout=60, check=True,
    ).stdout  # fmt: skip
