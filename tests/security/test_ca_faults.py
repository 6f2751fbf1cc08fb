"""A token that fails, hangs, crashes or lies while it signs for the CA: no wrong certificate ever leaves."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding

from kmsd.api.admin.v1 import admin_pb2 as pb
from tests.ca.software import csr, openssl_verify
from tests.chaos import ChaosToken, make_chaos
from tests.daemons import Kmsd, wait_for
from tests.rpc.refusals import refusal

CONFIG = """
[ca]
enabled = true

[[tenants]]
name = "cluster-a"
san = ["DNS:*.cluster-a.test"]
key_label = "kek-a"
"""


@pytest.fixture
def chaos(short_tmp: Path) -> ChaosToken:
    return make_chaos(short_tmp / "chaos")


@pytest.fixture
def kmsd(short_tmp: Path, chaos: ChaosToken) -> Iterator[Kmsd]:
    """A kmsd with a CA."""
    (short_tmp / "d").mkdir()
    (short_tmp / "kmsd.toml").write_text(CONFIG)
    flags = (*chaos.flags, "--auto-create", f"--config={short_tmp / 'kmsd.toml'}")
    with Kmsd(short_tmp / "d", chaos, flags, default_flags=False).start().wait_ok() as running:
        running.admin("InitCa", pb.InitCaRequest(subject="CN=x"), timeout=30.0)
        yield running


def issue(kmsd: Kmsd, timeout: float = 5.0) -> pb.IssueCertificateResponse:
    request = pb.IssueCertificateRequest(csr=csr().public_bytes(Encoding.DER), node="n", tenant="cluster-a")
    answer: pb.IssueCertificateResponse = kmsd.admin("IssueCertificate", request, timeout=timeout)
    return answer


def issued(kmsd: Kmsd) -> list[pb.Certificate]:
    return list(kmsd.admin("GetCa", pb.GetCaRequest()).issued)


def test_a_wrong_signature_is_thrown_away_and_nothing_is_remembered_as_issued(kmsd: Kmsd, chaos: ChaosToken) -> None:
    with chaos.told("C_Sign flip"):
        refused = refusal(lambda: issue(kmsd))
    assert refused.code == "UNAVAILABLE"
    assert "does not fit the public key" in refused.details
    assert issued(kmsd) == []
    made = issue(kmsd)
    leaf, ca = (x509.load_pem_x509_certificate(each.pem.encode()) for each in (made.certificate, made.chain[0]))
    leaf.verify_directly_issued_by(ca)


def test_a_token_that_fails_is_an_answer_and_one_that_crashes_is_replaced(kmsd: Kmsd, chaos: ChaosToken) -> None:
    with chaos.told("C_Sign rv=0x30"):
        assert refusal(lambda: issue(kmsd)).code == "UNAVAILABLE"
    with chaos.told("C_Sign crash"):
        assert refusal(lambda: issue(kmsd)).code in ("UNAVAILABLE", "DEADLINE_EXCEEDED")
    wait_for(lambda: kmsd.v2("Status").healthz == "ok")
    assert issue(kmsd).certificate.node == "n"


def test_a_token_that_hangs_is_an_answer_in_the_callers_time(kmsd: Kmsd, chaos: ChaosToken) -> None:
    began = time.monotonic()
    with chaos.told("C_Sign hang"):
        refused = refusal(lambda: issue(kmsd, timeout=3.0))
    assert refused.code in ("DEADLINE_EXCEEDED", "UNAVAILABLE")
    assert time.monotonic() - began < 10
    wait_for(lambda: kmsd.v2("Status").healthz == "ok")
    assert issue(kmsd).certificate.node == "n"


@pytest.mark.parametrize("fault", ["C_SetAttributeValue rv=0x30", "C_SetAttributeValue rv=0x30 after=1"])
def test_a_roll_that_stops_between_two_moves_is_finished_by_the_next(
    kmsd: Kmsd, chaos: ChaosToken, fault: str, tmp_path: Path
) -> None:
    before = issue(kmsd)
    # Both halves of a pair are relabelled: with after=1 only the public one is.
    with chaos.told(fault):
        refusal(lambda: kmsd.admin("RollCa", pb.RollCaRequest(), timeout=10.0))
    between = issue(kmsd)
    kmsd.admin("RollCa", pb.RollCaRequest(), timeout=20.0)
    after = issue(kmsd)
    keys = sorted(each.label for each in kmsd.admin("ListKeys").keys if each.purpose == "ca")
    assert len(keys) == 2
    assert keys[0] == "kmsd-ca"
    assert keys[1].startswith("kmsd-ca@")
    chain = [x509.load_pem_x509_certificate(each.pem.encode()) for each in after.chain]
    roots = [each for each in chain if _signed_itself(each)]
    cross = [each for each in chain if each not in roots]
    assert len(roots) == len(cross) == 2
    for leaf in (before, between, after):
        read = x509.load_pem_x509_certificate(leaf.certificate.pem.encode())
        for root in roots:
            assert openssl_verify(tmp_path, read, [root], between=cross)[0]


def _signed_itself(certificate: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(certificate)
    except InvalidSignature:
        return False
    return True
