"""The admin API, kmsd.admin.v1: the certificate authority. Protobuf to domain and back."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from kmsd.api.admin.v1 import admin_pb2 as pb
from kmsd.apis.admin_table import table
from kmsd.apis.admin_wire import KeyPresenter
from kmsd.ca import request as requests
from kmsd.ca.ledger import REASONS, Issued
from kmsd.ca.lifecycle import CaLifecycle, pem
from kmsd.ca.revoking import Revoking
from kmsd.errors import InvalidRequest, KmsdError, NotFound, short
from kmsd.observe import logs
from kmsd.transport.call import Call, Table, parse

log = logs.get_logger("kmsd.ca")

_TYPE: Final = "ec-p256"
_SUBJECT: Final = "CN=kmsd CA"
_LATEST: Final = 50
_LATEST_MOST: Final = 1000
_SERIAL: Final = re.compile(r"[0-9a-f]{1,40}")


@dataclass(frozen=True)
class CaAdmin:
    """The part of the admin API that is about the CA. revoking: keeps what is revoked in force. changed: called when
    another key signs."""

    ca: CaLifecycle
    revoking: Revoking
    shown: KeyPresenter
    changed: Callable[[], None]

    def table(self) -> Table:
        """Return the methods of this part, by path."""
        return table(
            {
                "GetCa": self.get_ca,
                "InitCa": self.init_ca,
                "ImportCaCertificate": self.import_ca_certificate,
                "IssueCertificate": self.issue_certificate,
                "RevokeCertificate": self.revoke_certificate,
                "GetCrl": self.get_crl,
                "RollCa": self.roll_ca,
            }
        )

    async def get_ca(self, call: Call, body: bytes) -> bytes:
        """Tell how the CA is, and what it issued last, or to one node."""
        request = parse(pb.GetCaRequest, body)
        most = min(request.most or _LATEST, _LATEST_MOST)
        after = _number(request.after) if request.after else None
        view = await self.ca.view(request.node, request.tenant, most, after, call.deadline)
        profile, lists = self.ca.profile, self.revoking.lists
        # A thousand certificates are read for a tenth of a second, in which calls go on being answered.
        issued = await asyncio.to_thread(lambda: [_issued(each) for each in view.latest])
        return pb.GetCaResponse(
            state=view.state,
            key=self.shown.optional(view.key),
            certificate=_optional(view.certificate),
            following=self.shown.optional(view.following),
            csr=_csr(view.csr),
            chain=[_certificate(each) for each in view.chain],
            issued=issued,
            more=view.more,
            crl_unix_ms=_ms(lists[0].last_update_utc) if lists else 0,
            crl_next_unix_ms=_ms(lists[0].next_update_utc) if lists else 0,
            crl_revoked=len(lists[0]) if lists else 0,
            profile=pb.GetCaResponse.Profile(
                lifetime_ms=int(profile.lifetime.total_seconds() * 1000),
                key_types=sorted(profile.key_types),
                names=profile.names,
                crl_url=profile.crl_url,
            ),
        ).SerializeToString()

    async def init_ca(self, call: Call, body: bytes) -> bytes:
        """Make the CA's key, and its certificate or the request for one."""
        request = parse(pb.InitCaRequest, body)
        key, certificate, csr = await self.ca.init(
            request.type or _TYPE, request.subject or _SUBJECT, above=request.above, until=call.deadline
        )
        call.key_id_sha256 = key.key_id_sha256
        call.detail = f"key {key.label} ({request.type or _TYPE})" + (", asks a CA above" if csr is not None else "")
        log.info("CA made", label=key.label, key_id_sha256=key.key_id_sha256, waits=csr is not None)
        self.changed()
        await self._look(call)
        return pb.InitCaResponse(
            key=self.shown.key(key), certificate=_optional(certificate), csr=_csr(csr)
        ).SerializeToString()

    async def import_ca_certificate(self, call: Call, body: bytes) -> bytes:
        """Take a certificate for the CA's key."""
        request = parse(pb.ImportCaCertificateRequest, body)
        key, certificate = await self.ca.take(request.certificates, call.deadline)
        call.key_id_sha256 = key.key_id_sha256
        call.detail = f"key {key.label}: {short(certificate.subject.rfc4514_string())}"
        log.info("CA certificate taken", label=key.label, key_id_sha256=key.key_id_sha256)
        self.changed()
        await self._look(call)
        return pb.ImportCaCertificateResponse(
            key=self.shown.key(key), certificate=_certificate(certificate)
        ).SerializeToString()

    async def issue_certificate(self, call: Call, body: bytes) -> bytes:
        """Issue the certificate of a node."""
        request = parse(pb.IssueCertificateRequest, body)
        # A refusal is recorded with whom it was about.
        call.detail = f"node {short(request.node)} of tenant {short(request.tenant)}"
        csr = requests.parse(request.csr)
        made = await self.ca.issue(csr, request.node, request.tenant, call.deadline)
        call.detail += f": {made.serial_number:x}"
        log.info("certificate issued", node=request.node, tenant=request.tenant, serial=f"{made.serial_number:x}")
        (known,) = [each for each in await self.ca.of_node(request.node) if each.serial == made.serial_number]
        return pb.IssueCertificateResponse(
            certificate=_issued(known), chain=[_certificate(each) for each in await self.ca.chain()]
        ).SerializeToString()

    async def revoke_certificate(self, call: Call, body: bytes) -> bytes:
        """Revoke one certificate, or all of a node."""
        request = parse(pb.RevokeCertificateRequest, body)
        reason = request.reason or "unspecified"
        if reason not in REASONS:
            raise InvalidRequest(
                f"a reason must be one of {', '.join(REASONS)}, got {short(reason)}", "leave it out if none fits"
            )
        call.detail = f"serial {short(request.serial)}" if request.serial else f"node {short(request.node)}"
        serials = await self._meant(request)
        call.detail += f": {len(serials)} certificates, {reason}"
        if request.dry_run:
            found = [each for each in await self._known(request) if each.serial in serials]
            return pb.RevokeCertificateResponse(revoked=[_issued(each) for each in found]).SerializeToString()
        revoked = [await self.ca.revoke(serial, reason) for serial in serials]
        for each in revoked:
            log.info("certificate revoked", node=each.node, serial=each.serial_hex, reason=each.reason)
        why = await self._look(call)
        return pb.RevokeCertificateResponse(
            revoked=[_issued(each) for each in revoked], listed=not why, not_listed_because=why
        ).SerializeToString()

    async def _meant(self, request: pb.RevokeCertificateRequest) -> list[int]:
        """Return the numbers of the certificates that a request means. Raises InvalidRequest, NotFound."""
        if bool(request.serial) == bool(request.node):
            raise InvalidRequest("either a serial or a node must be named", "kmsctl ca show lists both")
        known = await self._known(request)
        if not known:
            what = short(request.serial) if request.serial else f"of node {short(request.node)}"
            raise NotFound(f"no certificate {what} is in force here", "kmsctl ca show lists them")
        return [each.serial for each in known]

    async def _known(self, request: pb.RevokeCertificateRequest) -> Sequence[Issued]:
        if not request.serial:
            now = datetime.now(UTC)
            found = await self.ca.of_node(request.node, request.tenant)
            return [each for each in found if each.revoked_at is None and each.not_after > now]
        one = await self.ca.find(_number(request.serial))
        return [one] if one is not None else []

    async def get_crl(self, call: Call, body: bytes) -> bytes:
        """Return the lists of revocations that are in force."""
        parse(pb.GetCrlRequest, body)
        lists = await self.revoking.crls(call.deadline)
        return pb.GetCrlResponse(
            crls=[each.public_bytes(serialization.Encoding.DER) for each in lists],
            signed_unix_ms=_ms(lists[0].last_update_utc),
            next_unix_ms=_ms(lists[0].next_update_utc),
        ).SerializeToString()

    async def roll_ca(self, call: Call, body: bytes) -> bytes:
        """Have a new key sign."""
        request = parse(pb.RollCaRequest, body)
        rolled = await self.ca.roll(request.type, call.deadline)
        call.key_id_sha256 = rolled.key.key_id_sha256
        call.detail = f"key {rolled.key.label}" + (", asks a CA above" if rolled.csr is not None else "")
        log.info("CA rolled", label=rolled.key.label, key_id_sha256=rolled.key.key_id_sha256)
        self.changed()
        await self._look(call)
        return pb.RollCaResponse(
            key=self.shown.key(rolled.key),
            certificate=_optional(rolled.certificate),
            csr=_csr(rolled.csr),
            chain=[_certificate(each) for each in await self.ca.chain()],
        ).SerializeToString()

    async def _look(self, call: Call) -> str:
        """Have what is revoked enforced and listed now; return why it is not listed, if so: that is made up for
        later."""
        try:
            await self.revoking.look(call.deadline)
        except KmsdError as error:
            return error.message
        return ""


def _number(serial: str) -> int:
    """Return the number of a certificate. Raises InvalidRequest."""
    text = serial.lower().replace(":", "").removeprefix("0x")
    if not _SERIAL.fullmatch(text):
        raise InvalidRequest(f"a serial must be hexadecimal, got {short(serial)}", "as kmsctl ca show has it")
    return int(text, 16)


def _certificate(certificate: x509.Certificate) -> pb.Certificate:
    try:
        names = requests.names_in(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except (x509.ExtensionNotFound, ValueError):
        names = ()
    der = certificate.public_bytes(serialization.Encoding.DER)
    return pb.Certificate(
        subject=certificate.subject.rfc4514_string(),
        issuer=certificate.issuer.rfc4514_string(),
        serial=f"{certificate.serial_number:x}",
        sha256=hashlib.sha256(der).hexdigest(),
        not_before_unix_ms=_ms(certificate.not_valid_before_utc),
        not_after_unix_ms=_ms(certificate.not_valid_after_utc),
        pem=pem(certificate).decode("ascii"),
        names=names,
    )


def _optional(certificate: x509.Certificate | None) -> pb.Certificate | None:
    return _certificate(certificate) if certificate is not None else None


def _issued(issued: Issued) -> pb.Certificate:
    shown = _certificate(x509.load_der_x509_certificate(issued.der))
    shown.node, shown.tenant = issued.node, issued.tenant
    shown.revoked_unix_ms, shown.reason = _ms(issued.revoked_at), issued.reason or ""
    return shown


def _csr(csr: x509.CertificateSigningRequest | None) -> str:
    return csr.public_bytes(serialization.Encoding.PEM).decode("ascii") if csr is not None else ""


def _ms(moment: datetime | None) -> int:
    return int(moment.timestamp() * 1000) if moment is not None else 0
