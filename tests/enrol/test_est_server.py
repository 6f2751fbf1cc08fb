"""The EST server, asked by curl and openssl, which know nothing of it."""

from __future__ import annotations

import base64
import json
import socket
import ssl
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from kmsd.errors import Unavailable
from kmsd.est import csrattrs, failures, wire
from kmsd.store.records import RequestState
from tests.ca import software
from tests.daemons import wait_for
from tests.enrol.site import Served, Site, server_certificate, write_key

pytestmark = pytest.mark.processes


@dataclass(frozen=True)
class Answer:
    """What curl got."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()


def curl(site: Site, url: str, *flags: str, data: bytes | None = None, fails: bool = False) -> Answer:
    """Ask with curl, which checks the server's certificate."""
    command = ["curl", "-sS", "--cacert", str(site.ca_file), "-D", "/dev/stderr", "--max-time", "30", *flags]
    if data is not None:
        command += ["--data-binary", "@-"]
    done = subprocess.run([*command, url], input=data or b"", capture_output=True, timeout=40, check=False)
    if fails:
        assert done.returncode != 0
        return Answer(0, {}, done.stderr)
    assert done.returncode == 0, done.stderr
    head = done.stderr.decode().replace("\r", "").strip().split("\n\n")[-1].splitlines()
    headers = dict(line.lower().split(": ", 1) for line in head[1:] if ": " in line)
    return Answer(int(head[0].split()[1]), headers, done.stdout)


def enrol(
    site: Site,
    served: Served,
    user: str,
    body: bytes,
    *flags: str,
    label: str = "",
    operation: str = "simpleenroll",
    kind: str = "application/pkcs10",
) -> Answer:
    auth = ["-u", user] if user else []
    return curl(site, served.url(operation, label), *auth, "-H", f"Content-Type: {kind}", *flags, data=body)


def request(cn: str = "node-1", key: ec.EllipticCurvePrivateKey | None = None) -> bytes:
    return base64.b64encode(software.csr(key, cn).public_bytes(Encoding.DER))


def issued(answer: Answer) -> x509.Certificate:
    assert answer.status == 200, answer.text
    assert answer.headers["content-type"] == "application/pkcs7-mime; smime-type=certs-only"
    (certificate,) = wire.certificates_in(answer.body)
    return certificate


def test_cacerts_are_read_by_openssl_and_are_the_chain(site: Site, tmp_path: Path) -> None:
    served = site.serve()
    answer = curl(site, served.url("cacerts"))
    assert len(answer.body.splitlines()) == 1
    command = ["openssl", "pkcs7", "-inform", "DER", "-print_certs"]
    der = base64.b64decode(answer.body)
    done = subprocess.run(command, input=der, capture_output=True, check=True, timeout=30)
    assert x509.load_pem_x509_certificates(done.stdout) == [site.root]
    assert curl(site, served.url("cacerts", "cluster-a")).body == answer.body


def test_a_node_enrols_with_a_token_and_curl_and_openssl_alone(site: Site, tmp_path: Path) -> None:
    served = site.serve()
    token = site.token(served)
    subprocess.run(
        ["openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj",
         "/CN=node-1", "-keyout", "tls.key", "-out", "csr.der", "-outform", "DER"],
        cwd=tmp_path, check=True, capture_output=True, timeout=30,
    )  # fmt: skip
    body = subprocess.run(["openssl", "base64", "-in", "csr.der"], cwd=tmp_path, check=True, capture_output=True).stdout
    certificate = issued(enrol(site, served, f"node-1:{token}", body))
    assert software.openssl_verify(tmp_path, certificate, [site.root]) == (True, "leaf.pem: OK\n")
    known = served.store.ledger.find(certificate.serial_number)
    assert known is not None
    assert (known.node, known.tenant, known.der) == ("node-1", "cluster-a", certificate.public_bytes(Encoding.DER))
    action, code, words = site.records.said[-1]
    assert (action, code) == ("Enrol", "OK")
    assert f"node=node-1 tenant=cluster-a serial={known.serial_hex} by token " in words
    assert token.rpartition("-")[2] not in str(site.records.said)


def _wrapped(der: bytes) -> bytes:
    return wire.encode(der)


FORMS: dict[str, Callable[[bytes], bytes]] = {
    "unwrapped": base64.b64encode,
    "wrapped": _wrapped,
    "wrapped at 76 with CRLF": lambda der: base64.encodebytes(der).replace(b"\n", b"\r\n"),
    "pem": lambda der: b"-----BEGIN CERTIFICATE REQUEST-----\n" + _wrapped(der)
    + b"-----END CERTIFICATE REQUEST-----\n",
    "pem of other words": lambda der: b"-----BEGIN NEW CERTIFICATE REQUEST-----\r\n" + base64.b64encode(der)
    + b"\r\n-----END NEW CERTIFICATE REQUEST-----",
    "der": lambda der: der,
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_request_is_taken_whatever_the_encoding_is_said_to_be(site: Site, form: str) -> None:
    served = site.serve()
    body = FORMS[form](software.csr(cn="node-1").public_bytes(Encoding.DER))
    token = site.token(served, uses=3)
    for flags in ((), ("-H", "Content-Transfer-Encoding: base64"), ("-H", "Content-Transfer-Encoding: binary")):
        issued(enrol(site, served, f"node-1:{token}", body, *flags))


def test_csrattrs_ask_for_a_key_in_the_old_form_and_by_a_template(site: Site) -> None:
    served = site.serve()
    answer = curl(site, served.url("csrattrs"))
    assert answer.headers["content-type"] == "application/csrattrs"
    der = base64.b64decode(answer.body)
    shown = subprocess.run(
        ["openssl", "asn1parse", "-inform", "DER"], input=der, capture_output=True, check=True, timeout=30
    ).stdout.decode()
    assert shown.count(":id-ecPublicKey") == shown.count(":prime256v1") == 2
    assert ":ecdsa-with-SHA256" in shown
    assert ":1.2.840.113549.1.9.16.2.61" in shown
    assert ":commonName" in shown
    assert csrattrs.key_type(der) == "ec-p256"


def test_operations_that_are_not_offered_are_refused_with_a_sentence(site: Site) -> None:
    served = site.serve()
    for operation in ("serverkeygen", "fullcmc"):
        answer = enrol(site, served, "", request(), operation=operation)
        assert (answer.status, "use simpleenroll" in answer.text) == (501, True)
    assert curl(site, served.url("simpleenroll")).status == 405
    unknown = curl(site, served.url("nothing"))
    assert (unknown.status, "/.well-known/est/cacerts" in unknown.text) == (404, True)


def test_a_certificate_is_renewed_by_itself_with_a_new_key_and_the_same_names(site: Site, tmp_path: Path) -> None:
    served = site.serve()
    key = software.ec_key()
    present = issued(enrol(site, served, f"node-1:{site.token(served)}", request(key=key)))
    shown = show(tmp_path, present, key)
    fresh = software.ec_key()
    for label in ("", "cluster-a"):
        renewed = issued(enrol(site, served, "", request(key=fresh), *shown, operation="simplereenroll", label=label))
        assert renewed.public_key() == fresh.public_key()
        assert renewed.subject == present.subject
        assert san(renewed) == san(present)
    assert site.records.said[-1][:2] == ("Renew", "OK")
    answer = enrol(site, served, "", request(key=fresh), *shown, operation="simplereenroll", label="cluster-b")
    assert (answer.status, "one of tenant 'cluster-a'" in answer.text) == (403, True)


def show(folder: Path, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> tuple[str, ...]:
    (folder / "shown.crt").write_bytes(certificate.public_bytes(Encoding.PEM))
    write_key(folder / "shown.key", key)
    return "--cert", str(folder / "shown.crt"), "--key", str(folder / "shown.key")


def san(certificate: x509.Certificate) -> x509.SubjectAlternativeName:
    return certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value


def test_a_renewal_is_refused_to_what_is_revoked_unknown_ended_or_not_there(site: Site, tmp_path: Path) -> None:
    served = site.serve()
    key = software.ec_key()
    present = issued(enrol(site, served, f"node-1:{site.token(served)}", request(key=key)))
    shown = show(tmp_path, present, key)
    served.ca.revoke(present.serial_number, "keyCompromise")
    answer = enrol(site, served, "", request(), *shown, operation="simplereenroll")
    assert (answer.status, "is revoked (keyCompromise)" in answer.text) == (403, True)
    answer = enrol(site, served, "", request(), operation="simplereenroll")
    assert (answer.status, "show the present certificate" in answer.text) == (403, True)
    # Signed by the CA's key, and issued by nobody; and one of the past.
    for begins, words in ((-1, "was not issued here"), (-90, "certificate has expired")):
        forged = forge(site, key, timedelta(days=begins))
        shown = show(tmp_path, forged, key)
        url = served.url("simplereenroll")
        flags = (*shown, "-H", "Content-Type: application/pkcs10")
        if begins == -1:
            assert words in curl(site, url, *flags, data=request()).text
        else:
            curl(site, url, *flags, data=request(), fails=True)
            told(site, words)
    other = software.authority()
    foreign = other.issue(software.csr(key, "node-1"), "node-1", "cluster-a")
    curl(site, served.url("simplereenroll"), *show(tmp_path, foreign, key), data=request(), fails=True)
    told(site, "its certificate is not taken: ", 2)


def told(site: Site, words: str, times: int = 1) -> None:
    """Wait until callers that TLS did not let in were told of with these words, so many at the least."""
    wait_for(lambda: sum(words in said for said in site.refused) >= times)


def forge(site: Site, key: ec.EllipticCurvePrivateKey, begins: timedelta) -> x509.Certificate:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(site.root.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + begins)
        .not_valid_after(now + begins + timedelta(days=30))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("node-1.a.test")]), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .sign(site.key, hashes.SHA256())
    )


def test_a_token_that_is_used_ended_revoked_guessed_or_anothers_is_refused(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failures, "MOST", 1000)
    served = site.serve()
    used, ended, revoked, others = (site.token(served, uses=1, ttl=60) for _ in range(4))
    issued(enrol(site, served, f"node-1:{used}", request()))
    assert served.enrolment.revoke_token(revoked.split("-")[2]).revoked_at
    guessed = f"kmsd-enrol-{others.split('-')[2]}-{'0' * 64}"
    cases = {
        f"node-1:{used}": "the enrolment token has been used",
        f"node-1:{revoked}": "the enrolment token was revoked",
        f"node-1:{guessed}": "the enrolment token is not known",
        f"node-1:kmsd-enrol-{'0' * 16}-{'0' * 64}": "the enrolment token is not known",
        f"node-2:{others}": "is not that of node 'node-2'",
        "node-1:secret": "is no enrolment token",
        "node-1:" + "x" * 4000: "is no enrolment token",
        "": "an enrolment token is needed",
    }
    for user, words in cases.items():
        answer = enrol(site, served, user, request())
        assert (answer.status, words in answer.text) == (401, True), answer
        assert answer.headers["www-authenticate"].startswith("basic ")
        assert site.records.said[-1][:2] == ("Enrol", "UNAUTHENTICATED")
    monkeypatch.setattr("kmsd.est.enrolment.time.time", lambda clock=time.time: clock() + 61)
    assert "has ended" in enrol(site, served, f"node-1:{ended}", request()).text
    monkeypatch.undo()
    # What was wrong with others took nothing from it.
    issued(enrol(site, served, f"node-1:{others}", request()))


def _basic(text: bytes) -> str:
    return "Basic " + base64.b64encode(text).decode()


@pytest.mark.parametrize(
    "header",
    ["Bearer abc", "Basic", "Basic !!!", "Digest x", _basic(b"nocolon"), _basic(b"\xff:\xfe"), "Basic n\u00f6"],
)
def test_another_way_to_authenticate_is_refused(site: Site, header: str) -> None:
    answer = enrol(site, site.serve(), "", request(), "-H", f"Authorization: {header}")
    assert (answer.status, "only HTTP Basic" in answer.text) == (401, True)


def test_whoever_fails_too_often_is_not_heard_for_a_while(site: Site) -> None:
    served = site.serve()
    token = site.token(served)
    for _ in range(failures.MOST):
        assert enrol(site, served, "node-1:wrong", request()).status == 401
    answer = enrol(site, served, f"node-1:{token}", request())
    assert answer.status == 429
    assert 0 < int(answer.headers["retry-after"]) <= failures.SECONDS
    assert site.records.said[-1][1] == "RESOURCE_EXHAUSTED"
    assert curl(site, served.url("cacerts")).status == 200


def bad_requests() -> dict[str, tuple[bytes, str]]:
    der = software.csr(cn="node-1").public_bytes(Encoding.DER)
    broken = der[:-4] + bytes(4)
    other_name = software.csr(cn="node-2")
    weak = software.csr(rsa.generate_private_key(65537, 1024), "node-1")  # noqa: S505
    wanting = software.csr(cn="node-1", extensions=[x509.BasicConstraints(ca=True, path_length=None)])
    unknown = software.csr(
        cn="node-1", extensions=[x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")]
    )
    password = software.csr(cn="node-1", attributes=[(x509.oid.AttributeOID.CHALLENGE_PASSWORD, b"word")])
    return {
        "another name": (wire.encode(other_name.public_bytes(Encoding.DER)), "its subject has 2.5.4.3='node-2'"),
        "weak key": (wire.encode(weak.public_bytes(Encoding.DER)), "its key is rsa-1024"),
        "broken signature": (wire.encode(broken), "the signature of the request is broken"),
        "a CA": (wire.encode(wanting.public_bytes(Encoding.DER)), "it asks to be a CA"),
        "unknown extension": (wire.encode(unknown.public_bytes(Encoding.DER)), "the extension 1.2.3.4"),
        "challengePassword": (wire.encode(password.public_bytes(Encoding.DER)), "challengePassword"),
        "garbage": (base64.b64encode(b"garbage" * 20), "is no request (PKCS#10)"),
        "cut off": (base64.b64encode(der[:-20]), "is no request (PKCS#10)"),
        "a certificate": (base64.b64encode(b"\x30\x03\x02\x01\x00"), "is no request (PKCS#10)"),
        "no base64": (b"@@@ not base64 @@@", "is not base64"),
        "empty": (b" \n", "the body is empty"),
        "two PEMs": (b"-----BEGIN X-----\nAA==\n-----END X-----\nmore", "is not one PEM object"),
        "too long": (base64.b64encode(b"0" * 20000), "16384 are taken"),
    }


def test_bad_requests_are_refused_with_the_reason_and_cost_no_token(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failures, "MOST", 1000)
    served = site.serve()
    token = site.token(served)
    for name, (body, words) in bad_requests().items():
        answer = enrol(site, served, f"node-1:{token}", body)
        assert (answer.status, words in answer.text) == (400, True), (name, answer)
    big = enrol(site, served, f"node-1:{token}", b"A" * (1024 * 1024))
    assert (big.status, "65536 bytes at most" in big.text) == (413, True)
    wrong = enrol(site, served, f"node-1:{token}", request(), kind="application/json")
    assert (wrong.status, "must be application/pkcs10, got 'application/json'" in wrong.text) == (400, True)
    key = software.ec_key()
    issued(enrol(site, served, f"node-1:{token}", request(key=key)))
    reused = enrol(site, served, f"node-9:{site.token(served, 'node-9')}", request("node-9", key))
    assert (reused.status, "its key is that of node 'node-1'" in reused.text) == (403, True)


def test_a_node_whose_answer_was_lost_gets_the_same_certificate_for_the_same_key_again(site: Site) -> None:
    served = site.serve()
    token, key = site.token(served), software.ec_key()
    first = issued(enrol(site, served, f"node-1:{token}", request(key=key)))
    assert issued(enrol(site, served, f"node-1:{token}", request(key=key))) == first
    assert "which was used for it before" in site.records.said[-1][2]
    assert len(served.store.ledger.of_node("node-1")) == 1
    assert enrol(site, served, f"node-1:{token}", request()).status == 401
    served.ca.revoke(first.serial_number, "keyCompromise")
    assert enrol(site, served, f"node-1:{token}", request(key=key)).status == 401


def test_one_token_under_200_uses_at_8_replicas_makes_one_certificate(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failures, "MOST", 1000)
    replicas = [site.serve() for _ in range(8)]
    token = site.token(replicas[0])
    bodies = [request() for _ in range(200)]

    def use(number: int) -> int:
        return enrol(site, replicas[number % 8], f"node-1:{token}", bodies[number]).status

    with ThreadPoolExecutor(32) as pool:
        statuses = list(pool.map(use, range(200)))
    assert statuses.count(200) == 1, statuses
    assert set(statuses) <= {200, 401, 429, 503}
    assert statuses.count(401) > 100
    assert len(replicas[5].store.ledger.of_node("node-1")) == 1


def test_a_request_without_a_token_waits_for_an_operator_if_that_is_the_rule(site: Site) -> None:
    served = site.serve("manual")
    key, refused = software.ec_key(), software.ec_key()
    for _ in range(2):
        answer = enrol(site, served, "", request(key=key), label="cluster-a")
        assert (answer.status, int(answer.headers["retry-after"])) == (202, 15)
    assert enrol(site, served, "", request("other", refused)).status == 202
    waiting, other = sorted(served.enrolment.requests(), key=lambda each: each.subject, reverse=True)
    assert (waiting.subject, waiting.label, waiting.address) == ("CN=other", "", "127.0.0.1")
    waiting, other = other, waiting
    approved = served.enrolment.decide(waiting.id, True, "", "", "uid 0", "")
    assert (approved.node, approved.tenant, approved.state) == ("node-1", "cluster-a", RequestState.APPROVED)
    served.enrolment.decide(other.id, False, "", "", "uid 0", "who are you")
    certificate = issued(enrol(site, served, "", request(key=key), label="cluster-a"))
    assert certificate.public_key() == key.public_key()
    denied = enrol(site, served, "", request("other", refused))
    assert (denied.status, "who are you" in denied.text) == (403, True)
    issued(enrol(site, served, f"node-7:{site.token(served, 'node-7')}", request("node-7")))


def test_while_the_token_is_away_nodes_are_told_when_to_come_again_and_keep_their_tokens(site: Site) -> None:
    served = site.serve()
    token = site.token(served)
    before = curl(site, f"https://127.0.0.1:{served.port}/crl").body
    site.away = Unavailable("the token 'secret-name' is away", "look at it")
    answer = enrol(site, served, f"node-1:{token}", request())
    assert (answer.status, answer.headers["retry-after"]) == (503, "10")
    assert "secret-name" not in answer.text
    assert curl(site, served.url("cacerts")).status == 503
    assert curl(site, f"https://127.0.0.1:{served.port}/crl").body == before
    site.away = None
    issued(enrol(site, served, f"node-1:{token}", request()))


def test_the_list_of_revocations_is_published_and_verifies(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kmsd.est.server._CRL_SECONDS", 0.0)
    served = site.serve()
    certificate = issued(enrol(site, served, f"node-1:{site.token(served)}", request()))
    good = curl(site, f"https://127.0.0.1:{served.port}/crl")
    assert good.headers["content-type"] == "application/pkix-crl"
    assert software.openssl_verify(tmp_path, certificate, [site.root], crls=[good.body])[0]
    served.ca.revoke(certificate.serial_number, "superseded")
    fresh = curl(site, f"https://127.0.0.1:{served.port}/crl").body
    ok, said = software.openssl_verify(tmp_path, certificate, [site.root], crls=[fresh])
    assert (ok, "certificate revoked" in said) == (False, True)


def test_only_tls_13_is_spoken_and_strangers_take_up_a_bounded_room(site: Site) -> None:
    served = site.serve(connections=8)
    old = ssl.create_default_context(cafile=str(site.ca_file))
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with socket.create_connection(("127.0.0.1", served.port)) as plain, pytest.raises(ssl.SSLError):
        old.wrap_socket(plain, server_hostname="127.0.0.1")
    idle = [socket.create_connection(("127.0.0.1", served.port)) for _ in range(4)]
    curl(site, served.url("cacerts"), fails=True)
    told(site, "too many connections of this address")
    for each in idle:
        each.close()
    time.sleep(0.2)
    assert curl(site, served.url("cacerts")).status == 200


def test_what_stops_in_the_middle_of_a_request_is_ended(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kmsd.est.server.SECONDS", 0.5)
    monkeypatch.setattr("kmsd.est.listener.LIFE_SECONDS", 1.5)
    served = site.serve()
    for start in (b"", b"GET /.well-known/est/cac", b"POST /.well-known/est/simpleenroll HTTP/1.1\r\nHost: x\r\n"
                  b"Content-Length: 100\r\nContent-Type: application/pkcs10\r\n\r\nAAAA"):  # fmt: skip
        plain = socket.create_connection(("127.0.0.1", served.port))
        with served.context(site).wrap_socket(plain, server_hostname="127.0.0.1") as connection:
            connection.settimeout(10)
            began = time.monotonic()
            connection.sendall(start)
            while connection.recv(4096):
                pass
            assert time.monotonic() - began < 5


def test_another_certificate_of_the_server_is_shown_without_a_restart(site: Site) -> None:
    served = site.serve()
    before = ssl.get_server_certificate(("127.0.0.1", served.port))
    server_certificate(site.folder, site.root, site.key)
    deadline = time.monotonic() + 10
    while ssl.get_server_certificate(("127.0.0.1", served.port)) == before:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert curl(site, served.url("cacerts")).status == 200
    assert json.dumps(site.refused) == "[]"
