"""What the certificate authority issues, and what it refuses, with a key in memory."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import AttributeOID, ExtendedKeyUsageOID, NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from kmsd.ca import request
from kmsd.ca.authority import Authority, Signer
from kmsd.ca.making import CaKey
from kmsd.ca.profile import Profile
from kmsd.config.enrolment import Ca
from kmsd.config.settings import Settings
from kmsd.daemon.ca import profile
from kmsd.errors import Conflict, Denied, InvalidRequest, KmsdError, Misconfigured, NotFound, WrongResult
from kmsd.transport.peers import NamePattern
from tests.ca.software import PROFILE, authority, csr, ec_key, openssl_verify, root

KEY = ec_key()
RSA = rsa.generate_private_key(65537, 3072)


@pytest.mark.parametrize(
    "key", [ec_key(), ec_key(ec.SECP384R1()), ec_key(ec.SECP521R1()), RSA], ids=["p256", "p384", "p521", "rsa"]
)
def test_openssl_takes_what_is_issued_until_it_is_revoked(key: CaKey, tmp_path: Path) -> None:
    ca = authority(key)
    leaf = ca.issue(csr(RSA if key is not RSA else None), "node-1", "cluster-a")
    other = ca.issue(csr(), "node-2", "cluster-a")
    assert openssl_verify(tmp_path, leaf, ca.chain, crls=ca.crls()) == (True, "leaf.pem: OK\n")
    ca.revoke(leaf.serial_number, "keyCompromise")
    taken, said = openssl_verify(tmp_path, leaf, ca.chain, crls=ca.crls())
    assert not taken
    assert "certificate revoked" in said
    assert openssl_verify(tmp_path, other, ca.chain, crls=ca.crls())[0]


def test_the_profile_decides_everything_but_the_public_key() -> None:
    ca = authority(profile=Profile(tenants=PROFILE.tenants, lifetime=timedelta(days=2), crl_url="http://ca.test/crl"))
    key = ec_key()
    now = datetime.now(UTC)
    leaf = ca.issue(csr(key, cn="node-1.a.test"), "node-1", "cluster-a")
    assert leaf.public_key() == key.public_key()
    assert leaf.subject.rfc4514_string() == "CN=node-1"
    found = {type(each.value): (each.value, each.critical) for each in leaf.extensions}
    assert found[x509.BasicConstraints] == (x509.BasicConstraints(ca=False, path_length=None), True)
    usage, critical = found[x509.KeyUsage]
    assert critical
    assert isinstance(usage, x509.KeyUsage)
    assert usage.digital_signature
    assert not any((usage.key_encipherment, usage.key_cert_sign, usage.crl_sign, usage.key_agreement))
    assert found[x509.ExtendedKeyUsage] == (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), False)
    assert found[x509.SubjectAlternativeName] == (
        x509.SubjectAlternativeName([x509.DNSName("node-1.a.test")]),
        False,
    )
    identifier = ca.signer.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    authority_identifier, _ = found[x509.AuthorityKeyIdentifier]
    assert isinstance(authority_identifier, x509.AuthorityKeyIdentifier)
    assert authority_identifier.key_identifier == identifier
    assert x509.CRLDistributionPoints in found
    assert timedelta(0) < now - leaf.not_valid_before_utc <= timedelta(minutes=6)
    assert leaf.not_valid_after_utc - now <= timedelta(days=2, seconds=1)
    assert leaf.serial_number.bit_length() > 64


def test_a_tenant_gets_the_names_of_all_its_patterns() -> None:
    leaf = authority().issue(csr(), "node-1", "cluster-b")
    san = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert request.names_in(san) == ("DNS:node-1.b.test", "URI:spiffe://b/kms/node-1")


def test_a_name_too_long_for_a_subject_is_in_the_critical_san(tmp_path: Path) -> None:
    ca = authority(profile=Profile(tenants={"cluster-a": (NamePattern.parse("URI:spiffe://a/kms/*"),)}))
    leaf = ca.issue(csr(), f"{'n' * 63}.{'m' * 63}", "cluster-a")
    assert not list(leaf.subject)
    assert leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).critical
    assert openssl_verify(tmp_path, leaf, ca.chain)[0]


def test_no_certificate_outlives_its_ca() -> None:
    ca = authority(lifetime=timedelta(days=3))
    assert ca.issue(csr(), "n", "cluster-a").not_valid_after_utc == ca.signer.certificate.not_valid_after_utc
    late = authority(now=lambda: datetime.now(UTC) + timedelta(days=4), lifetime=timedelta(days=3))
    with pytest.raises(Misconfigured, match="issues nothing now"):
        late.issue(csr(), "n", "cluster-a")


WRONG = {
    "CA:TRUE": (csr(extensions=[x509.BasicConstraints(ca=True, path_length=None)]), "CA:TRUE"),
    "another name": (csr(names=[x509.DNSName("node-2.a.test")]), "DNS:node-2.a.test"),
    "an IP address": (csr(names=[x509.OtherName(x509.ObjectIdentifier("1.2.3.4"), b"\x0c\x01a")]), "OtherName"),
    "another subject": (csr(cn="node-2"), "2.5.4.3='node-2'"),
    "serverAuth": (csr(extensions=[x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])]), "clientAuth"),
    "an unknown extension": (
        csr(extensions=[x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4.5"), b"\x05\x00")]),
        "1.2.3.4.5",
    ),
    "name constraints": (csr(extensions=[x509.NameConstraints([x509.DNSName("x")], None)]), "2.5.29.30"),
    "a challengePassword": (csr(attributes=[(AttributeOID.CHALLENGE_PASSWORD, b"x")]), "challengePassword"),
    "an unknown attribute": (csr(attributes=[(x509.ObjectIdentifier("1.2.3.4.6"), b"x")]), "1.2.3.4.6"),
    "a short RSA key": (csr(rsa.generate_private_key(65537, 2048)), "rsa-2048"),
    "a curve that is not allowed": (csr(ec_key(ec.SECP521R1())), "ec-p521"),
    "a curve that nobody allows": (csr(ec_key(ec.SECP256K1())), "secp256k1"),
    "SHA-224": (csr(hash_=hashes.SHA224()), "sha224"),
    "CA key usage": (
        csr(extensions=[x509.KeyUsage(True, False, False, False, False, True, False, False, False)]),
        "key_cert_sign",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_a_request_asks_for_beyond_the_profile_is_refused_with_the_reason(wrong: str) -> None:
    asked, reason = WRONG[wrong]
    ca = authority()
    with pytest.raises(InvalidRequest) as refused:
        ca.issue(asked, "node-1", "cluster-a")
    assert reason in refused.value.message
    assert not ca.ledger.latest(9)


def test_what_the_profile_gives_anyway_may_be_asked_for() -> None:
    ca = authority()
    asked = csr(
        cn="node-1",
        names=[x509.DNSName("Node-1.a.test")],
        extensions=[
            x509.BasicConstraints(ca=False, path_length=None),
            x509.KeyUsage(True, False, False, False, False, False, False, False, False),
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]),
            x509.SubjectKeyIdentifier(b"12345678"),
        ],
    )
    leaf = ca.issue(asked, "node-1", "cluster-a")
    assert leaf.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest != b"12345678"


def test_a_broken_signature_is_refused() -> None:
    der = bytearray(csr(KEY).public_bytes(Encoding.DER))
    der[-1] ^= 1
    with pytest.raises(InvalidRequest, match="signature is broken"):
        authority().issue(x509.load_der_x509_csr(bytes(der)), "node-1", "cluster-a")


def test_keys_that_are_no_ec_and_no_rsa_keys_are_refused() -> None:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    asked = builder.sign(ed25519.Ed25519PrivateKey.generate(), None)
    with pytest.raises(InvalidRequest, match="neither an EC nor an RSA key"):
        authority().issue(asked, "node-1", "cluster-a")


def test_a_weak_exponent_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="exponent '3'"):
        authority().issue(csr(rsa.generate_private_key(3, 3072)), "node-1", "cluster-a")


def test_an_rsa_modulus_with_a_small_factor_is_refused() -> None:
    numbers = rsa.RSAPublicNumbers(65537, 3 * RSA.public_key().public_numbers().n)
    with pytest.raises(InvalidRequest, match="small numbers divide it"):
        request._check_rsa(numbers)  # no library signs with such a key


def test_no_key_is_certified_for_two_nodes_or_for_two_tenants_nor_after_it_was_revoked() -> None:
    ca = authority()
    first = ca.issue(csr(KEY), "node-1", "cluster-a")
    for node, tenant in (("node-2", "cluster-a"), ("node-1", "cluster-b")):
        with pytest.raises(Denied, match="its key is that of node 'node-1' of tenant 'cluster-a'"):
            ca.issue(csr(KEY), node, tenant)
    ca.issue(csr(KEY), "node-1", "cluster-a")
    ca.revoke(first.serial_number, "keyCompromise")
    with pytest.raises(Denied, match="is revoked"):
        ca.issue(csr(KEY), "node-1", "cluster-a")


def test_the_key_of_the_ca_is_certified_for_no_node() -> None:
    key = ec_key()
    with pytest.raises(Denied, match="that of the CA itself"):
        authority(key).issue(csr(key), "node-1", "cluster-a")


@pytest.mark.parametrize("node", ["", "*", "a b", "node_1", "../x", "N", "-a", "a..b", "n" * 64, "x.test\n", "ä"])
def test_a_node_must_have_a_dns_name(node: str) -> None:
    with pytest.raises(InvalidRequest, match="a node's name must be"):
        authority().issue(csr(), node, "cluster-a")


def test_a_node_gets_no_name_of_another_tenant_or_an_admin() -> None:
    ca = authority()
    with pytest.raises(Denied, match="is that of an admin"):
        ca.issue(csr(), "ops", "cluster-a")
    with pytest.raises(Denied, match="none of the names"):
        ca.issue(csr(), "x.y", "cluster-a")
    with pytest.raises(NotFound, match="no tenant 'cluster-c'"):
        ca.issue(csr(), "n", "cluster-c")
    crossing = authority(profile=Profile(tenants=PROFILE.tenants, names=("DNS:{node}.a.test", "DNS:{node}.b.test")))
    with pytest.raises(Denied, match="is one of tenant 'cluster-b'"):
        crossing.issue(csr(), "n", "cluster-a")


def test_a_renewal_has_the_names_of_the_present_certificate_and_may_have_another_key() -> None:
    ca = authority()
    present = ca.issue(csr(KEY, cn="node-1"), "node-1", "cluster-a")
    for key in (KEY, ec_key()):
        fresh = ca.renew(csr(key, cn="node-1", names=[x509.DNSName("node-1.a.test")]), present)
        assert fresh.subject == present.subject
        assert fresh.serial_number != present.serial_number
        assert fresh.extensions.get_extension_for_class(
            x509.SubjectAlternativeName
        ) == present.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    with pytest.raises(InvalidRequest, match=r"node-2\.a\.test"):
        ca.renew(csr(names=[x509.DNSName("node-2.a.test")]), present)


def test_a_certificate_that_is_revoked_ended_or_a_strangers_renews_nothing() -> None:
    moment = datetime.now(UTC)
    ca = authority(now=lambda: moment)
    present = ca.issue(csr(), "node-1", "cluster-a")
    moment += timedelta(days=31)
    with pytest.raises(Denied, match="is in force from"):
        ca.renew(csr(), present)
    moment -= timedelta(days=31)
    ca.revoke(present.serial_number, "superseded")
    with pytest.raises(Denied, match="is revoked"):
        ca.renew(csr(), present)
    with pytest.raises(Denied, match="was not issued here"):
        ca.renew(csr(), authority().issue(csr(), "node-1", "cluster-a"))


def test_a_tenant_that_was_taken_away_renews_nothing() -> None:
    ca = authority()
    present = ca.issue(csr(), "node-1", "cluster-a")
    ca.profile = Profile(tenants={"cluster-b": PROFILE.tenants["cluster-b"]})
    with pytest.raises(NotFound, match="no tenant 'cluster-a'"):
        ca.renew(csr(), present)


def test_a_revoked_certificate_stays_on_the_list_until_its_end_and_one_list_longer() -> None:
    moment = datetime.now(UTC)
    ca = authority(now=lambda: moment)
    leaf = ca.issue(csr(), "node-1", "cluster-a")
    assert ca.revoke(leaf.serial_number, "cessationOfOperation").reason == "cessationOfOperation"
    assert ca.revoke(leaf.serial_number, "keyCompromise").reason == "cessationOfOperation"
    first = x509.load_der_x509_crl(ca.crl())
    (entry,) = first
    assert entry.serial_number == leaf.serial_number
    moment += timedelta(days=31)
    assert [each.serial_number for each in x509.load_der_x509_crl(ca.crl())] == [leaf.serial_number]
    moment += timedelta(days=8)
    last = x509.load_der_x509_crl(ca.crl())
    assert not list(last)
    numbers = [each.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number for each in (first, last)]
    assert numbers[0] < numbers[1]
    with pytest.raises(NotFound):
        ca.revoke(1, "unspecified")


def test_a_signature_that_does_not_fit_never_leaves() -> None:
    key = ec_key()
    ca = Authority([Signer(root(key), ec_key())], PROFILE, authority().ledger)
    with pytest.raises(WrongResult):
        ca.issue(csr(), "node-1", "cluster-a")
    with pytest.raises(WrongResult):
        ca.crls()
    assert not ca.ledger.latest(9)


def test_a_certificate_that_cannot_be_remembered_is_not_given_out(monkeypatch: pytest.MonkeyPatch) -> None:
    ca = authority()
    taken = ca.issue(csr(), "node-1", "cluster-a").serial_number
    monkeypatch.setattr(x509, "random_serial_number", lambda: taken)
    with pytest.raises(Conflict):
        ca.issue(csr(), "node-2", "cluster-a")


@given(st.binary(max_size=400))
def test_garbage_is_no_request(data: bytes) -> None:
    with pytest.raises(InvalidRequest):
        request.parse(data)


@settings(max_examples=300)
@given(st.data())
def test_a_request_that_was_damaged_is_refused_in_words_or_was_not_damaged_where_it_counts(data: st.DataObject) -> None:
    whole = _REQUEST
    der = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 3))):
        der[data.draw(st.integers(0, len(der) - 1))] = data.draw(st.integers(0, 255))
    ca = authority(KEY)
    try:
        ca.issue(request.parse(bytes(der)), "node-1", "cluster-a")
    except KmsdError:
        assert not ca.ledger.latest(1)
    else:
        # What is around the signature may be written in more than one way.
        damaged, sound = (x509.load_der_x509_csr(bytes(each)) for each in (der, whole))
        assert damaged.tbs_certrequest_bytes == sound.tbs_certrequest_bytes


_REQUEST = csr(
    ec_key(),
    cn="node-1",
    names=[x509.DNSName("node-1.a.test")],
    extensions=[x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])],
).public_bytes(Encoding.DER)

_OIDS = st.sampled_from(
    [NameOID.COMMON_NAME, NameOID.ORGANIZATION_NAME, NameOID.ORGANIZATIONAL_UNIT_NAME, NameOID.EMAIL_ADDRESS]
)
_NAMES = st.one_of(
    st.sampled_from(["node-1.a.test", "node-1", "*.a.test", "ops.a.test", "node-1.b.test"]).map(x509.DNSName),
    st.sampled_from(["spiffe://b/kms/node-1", "https://x"]).map(x509.UniformResourceIdentifier),
    st.just(x509.RFC822Name("a@b.test")),
)


@settings(max_examples=300)
@given(
    st.lists(st.tuples(_OIDS, st.text(st.characters(codec="ascii"), min_size=1, max_size=20)), max_size=3),
    st.lists(_NAMES, max_size=4),
    st.booleans(),
)
def test_whatever_is_asked_for_only_the_profiles_names_come_out(
    subject: list[tuple[x509.ObjectIdentifier, str]], names: list[x509.GeneralName], is_ca: bool
) -> None:
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(oid, value) for oid, value in subject])
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=True)
    builder = builder.add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
    ca = authority(KEY)
    try:
        leaf = ca.issue(builder.sign(_NODE_KEY, hashes.SHA256()), "node-1", "cluster-a")
    except InvalidRequest:
        return
    assert not is_ca
    san = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert request.names_in(san) == ("DNS:node-1.a.test",)
    assert leaf.subject.rfc4514_string() == "CN=node-1"


_NODE_KEY = ec_key()


def test_a_certificate_that_lasts_a_minute_is_not_due_when_it_is_issued() -> None:
    made = profile(Settings(ca=Ca(lifetime=60)))
    assert (made.lifetime, made.backdate) == (timedelta(seconds=60), timedelta(seconds=60))
    assert profile(Settings()).backdate == timedelta(minutes=5)
