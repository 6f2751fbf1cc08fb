"""The certificate authority of a key manager, and what it issues."""

from __future__ import annotations

from collections.abc import Iterable

from google.protobuf.message import Message

from kmsd.api.admin.v1 import admin_pb2 as pb
from kmsd.client.decode.keys import optional_key
from kmsd.client.decode.plain import alike, optional, time
from kmsd.client.model.ca import Ca, CaCertificate


def certificate(message: pb.Certificate) -> CaCertificate:
    """Decode a certificate."""
    return alike(
        CaCertificate,
        message,
        not_before=time(message.not_before_unix_ms),
        not_after=time(message.not_after_unix_ms),
        revoked=time(message.revoked_unix_ms),
    )


def certificates(messages: Iterable[pb.Certificate]) -> tuple[CaCertificate, ...]:
    """Decode certificates."""
    return tuple(certificate(each) for each in messages)


def optional_certificate(message: Message) -> CaCertificate | None:
    """Decode the certificate in an answer; None if there is none."""
    found = optional(message, "certificate")
    return None if found is None else certificate(found)


def ca(message: pb.GetCaResponse) -> Ca:
    """Decode how a CA is."""
    return Ca(
        state=message.state,
        key=optional_key(message, "key"),
        certificate=optional_certificate(message),
        following=optional_key(message, "following"),
        csr=message.csr,
        chain=certificates(message.chain),
        issued=certificates(message.issued),
        crl_signed=time(message.crl_unix_ms),
        crl_next=time(message.crl_next_unix_ms),
        crl_revoked=message.crl_revoked,
        lifetime=message.profile.lifetime_ms / 1000,
        key_types=tuple(message.profile.key_types),
        names=tuple(message.profile.names),
        crl_url=message.profile.crl_url,
        more=message.more,
    )
