"""The keys of one label that sign service account tokens: proven, chosen, and published.

A public key is published if it is proven, that is if the private key on the token has signed a fresh challenge that it
fits, or if an operator trusts it: never because an object on a token says so, for anybody who reaches the token can
make a public one. What was proven before a restart is published at once, and signs nothing until it is proven again.
Labels say what a key does: `L` signs, `L.pending` is to, `L@TIME` has signed, `L.retired@TIME` is published no more.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from time import monotonic
from typing import Final

from kmsd.crypto.signing import TokenKeyPair, key_pair
from kmsd.errors import InvalidRequest, KmsdError, Misconfigured, Unavailable
from kmsd.hsm.host.signing import SigningKind
from kmsd.jwt import kept as keeping
from kmsd.jwt import views
from kmsd.jwt.api import KeySet, PublicKey
from kmsd.jwt.kept import Kept, Proven
from kmsd.jwt.public_key import VerifyingKey, verifying
from kmsd.jwt.published import in_order
from kmsd.jwt.views import UNUSED, KeyView, Use
from kmsd.keys.key import Key
from kmsd.keys.keyring import Keyring
from kmsd.keys.labels import is_archived, pending_label
from kmsd.keys.lifecycle import signing as signing_keys
from kmsd.problem import About, Problem

_PROOF_SECONDS: Final = 5.0
"""Time limit for the proof of one key."""


@dataclass(frozen=True)
class SigningKey:
    """A key pair on a token whose public half is proven."""

    key: Key
    pair: TokenKeyPair
    verifying: VerifyingKey


class JwtKeys:
    """The keys of one label.

    keyring: shows the keys of all tokens. directory: where it is kept what outlives a restart. longest: seconds for
    which a token may be in force. refresh: seconds until the published keys should be asked for again. changed: told,
    in words, when other keys are published.
    """

    def __init__(
        self, keyring: Keyring, label: str, directory: Path, longest: int, refresh: int, changed: Callable[[str], None]
    ) -> None:
        self.label = label
        self.longest = longest
        self.kept: Kept = keeping.load(directory)
        self._keyring = keyring
        self._directory = directory
        self._refresh = refresh
        self._changed = changed
        self._proven: dict[tuple[str, bytes], SigningKey] = {}
        self._pairs: dict[tuple[str, bytes], SigningKey] = {}
        self._failed: dict[tuple[str, bytes], KmsdError] = {}
        self._uses: dict[str, Use] = {}
        self._last: SigningKey | None = None
        self._refreshing = asyncio.Lock()
        self._keeping = asyncio.Lock()
        self._unkept: KmsdError | None = None
        self.key_set = self._set(self._published())

    # What is published, and what signs.

    def signer(self) -> SigningKey:
        """Return the key that signs; the one before while its successor was seen just now, and is being proven. Raises
        why there is none."""
        signers = self._signers()
        for key in signers:
            found = self.proven(key)
            if found is not None and any(each.kid == found.verifying.kid for each in self.key_set.keys):
                self._last = found
                return found
        last = self._last
        waits = bool(signers) and (signers[0].place, signers[0].cka_id) not in self._failed
        if last is not None and waits and any(key.cka_id == last.key.cka_id for key in self._held()):
            return last
        raise self._why_none()

    def _signers(self) -> list[Key]:
        """Return the keys that may sign now, the one that should first."""
        held = self._held()
        now = [key for key in held if key.label == self.label]
        return now or [key for key in held if key.label == pending_label(self.label)]

    def _held(self) -> list[Key]:
        """Return the keys on tokens that sign, are to sign or have signed, the newest first."""
        return [key for key in self.all if not is_archived(key.label)]

    def _why_none(self) -> KmsdError:
        signers = self._signers()
        if signers:
            error = self._failed.get((signers[0].place, signers[0].cka_id))
            return (
                error.again()
                if error
                else Unavailable(f"the key {signers[0].label!r} has not been proven yet", "try again in a moment")
            )
        if not self._keyring.complete:
            return Unavailable(
                f"the key {self.label!r} is not to be seen, and a token is away or was not looked at yet",
                "kmsctl status says why",
            )
        return Misconfigured(
            f"no key labelled {self.label!r} signs service account tokens on {self._keyring.where}",
            f"make one: kmsctl keygen {self.label} --type ec-p256 --purpose jwt",
        )

    def published(self) -> KeySet:
        """Return the published keys. Raises Unavailable while none is known."""
        if not self.key_set.keys:
            raise self._why_none()
        return self.key_set

    def _published(self) -> tuple[PublicKey, ...]:
        return in_order(
            (
                *(PublicKey(kid, each.verifying.der) for kid, each in self.kept.proven.items()),
                *(PublicKey(kid, each.verifying.der, each.excluded) for kid, each in self.kept.trusted.items()),
            )
        )

    def _set(self, keys: tuple[PublicKey, ...]) -> KeySet:
        stamp = self.kept.stamp.of(keys, int(time.time() * 1000))
        self.kept = replace(self.kept, stamp=stamp)
        return KeySet(keys, stamp.ms, self._refresh)

    def used(self, key: SigningKey) -> None:
        """Count a token that was signed."""
        before = self._uses.get(key.verifying.kid, UNUSED)
        self._uses[key.verifying.kid] = Use(before.signed + 1, time.time())

    # What a look has shown.

    async def look(self, until: float = inf) -> None:
        """Prove the keys that the last look at the tokens has shown, and publish them. Nothing is done for keys that
        are proven already."""
        async with self._refreshing:
            await self._prove(until)
            await self._publish()

    async def _prove(self, until: float) -> None:
        held = {(key.place, key.cka_id): key for key in self._held()}
        self._failed = {where: error for where, error in self._failed.items() if where in held}
        # A key that is not to be seen for a moment, as while it gets another label, need not be proven again.
        self._proven = {
            where: replace(self._pairs[where], key=key)
            for where, key in held.items()
            if where in self._pairs and not key.reason
        }
        for where, key in held.items():
            if where in self._proven:
                self._failed.pop(where, None)
                continue
            if key.reason:
                self._failed[where] = Misconfigured(f"the key {key.label!r} signs no tokens: {key.reason}", key.hint)
                continue
            if self._keyring.hsm(key).connected is None:
                self._failed[where] = self._keyring.hsm(key).error.again()
                continue
            seconds = max(0.1, min(_PROOF_SECONDS, until - monotonic()))
            kind: SigningKind = "ec" if key.token.kind == "ec" else "rsa"
            publics = [each.verifying.public for each in self.kept.proven.values()]
            try:
                pair = await key_pair(self._keyring.hsm(key), key.cka_id, kind, seconds, publics)
                self._proven[where] = self._pairs[where] = SigningKey(key, pair, verifying(pair.public))
                self._failed.pop(where, None)
            except InvalidRequest as error:
                self._failed[where] = Misconfigured(
                    f"the key {key.label!r} signs no tokens: {error.message}", error.hint
                )
            except KmsdError as error:
                self._failed[where] = error

    async def _publish(self) -> None:
        """Publish what is proven, keep it, and tell if it is another set than before."""
        await self.keep(self._with_proven, strict=False)

    def _with_proven(self, kept: Kept) -> Kept:
        now, signs = time.time(), {key.cka_id for key in self._signers()[:1]}
        for each in self._proven.values():
            known = kept.proven.get(each.verifying.kid)
            longest = known.longest if known is not None else 0
            if each.key.cka_id in signs:
                longest = max(longest, self.longest)
            since = known.since if known is not None else now
            kept = kept.with_proven(Proven(each.verifying, each.key.key_id, each.key.place, since, longest))
        retired = {key.key_id for key in self.all if is_archived(key.label)}
        for kid in [kid for kid, each in kept.proven.items() if each.key_id in retired]:
            kept = kept.without_proven(kid)
        return kept

    async def keep(self, change: Callable[[Kept], Kept], *, strict: bool = True) -> None:
        """Change what is kept, have it on the disk, and publish what it says. strict: raise Unavailable, and leave all
        as it was, if it cannot be kept; else that is a problem."""
        async with self._keeping:
            before = self.kept
            self.kept = change(before)
            fresh = self._set(self._published())
            if not strict:
                self._show(fresh)
            if self.kept == before and self._unkept is None:
                return
            try:
                await asyncio.to_thread(keeping.save, self._directory, self.kept)
                self._unkept = None
            except Unavailable as error:
                if strict:
                    self.kept = before
                    raise
                self._unkept = error
            self._show(fresh)

    def _show(self, fresh: KeySet) -> None:
        old, self.key_set = self.key_set, fresh
        if fresh.ms != old.ms:
            self._changed(_told(old, fresh))

    # What operators see.

    @property
    def all(self) -> Sequence[Key]:
        """The keys on tokens whose label is, or was made of, that of these keys; the newest first."""
        return signing_keys.of_label(self._keyring, self.label, "jwt")

    def proven(self, key: Key) -> SigningKey | None:
        """Return a key as one whose public half is proven; None if it is not."""
        return self._proven.get((key.place, key.cka_id))

    def failed(self, key: Key) -> KmsdError | None:
        """Return why a key could not be proven; None if that is not so."""
        return self._failed.get((key.place, key.cka_id))

    def signs(self, key: Key) -> bool:
        """Return whether this is the key that signs now."""
        with contextlib.suppress(KmsdError):
            signer = self.signer().key
            return (signer.place, signer.cka_id) == (key.place, key.cka_id)
        return False

    def views(self) -> list[KeyView]:
        """Return all keys: that which signs, those that wait, those that signed, trusted ones, and the rest."""
        return views.of(self)

    def find(self, kid: str) -> KeyView:
        """Return the key with this kid. Raises NotFound."""
        return views.find(self, kid)

    def use(self, kid: str) -> Use:
        """Return what a key was used for since kmsd started."""
        return self._uses.get(kid, UNUSED)

    @property
    def complete(self) -> bool:
        """Whether all tokens show what they have, as far as is known."""
        return self._keyring.complete

    @property
    def problems(self) -> list[Problem]:
        """The facts about these keys that an operator should know."""
        found = []
        about = About(key_label=self.label)
        try:
            self.signer()
        except KmsdError as error:
            found.append(
                Problem(f"no service account token is signed: {error.message}", error.hint, False, about=about)
            )
        wrong = (each.error for each in self.views())
        found += [Problem(e.message, e.hint, fatal=False, about=about) for e in wrong if isinstance(e, Misconfigured)]
        if self._unkept is not None:
            found.append(
                Problem(self._unkept.message, self._unkept.hint, fatal=False, about=About(setting="state.dir"))
            )
        return found


def _told(old: KeySet, new: KeySet) -> str:
    before, after = {key.kid for key in old.keys}, {key.kid for key in new.keys}
    words = [
        f"{what} {kid[:12]}" for what, kids in (("+", after - before), ("-", before - after)) for kid in sorted(kids)
    ]
    return f"{len(new.keys)} keys" + (f" ({', '.join(words[:8])})" if words else "")
