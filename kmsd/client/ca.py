"""The calls of the admin API that are about the certificate authority."""

from __future__ import annotations

from dataclasses import replace
from typing import Final, TypeVar

from google.protobuf.message import Message

from kmsd.api.admin.v1 import admin_pb2 as pb
from kmsd.client import decode, model

Response = TypeVar("Response", bound=Message)
_PAGE: Final = 1000
"""Certificates that are asked for at once: kmsd answers no more."""


class CaCalls:
    """The part of `AdminClient` that is about the CA of a key manager. All methods take `timeout` in seconds, and raise
    ClientError."""

    def get_ca(self, *, node: str = "", tenant: str = "", most: int = 0, timeout: float | None = None) -> model.Ca:
        """Get how the CA is, and the certificates that it issued last. node, tenant: of these alone; empty: of any.
        most: so many; 0: 50. They are asked for page by page, each within `timeout`."""
        request = pb.GetCaRequest(node=node, tenant=tenant, most=min(most, _PAGE))
        found = decode.ca.ca(self._call("GetCa", request, pb.GetCaResponse, timeout))
        issued, more = [*found.issued], found.more
        while more and len(issued) < most:
            request.after, request.most = issued[-1].serial, min(most - len(issued), _PAGE)
            page = self._call("GetCa", request, pb.GetCaResponse, timeout)
            issued += decode.ca.certificates(page.issued)
            more = page.more and bool(page.issued)
        return replace(found, issued=tuple(issued), more=more)

    def init_ca(
        self,
        *,
        subject: str = "",
        type: str = "",  # noqa: A002 - the field's name in the API
        above: bool = False,
        timeout: float | None = None,
    ) -> model.NewCa:
        """Make the CA's key on the token. type: as "ec-p256". above: ask a CA above for its certificate. Conflict if
        there is a CA already."""
        request = pb.InitCaRequest(subject=subject, type=type, above=above)
        answer = self._call("InitCa", request, pb.InitCaResponse, timeout)
        return model.NewCa(decode.keys.key(answer.key), decode.ca.optional_certificate(answer), answer.csr)

    def import_ca_certificate(self, certificates: bytes, *, timeout: float | None = None) -> model.NewCa:
        """Give the CA's key a certificate that a CA above made; with the certificates above it."""
        request = pb.ImportCaCertificateRequest(certificates=certificates)
        answer = self._call("ImportCaCertificate", request, pb.ImportCaCertificateResponse, timeout)
        return model.NewCa(decode.keys.key(answer.key), decode.ca.optional_certificate(answer))

    def issue_certificate(
        self, csr: bytes, node: str, tenant: str, *, timeout: float | None = None
    ) -> model.IssuedCertificate:
        """Issue the certificate of a node. csr: PKCS#10, as PEM or DER."""
        request = pb.IssueCertificateRequest(csr=csr, node=node, tenant=tenant)
        answer = self._call("IssueCertificate", request, pb.IssueCertificateResponse, timeout)
        return model.IssuedCertificate(decode.ca.certificate(answer.certificate), decode.ca.certificates(answer.chain))

    def revoke_certificate(
        self,
        *,
        serial: str = "",
        node: str = "",
        tenant: str = "",
        reason: str = "",
        dry_run: bool = False,
        timeout: float | None = None,
    ) -> model.RevokedCertificates:
        """Revoke a certificate, or all of a node. reason: as "keyCompromise" (RFC 5280, 5.3.1). NotFound."""
        request = pb.RevokeCertificateRequest(serial=serial, node=node, tenant=tenant, reason=reason, dry_run=dry_run)
        answer = self._call("RevokeCertificate", request, pb.RevokeCertificateResponse, timeout)
        return model.RevokedCertificates(
            decode.ca.certificates(answer.revoked), answer.listed, answer.not_listed_because
        )

    def get_crl(self, *, timeout: float | None = None) -> model.Crl:
        """Get the lists of revocations."""
        answer = self._call("GetCrl", pb.GetCrlRequest(), pb.GetCrlResponse, timeout)
        times = decode.plain.time(answer.signed_unix_ms), decode.plain.time(answer.next_unix_ms)
        return model.Crl(tuple(answer.crls), *times)

    def roll_ca(self, *, type: str = "", timeout: float | None = None) -> model.NewCa:  # noqa: A002
        """Have a new key sign. type: empty for one as the present is."""
        answer = self._call("RollCa", pb.RollCaRequest(type=type), pb.RollCaResponse, timeout)
        return model.NewCa(
            decode.keys.key(answer.key),
            decode.ca.optional_certificate(answer),
            answer.csr,
            decode.ca.certificates(answer.chain),
        )

    def _call(self, method: str, request: Message, response: type[Response], timeout: float | None) -> Response:
        raise NotImplementedError
