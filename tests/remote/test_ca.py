"""The CA of a key manager, by kmsctl: its certificates let proxies in, and what is revoked is out."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, pkcs7

from kmsd.api.admin.v1 import admin_pb2 as pb
from tests import forkserver
from tests.ca.software import csr, ec_key, openssl_verify
from tests.daemons import KMSCTL, Kmsd, wait_for
from tests.remote.certificates import Authority, Issued
from tests.remote.conftest import TENANTS, Client, Manager, free_port
from tests.rpc.refusals import refusal
from tests.tokens import SoftToken

OK = (True, "leaf.pem: OK\n")
CA = "\n[ca]\nenabled = true\n"


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)


def ctl(kmsd: Kmsd, *words: str, stdin: bytes = b"") -> Done:
    """Run kmsctl against a kmsd."""
    done = forkserver.run(
        [KMSCTL, *words, f"--target={kmsd.admin_socket}"],
        input=stdin, capture_output=True, timeout=60, check=False, env=kmsd.soft.environment,
    )  # fmt: skip
    return Done(done.returncode, done.stdout.decode(), done.stderr.decode())


def node(folder: Path, name: str, kmsd: Kmsd, tenant: str = "cluster-a") -> Issued:
    """A certificate that the CA issued, and its key, as files."""
    key = ec_key()
    files = Issued(folder / f"{name}.crt", folder / f"{name}.key")
    files.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    request = csr(key, cn=name).public_bytes(Encoding.PEM)
    done = ctl(kmsd, "ca", "issue", "-", "--node", name, "--tenant", tenant, stdin=request)
    assert done.code == 0, done.err
    files.certificate.write_text(done.out)
    return files


def chain(kmsd: Kmsd) -> list[x509.Certificate]:
    done = ctl(kmsd, "ca", "show", "--pem")
    assert done.out, done.err
    return x509.load_pem_x509_certificates(done.out.encode())


def crls(kmsd: Kmsd) -> list[bytes]:
    return list(kmsd.admin("GetCrl", pb.GetCrlRequest()).crls)


@pytest.fixture
def authority(start_kmsd: Callable[..., Kmsd], short_tmp: Path) -> Kmsd:
    """A kmsd with a CA that is not made yet, and tenants that nobody reaches."""
    config = short_tmp / "c.toml"
    config.write_text(TENANTS + CA)
    return start_kmsd("--auto-create", f"--config={config}").wait_ok()


def test_openssl_takes_what_is_issued_until_it_is_revoked(authority: Kmsd, tmp_path: Path) -> None:
    made = ctl(authority, "ca", "init", "--subject", "CN=Nodes CA,O=Test", "-o", "json")
    assert made.code == 0, made.err
    assert made.document["certificate"]["subject"] == "CN=Nodes CA,O=Test"
    assert (made.document["key"]["purpose"], made.document["key"]["type"], made.document["key"]["bits"]) == (
        "ca", "ec", 256,
    )  # fmt: skip
    leaf = node(tmp_path, "node-1", authority).read
    other = node(tmp_path, "node-2", authority).read
    assert openssl_verify(tmp_path, leaf, chain(authority), crls=crls(authority)) == OK
    done = ctl(authority, "ca", "revoke", f"{leaf.serial_number:x}", "--reason", "keyCompromise", "--yes", "-o", "json")
    assert done.code == 0, done.err
    assert done.document["listed"]
    taken, said = openssl_verify(tmp_path, leaf, chain(authority), crls=crls(authority))
    assert not taken
    assert "certificate revoked" in said
    assert openssl_verify(tmp_path, other, chain(authority), crls=crls(authority))[0]
    shown = ctl(authority, "ca", "show", "--node", "node-1", "-o", "json").document["issued"]
    assert [(each["reason"], each["tenant"]) for each in shown] == [("keyCompromise", "cluster-a")]


def test_a_ca_outlives_a_restart_and_its_key_is_known_by_the_token_alone(authority: Kmsd, tmp_path: Path) -> None:
    ctl(authority, "ca", "init")
    before = chain(authority)
    authority.stop()
    authority.start().wait_ok()
    leaf = node(tmp_path, "node-1", authority).read
    assert chain(authority) == before
    assert openssl_verify(tmp_path, leaf, before)[0]
    keys = {each.label: each for each in authority.admin("ListKeys").keys}
    assert keys["kmsd-ca"].state == pb.KEY_STATE_SIGNING
    assert keys["kmsd-ca"].purpose == "ca"
    assert keys["k8s-kek"].purpose == "kek"
    assert not any(each.state == pb.KEY_STATE_UNUSABLE for each in keys.values())


def test_of_two_keys_with_the_id_of_the_ca_neither_signs_and_both_are_named(authority: Kmsd, tmp_path: Path) -> None:
    ctl(authority, "ca", "init")
    own = next(each for each in authority.admin("ListKeys").keys if each.label == "kmsd-ca")
    number = ec_key().private_numbers().private_value.to_bytes(32).hex()
    twin = {"do": "import", "type": "ec", "label": "twin", "value": number, "id": own.key_id.encode().hex()}
    authority.soft.objects(twin)

    def named() -> int:
        reasons = [each.unusable_reason for each in authority.admin("ListKeys").keys]
        return reasons.count("2 keys have this key id")

    wait_for(lambda: named() == 2)
    request = csr(ec_key(), cn="node-1").public_bytes(Encoding.PEM)
    refused = ctl(authority, "ca", "issue", "-", "--node", "node-1", "--tenant", "cluster-a", stdin=request)
    assert refused.code != 0
    assert "2 keys have this key id" in refused.err
    authority.soft.destroy("twin")
    wait_for(lambda: named() == 0)
    assert openssl_verify(tmp_path, node(tmp_path, "node-1", authority).read, chain(authority))[0]


def test_where_the_store_is_lost_the_ca_comes_back_with_its_certificate(authority: Kmsd, tmp_path: Path) -> None:
    ctl(authority, "ca", "init")
    before = ctl(authority, "ca", "show", "--pem").out
    authority.stop()
    for path in (authority.folder / "state").glob("store*"):
        path.unlink()
    authority.start().wait_ok()
    assert ctl(authority, "ca", "show", "-o", "json").document["state"] == "waiting"
    refused = ctl(authority, "ca", "issue", "-", "--node", "n", "--tenant", "cluster-a", stdin=b"x")
    assert refused.code == 2
    assert ctl(authority, "ca", "import", "-", stdin=before.encode()).code == 0
    assert ctl(authority, "ca", "show", "--pem").out == before
    assert openssl_verify(tmp_path, node(tmp_path, "node-1", authority).read, chain(authority))[0]


def test_both_keys_are_trusted_after_a_roll_until_the_last_certificate_of_the_old_one_ends(
    authority: Kmsd, tmp_path: Path
) -> None:
    ctl(authority, "ca", "init")
    (old,) = chain(authority)
    first = node(tmp_path, "node-1", authority).read
    rolled = ctl(authority, "ca", "roll", "--yes", "-o", "json")
    assert rolled.code == 0, rolled.err
    both = chain(authority)
    new = x509.load_pem_x509_certificate(rolled.document["certificate"]["pem"].encode())
    second = node(tmp_path, "node-2", authority).read
    assert len(both) == 4
    cross = [each for each in both if each not in (old, new)]
    lists = crls(authority)
    assert len(lists) == 2
    for leaf in (first, second):
        for root in (old, new):
            assert openssl_verify(tmp_path, leaf, [root], between=cross) == OK
        assert openssl_verify(tmp_path, leaf, both, crls=lists)[0]
    labels = sorted(each.label for each in authority.admin("ListKeys").keys if each.purpose == "ca")
    assert labels[0] == "kmsd-ca"
    assert labels[1].startswith("kmsd-ca@")
    # Once nothing that the old key signed is out, others need the new one alone.
    ctl(authority, "ca", "revoke", f"{first.serial_number:x}", "--yes")
    wait_for(lambda: chain(authority) == [new])


def test_a_ca_below_another_asks_it_and_goes_on_with_its_key_until_the_next_is_signed(
    authority: Kmsd, tmp_path: Path
) -> None:
    above = Above(tmp_path / "above")
    request = tmp_path / "nodes.csr"
    assert ctl(authority, "ca", "init", "--subject", "CN=Nodes CA", "--csr", str(request)).code == 0
    early = ctl(authority, "ca", "issue", "-", "--node", "n", "--tenant", "cluster-a", stdin=_csr())
    assert early.code != 0
    assert "has no certificate yet" in early.err
    own = above.sign(request)
    bad = ctl(authority, "ca", "import", str(own))
    assert "does not end with a root" in bad.err
    both = own.read_bytes() + above.file.read_bytes()
    done = ctl(authority, "ca", "import", "-", stdin=both)
    assert done.code == 0, done.err
    first = node(tmp_path, "node-1", authority).read
    root = x509.load_pem_x509_certificate(above.file.read_bytes())
    assert openssl_verify(tmp_path, first, [root], between=chain(authority)) == OK
    assert ctl(authority, "ca", "roll", "--csr", str(request), "--yes").code == 0
    assert node(tmp_path, "node-2", authority).read.issuer == first.issuer
    own = above.sign(request)
    assert ctl(authority, "ca", "import", "-", stdin=own.read_bytes() + above.file.read_bytes()).code == 0
    third = node(tmp_path, "node-3", authority).read
    shown = ctl(authority, "ca", "show", "-o", "json").document
    assert x509.load_pem_x509_certificate(own.read_bytes()) == x509.load_pem_x509_certificate(
        shown["certificate"]["pem"].encode()
    )
    for leaf in (first, third):
        assert openssl_verify(tmp_path, leaf, [root], between=chain(authority))[0]


def test_requests_that_ask_for_more_are_refused_with_the_reason_and_recorded(authority: Kmsd) -> None:
    ctl(authority, "ca", "init")
    greedy = csr(extensions=[x509.BasicConstraints(ca=True, path_length=None)]).public_bytes(Encoding.PEM)
    done = ctl(authority, "ca", "issue", "-", "--node", "node-1", "--tenant", "cluster-a", stdin=greedy)
    assert done.code == 2
    assert "CA:TRUE" in done.err
    stranger = ctl(authority, "ca", "issue", "-", "--node", "operator", "--tenant", "cluster-c", stdin=_csr())
    assert stranger.code == 5
    records = [json.loads(line) for line in (authority.folder / "state" / "audit.jsonl").read_text().splitlines()]
    refused = [each for each in records if each["action"] == "IssueCertificate"]
    assert [each["outcome"] for each in refused] == ["INVALID_ARGUMENT", "NOT_FOUND"]
    assert "node 'node-1' of tenant 'cluster-a'" in refused[0]["detail"]
    assert "CA:TRUE" in refused[0]["reason"]


def test_the_key_of_the_ca_is_no_key_that_encrypts_and_is_not_let_go_of_by_accident(authority: Kmsd) -> None:
    ctl(authority, "ca", "init")
    status = authority.status()
    assert not any("kmsd-ca" in each.message for each in status.problems)
    tried = ctl(authority, "keys", "test", "kmsd-ca")
    assert "it signs, and encrypts nothing" in tried.err
    moved = ctl(authority, "keys", "relabel", "kmsd-ca", "other")
    assert "kmsctl ca roll" in moved.err
    retired = ctl(authority, "keys", "retire", "kmsd-ca", "--confirm", "kmsd-ca")
    assert retired.code == 6
    refused = ctl(authority, "keys", "destroy", "kmsd-ca", "--yes")
    assert refused.code == 6
    assert "is the key of a CA" in refused.err
    assert ctl(authority, "keys", "destroy", "kmsd-ca", "--yes", "--confirm", "kmsd-ca").code == 0
    gone = ctl(authority, "ca", "issue", "-", "--node", "n", "--tenant", "cluster-a", stdin=_csr())
    assert gone.code == 5
    assert "kmsctl ca init" in gone.err


def test_a_token_that_is_away_is_an_answer_in_time_and_revoking_needs_none(authority: Kmsd, tmp_path: Path) -> None:
    ctl(authority, "ca", "init")
    leaf = node(tmp_path, "node-1", authority).read
    with authority.soft.away():
        wait_for(lambda: authority.status().state == pb.SERVING_STATE_DOWN)
        request = pb.IssueCertificateRequest(csr=_csr(), node="n", tenant="cluster-a")
        refused = refusal(lambda: authority.admin("IssueCertificate", request, timeout=5.0))
        assert refused.code == "UNAVAILABLE"
        assert len(chain(authority)) == 1
        done = ctl(authority, "ca", "revoke", f"{leaf.serial_number:x}", "--yes", "-o", "json").document
        assert not done["listed"]
        assert done["not_listed_because"]
    wait_for(
        lambda: any(leaf.serial_number == each.serial_number for each in x509.load_der_x509_crl(crls(authority)[0]))
    )


def test_kmsctl_without_a_ca_says_what_to_do(kmsd: Kmsd) -> None:
    done = ctl(kmsd, "ca", "show")
    assert done.code == 6
    assert "ca.enabled" in done.err


def _csr() -> bytes:
    return csr().public_bytes(Encoding.PEM)


class Above:
    """A root CA of openssl's."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder, self.file = folder, folder / "root.crt"
        self._run(
            *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc", "-keyout", "root.key"),
            *("-subj", "/CN=Root", "-days", "30", "-out", "root.crt"),
            *("-addext", "keyUsage=critical,keyCertSign,cRLSign"),
        )

    def sign(self, request: Path) -> Path:
        """The certificate for a CA's request, with what the request asks for."""
        made = self.folder / f"{request.stem}-{len(list(self.folder.iterdir()))}.crt"
        self._run(
            *("x509", "-req", "-in", str(request), "-CA", "root.crt", "-CAkey", "root.key", "-days", "20"),
            *("-copy_extensions", "copy", "-out", str(made)),
        )
        return made

    def _run(self, *words: str) -> None:
        done = subprocess.run(["openssl", *words], cwd=self.folder, capture_output=True, timeout=30, check=False)
        assert done.returncode == 0, done.stderr


def test_who_has_a_certificate_of_the_ca_is_let_in_until_it_is_revoked(
    make_manager: Callable[..., Manager], ca: Authority, token: SoftToken, tmp_path: Path
) -> None:
    both = tmp_path / "both.pem"
    both.write_bytes(ca.file.read_bytes())
    manager = make_manager(f"--tls-ca={both}", tenants=TENANTS + CA)
    kmsd = manager.kmsd.wait_ok()
    assert ctl(kmsd, "ca", "init").code == 0
    kept = kmsd.folder / "state" / "ca.pem"
    wait_for(kept.exists)
    both.write_bytes(ca.file.read_bytes() + kept.read_bytes())
    wait_for(lambda: kmsd.log_text().count("certificate in force") >= 2 or _admitted(manager, tmp_path), timeout=30)
    first, second = node(tmp_path, "node-1", kmsd), node(tmp_path, "node-2", kmsd)
    open_already = Client(manager.channel(first))
    wait_for(lambda: open_already.status().healthz == "ok")
    assert Client(manager.channel(second)).status().healthz == "ok"
    done = ctl(kmsd, "ca", "revoke", "--node", "node-1", "--reason", "cessationOfOperation", "--yes")
    assert done.code == 0, done.err
    for client in (open_already, Client(manager.channel(first))):
        assert "is revoked" in refusal(client.status).details
    assert Client(manager.channel(second)).status().healthz == "ok"
    # The list that was signed is in force from the first call on after a restart, even without the store.
    kmsd.stop()
    for path in (kmsd.folder / "state").glob("store*"):
        path.unlink()
    kmsd.start().wait_ok()
    again = Client(manager.channel(first))
    wait_for(lambda: _answered(again))
    assert "is revoked" in refusal(again.status).details


def _answered(client: Client) -> bool:
    try:
        client.status()
    except grpc.RpcError as error:
        return error.code() is not grpc.StatusCode.UNAVAILABLE
    return True


def _admitted(manager: Manager, folder: Path) -> bool:
    caller = node(folder, "probe", manager.kmsd)
    return _answered(Client(manager.channel(caller)))


def test_a_node_enrols_and_renews_by_est_with_the_key_on_the_token_until_it_is_revoked(
    start_kmsd: Callable[..., Kmsd], ca: Authority, short_tmp: Path, tmp_path: Path
) -> None:
    shown, port = ca.issue("est", "DNS:localhost", "IP:127.0.0.1", server=True), free_port()
    config = short_tmp / "e.toml"
    config.write_text(
        f'{TENANTS}{CA}[est]\nlisten = "127.0.0.1:{port}"\ntls_certificate = "{shown.certificate}"\n'
        f'tls_key = "{shown.key}"\n'
    )
    kmsd = start_kmsd("--auto-create", f"--config={config}").wait_ok()
    assert ctl(kmsd, "ca", "init").code == 0
    at = f"https://localhost:{port}/.well-known/est"
    certificates = wait_for(lambda: _est(tmp_path, f"{at}/cacerts", ca))
    assert certificates == chain(kmsd)
    token = ctl(kmsd, "enrol", "token", "node-1", "--tenant", "cluster-a").out.strip()
    key, request = tmp_path / "n.key", tmp_path / "n.b64"
    made = ec_key()
    key.write_bytes(made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    request.write_bytes(base64.encodebytes(csr(made, cn="node-1").public_bytes(Encoding.DER)))
    post = ("--data-binary", f"@{request}", "-H", "Content-Type: application/pkcs10")
    (leaf,) = _est(tmp_path, f"{at}/simpleenroll", ca, "-u", f"node-1:{token}", *post)
    assert openssl_verify(tmp_path, leaf, certificates, crls=crls(kmsd)) == OK
    (tmp_path / "n.crt").write_bytes(leaf.public_bytes(Encoding.PEM))
    own = ("--cert", str(tmp_path / "n.crt"), "--key", str(key))
    (renewed,) = wait_for(lambda: _est(tmp_path, f"{at}/simplereenroll", ca, *own, *post))
    assert renewed.serial_number != leaf.serial_number
    assert openssl_verify(tmp_path, renewed, certificates) == OK
    assert ctl(kmsd, "ca", "revoke", "--node", "node-1", "--yes").code == 0
    assert _est(tmp_path, f"{at}/simplereenroll", ca, *own, *post) == []
    published = subprocess.run(
        ["curl", "-sS", "--cacert", str(ca.file), f"https://localhost:{port}/crl"],
        capture_output=True, timeout=30, check=True,
    )  # fmt: skip
    numbers = {each.serial_number for each in x509.load_der_x509_crl(published.stdout)}
    assert numbers == {leaf.serial_number, renewed.serial_number}


def _est(folder: Path, url: str, ca: Authority, *words: str) -> list[x509.Certificate]:
    """What an operation answers to curl; nothing if it is refused."""
    done = subprocess.run(
        ["curl", "-sS", "--fail", "--cacert", str(ca.file), *words, url], capture_output=True, timeout=30, check=False
    )
    if done.returncode:
        return []
    return pkcs7.load_der_pkcs7_certificates(base64.b64decode(done.stdout))
