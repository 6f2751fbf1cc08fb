"""A certificate authority out of a can, for the server of the tests of kmsctl."""

from __future__ import annotations

from typing import Any

from kmsd.api.admin.v1 import admin_pb2 as pb
from tests.ctl import answers
from tests.ctl.answers import CREATED

DAY = 86_400_000
PEM = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
CSR = "-----BEGIN CERTIFICATE REQUEST-----\nMIIB\n-----END CERTIFICATE REQUEST-----\n"
CA_ID = "ca.0184e5d0-0000-7000-8000-000000000001"
FAR = 32_503_680_000_000
"""In the year 3000: no certificate of these ends while it is tested."""


def ca_key(**fields: Any) -> pb.Key:
    return answers.key(
        "kmsd-ca", CA_ID, pb.KEY_STATE_SIGNING, type=pb.KEY_TYPE_EC, can_encrypt=False, can_decrypt=False,
        can_sign=True, purpose="ca", created_unix_ms=CREATED, enc="", **fields,
    )  # fmt: skip


def own() -> pb.Certificate:
    return pb.Certificate(
        subject="CN=Nodes CA,O=Example", issuer="CN=Nodes CA,O=Example", serial="ca01", sha256="ab" * 32,
        not_before_unix_ms=CREATED, not_after_unix_ms=FAR, pem=PEM,
    )  # fmt: skip


def leaf(serial: str = "1a2b", node: str = "node-1", **fields: Any) -> pb.Certificate:
    return pb.Certificate(
        subject=f"CN={node}", issuer="CN=Nodes CA,O=Example", serial=serial, sha256="cd" * 32,
        not_before_unix_ms=CREATED, not_after_unix_ms=FAR, pem=PEM, node=node, tenant="cluster-a",
        names=[f"DNS:{node}.cluster-a.test"], **fields,
    )  # fmt: skip


class CannedCa:
    """The methods of the admin API that are about the CA. state: "none", "waiting" or "ready"."""

    ca_state = "ready"

    def get_ca(self, request: pb.GetCaRequest) -> pb.GetCaResponse:
        ready = self.ca_state == "ready"
        revoked = leaf("3c4d", "node-2", revoked_unix_ms=CREATED + DAY, reason="keyCompromise")
        issued = [leaf(), revoked] if ready else []
        return pb.GetCaResponse(
            state=self.ca_state,
            key=ca_key() if self.ca_state != "none" else None,
            certificate=own() if ready else None,
            chain=[own()] if ready else [],
            issued=[each for each in issued if request.node in ("", each.node)],
            crl_unix_ms=CREATED if ready else 0,
            crl_next_unix_ms=FAR if ready else 0,
            crl_revoked=1 if ready else 0,
            profile=pb.GetCaResponse.Profile(lifetime_ms=30 * DAY, key_types=["ec-p256", "rsa-3072"]),
        )

    def init_ca(self, request: pb.InitCaRequest) -> pb.InitCaResponse:
        if request.above:
            return pb.InitCaResponse(key=ca_key(), csr=CSR)
        return pb.InitCaResponse(key=ca_key(), certificate=own())

    def import_ca_certificate(self, request: pb.ImportCaCertificateRequest) -> pb.ImportCaCertificateResponse:
        return pb.ImportCaCertificateResponse(key=ca_key(), certificate=own())

    def issue_certificate(self, request: pb.IssueCertificateRequest) -> pb.IssueCertificateResponse:
        return pb.IssueCertificateResponse(certificate=leaf(node=request.node), chain=[own()])

    def revoke_certificate(self, request: pb.RevokeCertificateRequest) -> pb.RevokeCertificateResponse:
        if request.dry_run:
            return pb.RevokeCertificateResponse(revoked=[leaf()])
        done = leaf(revoked_unix_ms=CREATED + DAY, reason=request.reason)
        return pb.RevokeCertificateResponse(revoked=[done], not_listed_because="token 'main' is away")

    def get_crl(self, request: pb.GetCrlRequest) -> pb.GetCrlResponse:
        return pb.GetCrlResponse(crls=[b"0" * 60], signed_unix_ms=CREATED, next_unix_ms=FAR)

    def roll_ca(self, request: pb.RollCaRequest) -> pb.RollCaResponse:
        return pb.RollCaResponse(key=ca_key(), certificate=own(), chain=[own(), own()])
