"""The CA of a key manager over its life: its key on the token, its certificates, and what it signs.

Everything here belongs to one event loop. What waits, for the ledger or for a signature, is done on threads of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from math import inf
from time import monotonic
from typing import Final, Literal, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from kmsd.ca import chain, making, request
from kmsd.ca.authority import DER, Authority, Signer
from kmsd.ca.ledger import Issued, Ledger, Reason
from kmsd.ca.making import CaKey
from kmsd.ca.profile import Profile
from kmsd.ca.roots import sign_each_other, sign_itself
from kmsd.crypto.signing import TokenKeyPair, key_pair
from kmsd.crypto.token_key import token_key
from kmsd.errors import AlreadyExists, Conflict, KmsdError, Misconfigured, NotFound, Overloaded, Unavailable
from kmsd.hsm.host.signing import SigningKind
from kmsd.keys.key import Key
from kmsd.keys.keyring import Keyring
from kmsd.keys.labels import pending_label
from kmsd.keys.lifecycle import Lifecycle
from kmsd.keys.lifecycle import signing as signing_keys
from kmsd.keys.lifecycle.signing import SigningOrder

T = TypeVar("T")

_THREADS: Final = 4
_WAITING_MOST: Final = 64
"""Calls that may wait for a thread, or be on one."""
_SECONDS: Final = 10.0
"""Time limit for one signature, where the caller sets none."""
_SHARE: Final = 0.9
"""The part of a caller's time that a signature may take."""
_LEAST: Final = 0.5
"""Seconds that a signature gets at the least."""
State = Literal["none", "waiting", "ready"]


@dataclass(frozen=True)
class CaView:
    """The CA as it is now.

    state: "none" without a key, "waiting" with a key that has no certificate yet, "ready". key: the one that signs, or
    is to; None without one. certificate: of that key. following: a key that is to follow it, and waits for its
    certificate. chain: what others need. csr: of the key that waits. in_force, revoked: numbers of certificates that
    have not ended. latest: the certificates that were asked for, the newest first. more: whether there are others
    after them.
    """

    state: State
    key: Key | None
    certificate: x509.Certificate | None
    following: Key | None
    chain: tuple[x509.Certificate, ...]
    csr: x509.CertificateSigningRequest | None
    latest: Sequence[Issued]
    more: bool


@dataclass(frozen=True)
class Rolled:
    """A key that is to sign from now on. csr: its request, while it waits for a certificate from above."""

    key: Key
    certificate: x509.Certificate | None
    csr: x509.CertificateSigningRequest | None


class CaLifecycle:
    """The CA. label: of its key. place: name of the token where its keys are made. profile: what its certificates are
    like; may be replaced at any time. ledger: gives what remembers; raises Unavailable while that cannot be had.

    until, of each method: by the monotonic clock.
    """

    def __init__(
        self, keyring: Keyring, keys: Lifecycle, label: str, place: str, profile: Profile, ledger: Callable[[], Ledger]
    ) -> None:
        self.label = label
        self.profile = profile
        self._place = place
        self._keyring = keyring
        self._keys = keys
        self._ledger = ledger
        self._pairs: dict[tuple[str, bytes], TokenKeyPair] = {}
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="ca")
        self._waiting = 0

    async def issue(
        self, csr: x509.CertificateSigningRequest, node: str, tenant: str, until: float = inf
    ) -> x509.Certificate:
        """Issue the certificate of a node. Raises what `Authority.issue` does, NotFound if there is no CA."""
        authority = await self.authority(until)
        return await self.blocking(lambda: authority.issue(csr, node, tenant))

    async def renew(
        self, csr: x509.CertificateSigningRequest, present: x509.Certificate, until: float = inf
    ) -> x509.Certificate:
        """Issue the certificate that follows a present one. Raises what `Authority.renew` does."""
        authority = await self.authority(until)
        return await self.blocking(lambda: authority.renew(csr, present))

    async def revoke(self, serial: int, reason: Reason) -> Issued:
        """Revoke a certificate. Needs no token. Raises NotFound, Unavailable."""
        return await self.blocking(lambda: self._ledger().revoke(serial, _now(), reason))

    async def find(self, serial: int) -> Issued | None:
        """Return the certificate with this number, or None. Raises Unavailable."""
        return await self.blocking(lambda: self._ledger().find(serial))

    async def of_node(self, node: str, tenant: str = "") -> Sequence[Issued]:
        """Return the certificates of a node, the newest first. Raises Unavailable."""
        return await self.blocking(lambda: self._ledger().of_node(node, tenant))

    async def revoked(self) -> Sequence[Issued]:
        """Return the revoked certificates that have not ended. Raises Unavailable."""
        return await self.blocking(lambda: self._ledger().revoked(_now()))

    async def crls(self, until: float = inf) -> tuple[bytes, ...]:
        """Sign the lists of revocations. Raises what the token and the ledger say, NotFound if there is no CA."""
        authority = await self.authority(until)
        return await self.blocking(authority.crls)

    async def chain(self) -> tuple[x509.Certificate, ...]:
        """Return the certificates that others need to check those of nodes. Needs no token: while its keys are not to
        be had, it is all that have not ended. Raises Unavailable, NotFound if there is no CA."""
        certificates = await self._certificates()
        try:
            found = (await self.authority()).chain
        except KmsdError:
            found = tuple(each for each in certificates if each.not_valid_after_utc > _now())
        if not found:
            raise NotFound("there is no CA yet", "make one: kmsctl ca init")
        return found

    async def authority(self, until: float = inf) -> Authority:
        """Return the authority as it is now: the key that issues, and those before it whose certificates are out.

        Raises NotFound if there is no CA, Conflict if it waits for its certificate, and Unavailable.
        """
        held = await self._held()
        if not held:
            raise NotFound(f"there is no CA yet: no key labelled {self.label!r} signs", "make one: kmsctl ca init")
        certificates = await self._certificates()
        signers: list[Signer] = []
        for key in held:
            try:
                pair = await self._pair(key, certificates, until)
            except KmsdError:
                if key is held[0]:
                    raise
                continue  # an old key that is gone, or away, keeps nothing new from being signed
            certificate = chain.own(certificates, pair.public)
            if certificate is None:
                if key is held[0]:
                    raise Conflict(
                        f"the key {self.label!r} has no certificate yet", "give it one: kmsctl ca import, or ca init"
                    )
                continue
            if key is held[0] or await self._is_out(certificate):
                signers.append(Signer(certificate, self._private(pair, until)))
        shown = [each.certificate for each in signers]
        # What a key signed that is gone is in force until it ends, and so is trusted until then.
        gone = [each for each in certificates if each not in shown and not chain.is_cross(each)]
        gone = [each for each in gone if await self._is_out(each)]
        beside = (*gone, *(each for each in chain.others(certificates, shown, _now()) if each not in gone))
        return Authority(signers, self.profile, await self.blocking(self._ledger), beside)

    async def init(
        self, kind: str, subject: str, *, above: bool, until: float = inf
    ) -> tuple[Key, x509.Certificate | None, x509.CertificateSigningRequest | None]:
        """Make the key of the CA, and its certificate, or with `above` the request for one. What a run before began
        goes on. Raises AlreadyExists, InvalidRequest, and what the token and the ledger say."""
        name = making.subject_of(subject)
        order = SigningOrder(self.label, "ca", kind, self._place)
        signing_keys.check(order)
        certificates = await self._certificates()
        held = await self._held(fresh=True)
        if held and chain.own(certificates, (await self._pair(held[0], certificates, until)).public) is not None:
            raise AlreadyExists(
                f"there is a CA already, with the key {held[0].key_id}", "kmsctl ca show; a new key: kmsctl ca roll"
            )
        key = held[0] if held else await self._keys.make_signing(order, until=until)
        pair = await self._pair(key, certificates, until)
        private = self._private(pair, until)
        if above:
            return key, None, await self.blocking(lambda: making.authority_request(private, name))
        made = await self.blocking(lambda: sign_itself(private, name, self._ledger(), self.profile.backdate))
        return key, made, None

    async def take(self, data: bytes, until: float = inf) -> tuple[Key, x509.Certificate]:
        """Take the certificate that a CA above made for a key here, with the certificates above it; that key signs from
        now on. Raises InvalidRequest, Conflict, Misconfigured."""
        given = chain.parse(data)
        chain.check_given(given, _now())
        certificates = await self._certificates()
        waiting = signing_keys.pending(self._keyring, self.label, "ca")
        for key in filter(None, (*await self._held(fresh=True), waiting)):
            pair = await self._pair(key, (*certificates, given[0]), until)
            if chain.own(given[:1], pair.public) is None:
                continue

            def keep() -> None:
                for each in given:
                    self._ledger().keep_authority(each.public_bytes(DER))

            await self.blocking(keep)
            if key.label == pending_label(self.label):
                key = await self._keys.succeed_signing(self.label, "ca", until=until)
            return key, given[0]
        raise Conflict(
            "the certificate is for no key of this CA", f"those labelled {self.label!r} are in kmsctl keys list"
        )

    async def roll(self, kind: str, until: float = inf) -> Rolled:
        """Have another key sign. A CA that signed itself: both keys sign each other, and the new one issues from now
        on. One below another: the new key waits for its certificate (`take`), and the present one issues until then.
        What a run before began goes on. kind: empty for one as the present is. Raises what `authority` does, and what
        the token and the ledger say."""
        authority = await self.authority(until)
        present = authority.signer
        kind = kind or request.key_type(present.key.public_key())
        key = signing_keys.pending(self._keyring, self.label, "ca")
        if key is None:
            order = SigningOrder(pending_label(self.label), "ca", kind, self._place)
            key = await self._keys.make_signing(order, after=self.label, until=until)
        certificates = await self._certificates()
        pair = await self._pair(key, certificates, until)
        private, subject = self._private(pair, until), present.certificate.subject
        if not chain.issued_by(present.certificate, present.certificate):
            return Rolled(key, None, await self.blocking(lambda: making.authority_request(private, subject)))

        def cross() -> x509.Certificate:
            ledger = self._ledger()
            fresh = chain.own(certificates, pair.public)
            fresh = fresh or sign_itself(private, subject, ledger, self.profile.backdate)
            sign_each_other(Signer(fresh, private), present, ledger)
            return fresh

        certificate = await self.blocking(cross)
        return Rolled(await self._keys.succeed_signing(self.label, "ca", until=until), certificate, None)

    async def view(self, node: str, tenant: str, most: int, after: int | None = None, until: float = inf) -> CaView:
        """Return the CA as it is now, with the last `most` certificates. node, tenant, after: see `Ledger.latest`.
        Raises Unavailable, NotFound."""
        held, certificates = await self._held(fresh=True), await self._certificates()
        latest = await self.blocking(lambda: self._ledger().latest(most + 1, after, node, tenant))
        following = signing_keys.pending(self._keyring, self.label, "ca")
        if held and following == held[0]:
            following = None
        key = held[0] if held else None
        certificate, csr = None, None
        if key is not None:
            certificate = chain.own(certificates, (await self._pair(key, certificates, until)).public)
        state: State = "none" if key is None else "waiting" if certificate is None else "ready"
        found = await self.chain() if certificates else ()
        waiting = following if following is not None else key if state == "waiting" else None
        if waiting is not None and certificate is not None:
            private = self._private(await self._pair(waiting, certificates, until), until)
            subject = certificate.subject
            csr = await self.blocking(lambda: making.authority_request(private, subject))
        return CaView(state, key, certificate, following, found, csr, latest[:most], len(latest) > most)

    async def blocking(self, work: Callable[[], T]) -> T:
        """Return what `work` returns, which may wait, on a thread of its own. Raises Overloaded."""
        if self._waiting >= _WAITING_MOST:
            raise Overloaded(
                f"the CA has {_WAITING_MOST} calls under way, which is all that it takes", "try again soon"
            )
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        finally:
            self._waiting -= 1

    def close(self) -> None:
        """Take no more work; what is under way ends with its own time limits."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _held(self, *, fresh: bool = False) -> list[Key]:
        """Return the keys of the CA, the one that signs first; with `fresh` from a look at the tokens if none is known.
        Raises Unavailable if none is known and a token is away."""
        held = signing_keys.holders(self._keyring, self.label, "ca")
        if fresh and not held and self._keyring.complete:
            await self._keyring.look()
            held = signing_keys.holders(self._keyring, self.label, "ca")
        if not held and not self._keyring.complete:
            raise Unavailable(f"a token is away, and the key {self.label!r} may be on it", "kmsctl status says why")
        return held

    async def _pair(self, key: Key, certificates: Sequence[x509.Certificate], until: float) -> TokenKeyPair:
        if key.reason:
            raise Misconfigured(f"the key {key.label!r} signs no certificates: {key.reason}", key.hint)
        place = key.place, key.cka_id
        pair = self._pairs.get(place)
        if pair is None:
            assured = [each.public_key() for each in certificates]
            kind: SigningKind = "ec" if key.token.kind == "ec" else "rsa"
            pair = await key_pair(self._keyring.hsm(key), key.cka_id, kind, _left(until), assured)
            self._pairs[place] = pair
        return pair

    def _private(self, pair: TokenKeyPair, until: float) -> CaKey:
        return token_key(pair, asyncio.get_running_loop(), _left(until))

    async def _certificates(self) -> list[x509.Certificate]:
        """Return all certificates of CAs that are remembered. Raises Unavailable."""
        kept = await self.blocking(lambda: self._ledger().authorities())
        return [x509.load_der_x509_certificate(each) for each in kept]

    async def _is_out(self, certificate: x509.Certificate) -> bool:
        """Return whether there are certificates that are in force and were signed by the key of this one."""
        end = await self.blocking(lambda: self._ledger().last_end(making.identifier_in(certificate)))
        return end is not None and end > _now() and certificate.not_valid_after_utc > _now()


def pem(*certificates: x509.Certificate) -> bytes:
    """Return certificates as PEM."""
    return b"".join(each.public_bytes(serialization.Encoding.PEM) for each in certificates)


def _now() -> datetime:
    return datetime.now(UTC)


def _left(until: float) -> float:
    """Return the seconds for a signature: a little is left for the answer."""
    return _SECONDS if until == inf else max(_LEAST, min(_SECONDS, (until - monotonic()) * _SHARE))
