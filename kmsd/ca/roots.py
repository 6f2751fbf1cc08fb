"""Make the certificates of a CA's own keys, and remember them. Every function waits for a signature and the ledger."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from cryptography import x509

from kmsd.ca import chain, making
from kmsd.ca.authority import DER, Signer, check_signed
from kmsd.ca.ledger import Ledger
from kmsd.ca.making import CaKey


def sign_itself(private: CaKey, subject: x509.Name, ledger: Ledger, backdate: timedelta) -> x509.Certificate:
    """Make the certificate with which a key signs itself. Raises what the token and the ledger say."""
    now = datetime.now(UTC).replace(microsecond=0)
    begin, end = now - backdate, now + making.ROOT_LIFETIME
    made = making.authority_certificate(private.public_key(), subject, private, None, begin, end)
    check_signed(made, made)
    ledger.keep_authority(made.public_bytes(DER))
    return made


def sign_each_other(one: Signer, other: Signer, ledger: Ledger) -> None:
    """Make the certificates with which two keys of a CA sign each other, if there are none: whoever trusts one of them
    takes what the other signs (RFC 4210, 4.4). Raises what the token and the ledger say."""
    there = [x509.load_der_x509_certificate(each) for each in ledger.authorities()]
    for signed, by in ((one, other), (other, one)):
        key = chain.key_sha256(signed.certificate)
        same = [each for each in there if chain.key_sha256(each) == key and chain.is_cross(each)]
        if any(chain.issued_by(each, by.certificate) for each in same):
            continue
        begin = max(signed.certificate.not_valid_before_utc, by.certificate.not_valid_before_utc)
        end = signed.certificate.not_valid_after_utc
        subject = by.certificate.subject
        made = making.authority_certificate(signed.key.public_key(), subject, by.key, by.certificate, begin, end)
        check_signed(made, by.certificate)
        ledger.keep_authority(made.public_bytes(DER))
