"""Change keys: make, name, rotate, retire and destroy them, each guarded against losing one.

One change at a time in this process, each from a fresh look at the tokens; other processes on the same token are met
by rules that need no lock (`kmsd.keys.rotation`). Here the changes take their turns; what each of them does is in
`making`, `adopting`, `naming`, `trying`, `ending` and `rotating`, none of which knows of turns. Knows nothing of gRPC.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from math import inf
from typing import Final

from kmsd.errors import NotFound, short
from kmsd.hsm.purpose import SigningPurpose
from kmsd.keys.key import Key
from kmsd.keys.keyring import Keyring
from kmsd.keys.labels import archived_label, check_label, role
from kmsd.keys.lifecycle import adopting, ending, making, naming, rotating, signing, trying
from kmsd.keys.lifecycle.evidence import KeyUseEvidence, ScanEvidence, UseRecords
from kmsd.keys.lifecycle.making import Made, Wanted
from kmsd.keys.lifecycle.permit import Permit
from kmsd.keys.lifecycle.rotating import Rotated, RotationStep
from kmsd.keys.lifecycle.signing import SigningOrder
from kmsd.keys.lifecycle.trying import Timings
from kmsd.problem import Problem

_PAIR: Final = 2


class Lifecycle:
    """The changes of keys, one at a time.

    write_token: name of the token where new keys are made. uses: what is known of the uses of keys.

    until, of each change: when its caller stops waiting, by the monotonic clock. What has not begun to change by then
    does not, and raises DeadlineExceeded; what has begun is carried through.
    """

    def __init__(self, keyring: Keyring, *, write_token: str, uses: UseRecords) -> None:
        self.write_token = write_token
        self._keyring = keyring
        self._uses = uses
        self._rotation = rotating.Rotation(keyring)
        self._changing = asyncio.Lock()

    @property
    def problems(self) -> Sequence[Problem]:
        """The reason why a rotation that was begun cannot be finished, if so."""
        return self._rotation.problems

    @asynccontextmanager
    async def _permit(self, until: float) -> AsyncIterator[Permit]:
        """Enter the time in which no other change goes on, with a fresh inventory. Raises DeadlineExceeded if that
        takes too long."""
        permit = Permit(until)
        async with AsyncExitStack() as held:
            async with permit.in_time():
                await held.enter_async_context(self._changing)
                await self._keyring.look()
            yield permit

    def _place(self, place: str) -> str:
        """Return the name of the token where a key is to be made. Raises NotFound."""
        name = place or self.write_token
        if name not in self._keyring.tokens:
            raise NotFound(
                f"no token called {short(name)} is configured", f"the tokens are {', '.join(self._keyring.tokens)}"
            )
        return name

    async def generate(
        self,
        label: str,
        wanted: Wanted | None,
        bits: int,
        key_id: str,
        *,
        if_not_exists: bool,
        place: str = "",
        until: float = inf,
    ) -> Made:
        """Make a key, or a pair. With if_not_exists, the one that holds the label is answered.

        wanted: None for what serves on the token; with if_not_exists it is AlreadyExists then if what holds the label
        cannot serve there. bits: 0 for what is usual: 256, or of an RSA key 3072, on a TPM 2048. key_id: empty for a
        new one. place: name of the token, empty for the write token.
        Raises InvalidRequest, AlreadyExists, and what the token says.
        """
        name = self._place(place)
        hsm = self._keyring.tokens[name]
        order = making.Order(label, making.recipe(wanted or "aes", bits, hsm), key_id, if_not_exists)
        if wanted is not None:
            making.check(order)
        async with self._permit(until) as permit:
            if wanted is None:
                fit = making.recipe(making.usual(self._keyring, label, name), bits, hsm)
                order = replace(order, recipe=replace(fit, chosen=True))
                making.check(order)
            made = await making.generate(self._keyring, permit, order, name)
            if made.created and made.key.token.seals and role(made.key.label) != self._keyring.write_label:
                self._uses.made(made.key.key_id)
            return made

    async def adopt(self, label: str, key_id: str, *, public: bool = False, until: float = inf) -> Key:
        """Give a CKA_ID to the AES, RSA or HMAC key with this label that lacks one; with `public`, make a private
        copy of the public object with this label. Raises NotFound, Conflict."""
        check_label(label)
        async with self._permit(until) as permit:
            if public:
                return await adopting.adopt_public(self._keyring, permit, label, key_id)
            return await adopting.adopt(self._keyring, permit, label, key_id)

    async def adopt_unasked(self, tell: Callable[[Key], None], *, public: bool, recalled: str) -> Problem | None:
        """Give a CKA_ID to the key that keeps kmsd from writing by having none, if it is plain which one that is; else
        return why it gets none, if there is one.

        tell: called with each key that got one: two of a pair. public, recalled: as of `adopting.unasked`.
        """
        found = await adopting.unasked(self._keyring, public=public, recalled=recalled)
        for _ in range(_PAIR):
            if not isinstance(found, adopting.Nameless):
                break
            async with self._permit(inf) as permit:
                found = await adopting.unasked(self._keyring, public=public, recalled=recalled)
                if isinstance(found, adopting.Nameless):
                    tell(await adopting.give_id(self._keyring, permit, found))
                    found = await adopting.unasked(self._keyring, public=public, recalled=recalled)
        return found if isinstance(found, Problem) else None

    async def relabel(
        self, which: str, to: str, confirm_label: str, *, dry_run: bool, until: float = inf
    ) -> tuple[Key, str]:
        """Give a key another label; return (the key, its previous label). Its HMAC key follows, if it is a pair.

        Raises Conflict for what would change which key writes, or cut off what names a label that the key had, unless
        the present label is given once more.
        """
        naming.check(to)
        async with self._permit(until) as permit:
            return await naming.relabel(self._keyring, permit, which, to, confirm_label, dry_run=dry_run)

    async def test(self, which: str, rounds: int) -> tuple[Key, Timings]:
        """Encrypt and decrypt random bytes with a key, `rounds` times. Raises Conflict if it cannot."""
        trying.check(rounds)
        await self._keyring.look()
        return await trying.test(self._keyring, which, rounds)

    async def destroy(
        self, which: str, scan: ScanEvidence | None, confirm_label: str, *, dry_run: bool, until: float = inf
    ) -> tuple[Key, Key | None]:
        """Destroy a key, and the HMAC key of a pair with it; return both as they were.

        Raises Conflict if it writes, or nothing shows that it is not needed any more (`kmsd.keys.lifecycle.evidence`).
        """
        async with self._permit(until) as permit:
            return await ending.destroy(self._keyring, permit, self._uses, which, scan, confirm_label, dry_run=dry_run)

    async def retire(
        self, which: str, scan: ScanEvidence | None, confirm_label: str, *, dry_run: bool, until: float = inf
    ) -> tuple[Key, str]:
        """Mark a key as needed by nothing; return (the key, its previous label). It reads until it is destroyed.

        Raises Conflict if it writes, or nothing shows that it is not needed any more (`kmsd.keys.lifecycle.evidence`).
        """
        async with self._permit(until) as permit:
            return await ending.retire(self._keyring, permit, self._uses, which, scan, confirm_label, dry_run=dry_run)

    async def rotate(self, label: str, from_key_id: str, place: str, *, dry_run: bool, until: float = inf) -> Rotated:
        """Make a new write key and move the label to it; finish a rotation that was begun instead, if there is one.

        from_key_id: rotate only away from this key. Raises NotFound if nothing writes, and what the token says.
        """
        self._rotation.check(label)
        name = self._place(place)
        async with self._permit(until) as permit:
            return await self._rotation.rotate(permit, from_key_id, name, dry_run=dry_run)

    async def revert(self, label: str, from_key_id: str, *, dry_run: bool, until: float = inf) -> tuple[Rotated, Key]:
        """Make a new write key, after a bad rotation, on the token of the key that wrote before; return (what was done,
        that key).

        Raises NotFound if no key wrote before.
        """
        self._rotation.check(label)
        async with self._permit(until) as permit:
            before = self._rotation.before(from_key_id)
            return await self._rotation.rotate(permit, from_key_id, before.place, dry_run=dry_run), before

    async def make_signing(self, order: SigningOrder, *, after: str = "", until: float = inf) -> Key:
        """Make a key pair that signs. after: the label of those that it is to be newer than. Raises InvalidRequest, and
        what the token says."""
        place = self._place(order.place)
        async with self._permit(until) as permit:
            before = signing.holders(self._keyring, after or order.label, order.purpose)
            newest = max((key.created_ms for key in before), default=0)
            return await signing.make(self._keyring, permit, replace(order, place=place), newest)

    async def generate_signing(
        self, order: SigningOrder, *, if_not_exists: bool, until: float = inf
    ) -> tuple[Key, bool]:
        """Make the first key pair that signs under a label; return it, and whether it was made now. With if_not_exists,
        the one that holds the label is answered. Raises InvalidRequest, AlreadyExists, Conflict, and what the token
        says."""
        signing.check(order)
        place = self._place(order.place)
        async with self._permit(until) as permit:
            held = signing.first(self._keyring, order, if_not_exists=if_not_exists)
            if held is not None:
                return held, False
            before = signing.holders(self._keyring, order.label, order.purpose)
            newest = max((key.created_ms for key in before), default=0)
            return await signing.make(self._keyring, permit, replace(order, place=place), newest), True

    async def take_in_signing(
        self, order: SigningOrder, private: bytes, *, after: str = "", until: float = inf
    ) -> tuple[Key, bool]:
        """Make a key pair that signs of a private key that was outside; return it, and whether the token got it
        wrapped. private: PKCS#8 as DER. after: as of `make_signing`. Raises what the token says."""
        place = self._place(order.place)
        async with self._permit(until) as permit:
            before = signing.holders(self._keyring, after or order.label, order.purpose)
            newest = max((key.created_ms for key in before), default=0)
            return await signing.take_in(self._keyring, permit, replace(order, place=place), private, newest)

    async def retire_signing(self, key: Key, *, until: float = inf) -> None:
        """Give a key pair the label of one that was retired. Raises what the token says."""
        async with self._permit(until) as permit:
            await signing.relabel(self._keyring, permit, key, archived_label(key.label, time.time()))
            await self._keyring.look()

    async def recall_signing(self, key: Key, label: str, purpose: SigningPurpose, *, until: float = inf) -> None:
        """Have a key pair that held a label before hold it again. Raises what the token says."""
        async with self._permit(until) as permit:
            await signing.recall(self._keyring, permit, key, label, purpose)

    async def succeed_signing(self, label: str, purpose: SigningPurpose, *, until: float = inf) -> Key:
        """Give the label to the key that is about to take it; return the key that signs then. Raises NotFound."""
        async with self._permit(until) as permit:
            return await signing.succeed(self._keyring, permit, label, purpose)

    async def roll_signing_forward(self, label: str, purpose: SigningPurpose) -> None:
        """Finish what moved the label of keys that sign, whoever began it. Raises what the token says."""
        if self._changing.locked() or not signing.unfinished(self._keyring, label, purpose):
            return
        async with self._permit(inf) as permit:
            await signing.finish(self._keyring, permit, label, purpose)

    async def roll_forward(self) -> None:
        """Finish what a rotation left, whoever began it. What cannot be finished now is told in `problems`."""
        # Whoever changes keys now looks again afterwards.
        if self._changing.locked() or not self._rotation.due():
            return
        async with self._changing:
            await self._rotation.roll_forward()


__all__ = [
    "KeyUseEvidence",
    "Lifecycle",
    "Made",
    "Rotated",
    "RotationStep",
    "ScanEvidence",
    "Timings",
    "UseRecords",
    "Wanted",
]
