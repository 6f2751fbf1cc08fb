"""Change the keys of service account tokens: publish the next, have it sign, retire the last; take in others' keys.

A rotation has all its state in labels on the token, so that any kmsd that has the token goes on with what another
began: a key is published under `L.pending`, takes the label `L` when it is to sign, and keeps `L@TIME` while tokens
that it signed are in force. Each step may be repeated.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from kmsd.errors import Conflict, InvalidRequest, KmsdError, NotFound, short
from kmsd.jwt.fetchers import Fetchers
from kmsd.jwt.kept import TRUSTED_MOST, Kept, Trusted
from kmsd.jwt.keys import JwtKeys
from kmsd.jwt.public_key import PEM_MOST, VerifyingKey, from_pem, verifying
from kmsd.jwt.views import KeyView
from kmsd.keys.keyring import Keyring
from kmsd.keys.labels import pending_label
from kmsd.keys.lifecycle import Lifecycle
from kmsd.keys.lifecycle import signing as signing_keys
from kmsd.keys.lifecycle.signing import TYPES, SigningOrder

_NOTE_MOST: Final = 256
_TYPE_OF: Final = {"ES256": "ec-p256", "ES384": "ec-p384", "ES512": "ec-p521"}


@dataclass(frozen=True)
class JwtChanges:
    """The changes of the keys of one label. place: name of the token where keys are made; empty: the write token.
    refresh: seconds for which whoever has fetched the keys may go by them.

    until, of each change: when its caller stops waiting, by the monotonic clock.
    """

    keys: JwtKeys
    fetchers: Fetchers
    keyring: Keyring
    lifecycle: Lifecycle
    place: str
    refresh: int

    async def look(self, until: float = inf) -> None:
        """Look at the tokens, and prove and publish what is there. Raises KmsdError if none shows its keys."""
        await self.keyring.look()
        await self.keys.look(until)

    async def roll_forward(self) -> None:
        """Finish a switch that was begun, whoever began it."""
        with contextlib.suppress(KmsdError):
            await self.lifecycle.roll_signing_forward(self.keys.label, "jwt")

    async def publish(self, kind: str, place: str, *, dry_run: bool, until: float) -> tuple[KeyView | None, bool]:
        """Make the key that is to sign next, and publish it; return it, and whether it was made now. kind: one of
        TYPES; empty for one as the key that signs. Raises what `JwtKeys.signer` does, and what the token says."""
        if kind and kind not in TYPES:
            raise InvalidRequest(f"the type of a key must be one of {', '.join(TYPES)}, got {short(kind)}", "")
        await self.look(until)
        signer = self.keys.signer()
        waiting = signing_keys.pending(self.keyring, self.keys.label, "jwt")
        if waiting is None and dry_run:
            return None, False
        made = waiting is None
        if waiting is None:
            usual = _TYPE_OF.get(signer.verifying.alg) or f"rsa-{max(2048, signer.verifying.public.key_size)}"
            order = SigningOrder(
                pending_label(self.keys.label),
                "jwt",
                kind or (usual if usual in TYPES else "rsa-4096"),
                place or self.place,
            )
            waiting = await self.lifecycle.make_signing(order, after=self.keys.label, until=until)
            await self.keys.look(until)
        return self._view_of(waiting.key_id), made

    async def switch(
        self, kid: str, *, force: bool, dry_run: bool, until: float
    ) -> tuple[KeyView, KeyView | None, bool]:
        """Have the key that waits sign; return it, the one before, and whether something was changed. force: although
        not everybody is known to have fetched it. Raises NotFound, Conflict."""
        await self.look(until)
        view = self.keys.find(kid)
        if view.state == "signing":
            return view, self._before(kid), False
        if (view.state == "verifying" and view.proven and view.published and view.key) or self._returns(view):
            return await self._switch_back(view, dry_run=dry_run, until=until)
        if view.state != "pending" or not view.proven:
            raise Conflict(
                f"the key {kid} does not wait to sign: it is {view.state}",
                "publish one first: kmsctl jwt rotate; kmsctl jwt keys lists all",
            )
        if not force:
            self._check_fetched(view)
        before = next((each for each in self.keys.views() if each.state == "signing"), None)
        if dry_run:
            return view, before, True
        await self.lifecycle.succeed_signing(self.keys.label, "jwt", until=until)
        await self.keys.look(until)
        return self.keys.find(kid), self._before(kid), True

    async def _switch_back(self, view: KeyView, *, dry_run: bool, until: float) -> tuple[KeyView, KeyView | None, bool]:
        """Have a key that signed before sign again: everybody knows it. Raises Conflict while another waits to sign."""
        kid = view.verifying.kid if view.verifying else ""
        waiting = signing_keys.pending(self.keyring, self.keys.label, "jwt")
        if waiting is not None and waiting != view.key:
            raise Conflict("another key waits to sign", "take it back first: kmsctl jwt revert")
        before = next((each for each in self.keys.views() if each.state == "signing"), None)
        if not dry_run and view.key is not None:
            await self.lifecycle.recall_signing(view.key, self.keys.label, "jwt", until=until)
            await self.keys.look(until)
            view = self.keys.find(kid)
            before = self._before(kid)
        return view, before, True

    def _returns(self, view: KeyView) -> bool:
        """Return whether a key that waits signed before: somebody began to have it sign again, and did not finish."""
        signer = next((each.key for each in self.keys.views() if each.state == "signing"), None)
        return bool(view.state == "pending" and view.key and signer and view.key.created_ms < signer.created_ms)

    def _check_fetched(self, view: KeyView) -> None:
        """Raise Conflict unless whoever verifies tokens has had the time to learn of a key."""
        behind = [each.who for each in self.fetchers.lately() if each.ms < self.keys.key_set.ms]
        if behind:
            raise Conflict(
                f"{len(behind)} of those who fetch the keys have not fetched this one yet: {', '.join(behind[:4])}",
                f"wait for the refresh hint, {self.refresh} s, or insist (force): a kube-apiserver that meets an "
                "unknown key asks at once, others that read its discovery document may not",
            )
        wait = view.since + self.refresh - time.time()
        if wait > 0:
            raise Conflict(
                f"the key is published for less than the refresh hint, {self.refresh} s, for which others go by what "
                "they know",
                f"try again in {wait:.0f} s, or insist (force)",
            )

    def _before(self, kid: str) -> KeyView | None:
        stopped = [each for each in self.keys.views() if each.stopped and each.verifying and each.verifying.kid != kid]
        return max(stopped, key=lambda each: each.stopped, default=None)

    async def retire(self, kid: str, confirm: str, *, dry_run: bool, until: float) -> KeyView:
        """Publish a key on a token no more, for good; return it as it was. Raises Conflict if it signs, or if tokens
        that it signed may be in force and its kid is not confirmed."""
        await self.look(until)
        view = self.keys.find(kid)
        if view.state == "signing":
            raise Conflict(f"the key {kid} signs", "have another sign first: kmsctl jwt rotate")
        if view.state == "trusted":
            raise Conflict(f"the key {kid} is not on a token", "kmsctl jwt untrust takes back that it is trusted")
        if view.state != "pending" or self._returns(view):
            self._confirm(kid, confirm, _why_needed(view))
        if dry_run:
            return view
        if view.key is not None:
            await self.lifecycle.retire_signing(view.key, until=until)
        await self.keys.keep(lambda kept: kept.without_proven(kid))
        await self.keys.look(until)
        return view

    def _confirm(self, kid: str, confirm: str, why: str) -> None:
        if confirm not in ("", kid):
            raise InvalidRequest(f"to confirm is the kid, {kid}, got {short(confirm)}", "give the kid once more")
        if why and not confirm:
            raise Conflict(why, "to have these tokens refused, give the kid once more (--confirm)")

    async def take_in(
        self, data: bytes, place: str, *, pending: bool, dry_run: bool, until: float
    ) -> tuple[KeyView | None, bool, bool]:
        """Make a key on the token of a private key from outside; return it, whether that was done now, and whether the
        token got it wrapped. Raises InvalidRequest, Conflict, and what the token says."""
        private, public = _private(data)
        await self.look(until)
        for each in self.keys.views():
            if each.key is not None and each.state != "retired" and each.verifying and each.verifying.kid == public.kid:
                return each, False, False
        held = signing_keys.of_label(self.keyring, self.keys.label, "jwt")
        label = pending_label(self.keys.label) if pending else self.keys.label
        if any(key.label == label for key in held):
            raise Conflict(
                f"a key labelled {label!r} is there already",
                "have this one sign next (--pending), or retire the one that waits: kmsctl jwt retire",
            )
        if dry_run:
            return None, False, False
        order = SigningOrder(label, "jwt", "", place or self.place)
        key, wrapped = await self.lifecycle.take_in_signing(order, private, after=self.keys.label, until=until)
        await self.keys.look(until)
        return self._view_of(key.key_id), True, wrapped

    async def trust(self, data: bytes, note: str, *, excluded: bool, dry_run: bool) -> tuple[Sequence[KeyView], int]:
        """Publish public keys from outside; return them, and how many were not trusted before. Raises InvalidRequest,
        Conflict, Unavailable."""
        if len(note) > _NOTE_MOST or not note.isprintable():
            raise InvalidRequest(f"a note must have {_NOTE_MOST} printable characters at most, got {short(note)}", "")
        found, trusted = from_pem(data), self.keys.kept.trusted
        added = [key for key in found if key.kid not in trusted]
        if len(trusted) + len(added) > TRUSTED_MOST:
            raise Conflict(
                f"{TRUSTED_MOST} keys from outside may be trusted, not more", "kmsctl jwt untrust takes one out"
            )

        def with_found(kept: Kept) -> Kept:
            for key in found:
                known = kept.trusted.get(key.kid)
                since, words = (known.since, note or known.note) if known is not None else (time.time(), note)
                kept = kept.with_trusted(Trusted(key, since, excluded, words))
            return kept

        if not dry_run:
            await self.keys.keep(with_found)
        kids = {key.kid for key in found}
        shown = [each for each in self.keys.views() if each.state == "trusted" and each.kid in kids]
        if dry_run:
            shown += [KeyView("trusted", None, key, False, False, excluded, note=note) for key in added]
        return shown, len(added)

    async def untrust(self, kid: str, confirm: str, *, dry_run: bool) -> KeyView:
        """Publish a public key from outside no more; return it as it was. Raises NotFound, Conflict."""
        known = self.keys.kept.trusted.get(kid)
        if known is None:
            raise NotFound(f"no key with the kid {short(kid)} is trusted", "kmsctl jwt keys lists them")
        self._confirm(kid, confirm, "tokens that were signed with this key before may be in force")
        view = KeyView("trusted", None, known.verifying, True, False, known.excluded, known.since, note=known.note)
        if not dry_run:
            await self.keys.keep(lambda kept: kept.without_trusted(kid))
        return view

    def _view_of(self, key_id: str) -> KeyView:
        for each in self.keys.views():
            if each.key is not None and each.key.key_id == key_id:
                if each.error is not None and each.state == "unusable":
                    raise each.error.again()
                return each
        raise Conflict("the key was made and is gone again", "look for another program that uses this token")


def _why_needed(view: KeyView) -> str:
    """Return why a key should not be retired; empty if nothing speaks against it."""
    if view.key is None:
        return "it is not to be seen on any token, and tokens that it signed may be in force"
    if not view.stopped:
        return "it is not known when it stopped signing, so tokens that it signed may be in force"
    if view.needed_until > time.time():
        until = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(view.needed_until))
        return f"tokens that it signed may be in force until {until}"
    return ""


def _private(data: bytes) -> tuple[bytes, VerifyingKey]:
    """Return a private key as PKCS#8, and its public half. Raises InvalidRequest."""
    if len(data) > PEM_MOST:
        raise InvalidRequest(f"a private key must have {PEM_MOST} bytes at most, got {len(data)}", "")
    hint = "give what kube-apiserver's --service-account-signing-key-file names: RSA, or EC on a NIST curve"
    try:
        pem = b"-----BEGIN " in data
        load = serialization.load_pem_private_key if pem else serialization.load_der_private_key
        key = load(data, None)
    except TypeError as error:
        raise InvalidRequest("the private key is encrypted", "openssl pkey -in KEY decrypts it") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InvalidRequest("these bytes are no private key", hint) from error
    public = verifying(key.public_key())
    plain = serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, plain), public
