"""A CA whose key is in a TPM, where tpm2_ptool makes it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from kmsd.api.admin.v1 import admin_pb2 as pb
from tests import tpm
from tests.ca.software import csr, openssl_verify
from tests.daemons import Kmsd
from tests.tpm import TpmToken

CONFIG = """
[ca]
enabled = true

[[tenants]]
name = "cluster-a"
san = ["DNS:*.cluster-a.test"]
key_label = "kek-a"
"""


@pytest.fixture
def token(short_tmp: Path) -> Iterator[TpmToken]:
    made = tpm.make_tpm(short_tmp / "hsm", managed=True)
    made.add_pair("k8s-kek", "k8s-kek.hmac", "01900000-0000-7000-8000-000000000001")
    yield made
    made.stop()


@pytest.mark.parametrize("kind", ["ec-p256", "rsa-2048"])
def test_a_tpm_makes_the_key_of_a_ca_and_openssl_takes_what_it_signs(
    short_tmp: Path, token: TpmToken, tmp_path: Path, kind: str
) -> None:
    (short_tmp / "d").mkdir()
    (short_tmp / "kmsd.toml").write_text(CONFIG)
    flags = (*token.flags, f"--config={short_tmp / 'kmsd.toml'}")
    with Kmsd(short_tmp / "d", token, flags, default_flags=False).start() as kmsd:
        kmsd.wait_ok(60)
        made = kmsd.admin("InitCa", pb.InitCaRequest(subject="CN=TPM CA", type=kind), timeout=60.0)
        assert (made.key.state, made.key.purpose, made.key.label) == (pb.KEY_STATE_SIGNING, "ca", "kmsd-ca")
        request = pb.IssueCertificateRequest(csr=csr().public_bytes(Encoding.DER), node="n", tenant="cluster-a")
        issued = kmsd.admin("IssueCertificate", request, timeout=30.0)
        leaf, ca = (x509.load_pem_x509_certificate(each.pem.encode()) for each in (issued.certificate, issued.chain[0]))
        crls = kmsd.admin("GetCrl", pb.GetCrlRequest(), timeout=30.0).crls
        assert openssl_verify(tmp_path, leaf, [ca], crls=list(crls)) == (True, "leaf.pem: OK\n")
        assert kmsd.v2("Status").healthz == "ok"
