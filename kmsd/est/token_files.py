"""The certificate of a node whose key is on a token: certificate and CAs in files, keys beside each other on the token.

The certificate says which key is used, so that one rename replaces both. What is to be remembered lies beside it: the
key of the request that goes on (`.tls.crt.key`), and the certificates before this one (`.tls.crt.old`). A key that was
made here is destroyed when the last certificate for it has ended: until then somebody may use it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from kmsd import plainfile
from kmsd.crypto.handshakes import CertifiedKey, certified
from kmsd.errors import InvalidRequest
from kmsd.est import client
from kmsd.est.client import Server
from kmsd.est.files import NodeKey, fits, fresh_path, pem, read_certificate, sync, type_of, write
from kmsd.est.gnutls import Signer
from kmsd.est.node_keys import NodeKeys
from kmsd.unreadable import X509_UNREADABLE

_MOST: Final = 1024 * 1024
_OLD_MOST: Final = 64
"""Certificates before the present one that are remembered; the keys of others stay on the token."""
_AFTER: Final = timedelta(minutes=5)
"""Time after the end of a certificate after which its key goes: clocks are not alike."""


class TokenFiles:
    """The files of a node, and its keys. See `kmsd.est.files.NodeStore`."""

    def __init__(self, certificate: Path, authorities: Path, keys: NodeKeys) -> None:
        self.certificate = certificate
        self.authorities = authorities
        self._keys = keys
        self._next = certificate.with_name(f".{certificate.name}.key")
        self._old = certificate.with_name(f".{certificate.name}.old")

    @property
    def written(self) -> tuple[Path, ...]:
        """The paths that are written."""
        return self.certificate, self.authorities

    def settle(self) -> None:
        """Do nothing: one rename replaces certificate and key."""

    def present(self) -> x509.Certificate | None:
        """Return the certificate that is there; None if there is none. Asks no token."""
        return read_certificate(self.certificate)

    def has_key_of(self, certificate: x509.Certificate) -> bool:
        """Return whether the key of a certificate is on the token. Raises KmsdError if that cannot be found out."""
        return self._keys.has(certified(certificate.public_key()).public)

    def next_key(self, key_type: str) -> NodeKey:
        """Return the key of a request that goes on, else a new one. Raises OSError, KmsdError."""
        kept = self._kept_key()
        if kept is not None:
            private = self._keys.private(kept)
            if type_of(private) == key_type:
                return private
            self.drop()
        cka_id = self._keys.new_id()
        # Written before the key is made: a crash leaves no key that nobody knows of.
        write(self._next, cka_id + b"\n", 0o600)
        sync(self._next.parent)
        try:
            return self._keys.private(self._keys.make(cka_id, key_type))
        except InvalidRequest:
            self._next.unlink(missing_ok=True)
            raise

    def keep(self, certificate: x509.Certificate, chain: Sequence[x509.Certificate] = ()) -> tuple[bytes, bytes]:
        """Write the certificate beside the old one; return it as PEM, with no key. Raises OSError."""
        data = pem([certificate, *chain])
        write(fresh_path(self.certificate), data, 0o644)
        return data, b""

    def kept(self) -> x509.Certificate | None:
        """Return the certificate that `keep` has written, if its key is that of the request. Raises KmsdError."""
        certificate = read_certificate(fresh_path(self.certificate))
        key = self._kept_key() if certificate is not None else None
        fit = key is not None and certificate is not None and fits(certificate, self._keys.private(key))
        return certificate if fit else None

    def put(
        self,
        certificate: x509.Certificate,
        authorities: Sequence[x509.Certificate] = (),
        chain: Sequence[x509.Certificate] = (),
    ) -> None:
        """Put the certificate in the place of the old one, which is remembered until it has ended. Raises OSError."""
        self.keep(certificate, chain)
        if authorities:
            write(fresh_path(self.authorities), pem(authorities), 0o644)
            fresh_path(self.authorities).replace(self.authorities)
        present = self.present()
        if present is not None and present != certificate:
            self._remember([*(each for each in self._before() if each != present), present])
        fresh_path(self.certificate).replace(self.certificate)
        sync(self.certificate.parent)
        self._next.unlink(missing_ok=True)

    def drop(self) -> None:
        """Forget the request that goes on, and destroy its key, which has no certificate. Raises OSError, KmsdError."""
        key = self._kept_key()
        fresh_path(self.certificate).unlink(missing_ok=True)
        if key is not None:
            self._keys.destroy(key.cka_id)
        self._next.unlink(missing_ok=True)

    def again(self, server: Server, csr: bytes) -> x509.Certificate:
        """Ask for the certificate that follows the present one, whose key signs the connection. Raises KmsdError."""
        data = plainfile.read_input(self.certificate, _MOST)[0]
        key = self._keys.of(certified(x509.load_pem_x509_certificate(data).public_key()).public)
        signer = Signer(data, key.kind, key.public.key_size, lambda hash_, digest: self._keys.sign(key, hash_, digest))
        return client.again_signed(server, csr, signer)

    def retire(self) -> None:
        """Destroy the keys that were made here, and whose certificates have all ended. Raises OSError, KmsdError."""
        before, now = self._before(), datetime.now(UTC)
        ended = [each for each in before if each.not_valid_after_utc + _AFTER <= now]
        if not ended:
            return
        alive = [each for each in before if each not in ended]
        used = [each.public_key() for each in (*alive, self.present()) if each is not None]
        for each in ended:
            public = each.public_key()
            if public in used or not isinstance(public, ec.EllipticCurvePublicKey):
                continue
            key = self._keys.of(public)
            if key.cka_id and key.cka_id != self._kept_id():
                self._keys.destroy(key.cka_id)
        self._remember(alive)

    def _before(self) -> list[x509.Certificate]:
        """Return the certificates before the present one that are remembered."""
        try:
            return x509.load_pem_x509_certificates(plainfile.read_input(self._old, _MOST)[0])
        except (OSError, *X509_UNREADABLE):
            return []

    def _remember(self, before: Sequence[x509.Certificate]) -> None:
        if not before:
            self._old.unlink(missing_ok=True)
            return
        fresh = fresh_path(self._old)
        write(fresh, b"".join(each.public_bytes(Encoding.PEM) for each in before[-_OLD_MOST:]), 0o644)
        fresh.replace(self._old)

    def _kept_id(self) -> bytes:
        with contextlib.suppress(OSError):
            return plainfile.read_input(self._next, _MOST)[0].strip()
        return b""

    def _kept_key(self) -> CertifiedKey | None:
        """Return the key of the request that goes on; None if there is none. Raises KmsdError."""
        cka_id = self._kept_id()
        key = self._keys.made(cka_id) if cka_id else None
        present = self.present()
        if key is not None and present is not None and present.public_key() == key.public:
            return None  # a crash came between its certificate and the end of the request
        return key
