"""Judge the tokens' keys for one label: which key writes under it, and which keys read.

The keys come from `scanner`, the rules are in `inventory`; what changes keys is in `lifecycle`. Knows nothing of gRPC.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from operator import is_
from typing import Final

from kmsd.crypto.schemes import Ability, Scheme
from kmsd.errors import Conflict, InvalidRequest, KmsdError, Misconfigured, NotFound, Unavailable
from kmsd.hsm.connection import Hsm
from kmsd.hsm.host.keys import TokenKey
from kmsd.keys.inventory import judge
from kmsd.keys.key import EMPTY, Inventory, Key, newest_first
from kmsd.keys.labels import created_ms, role
from kmsd.keys.scanner import KeyScanner, Place
from kmsd.near import near
from kmsd.problem import About, Calls, Problem

_HASH_DIGITS: Final = 8
"""The fewest digits of a key id's hash that name a key."""


class Keyring:
    """The keys of all tokens, as last seen, judged for one label.

    scanner: looks at them. write_label: of the key that encrypts. recalled: the key_id that wrote last before this kmsd
    started, empty if that is not known. on_change: called after a look that changed which key writes or which keys
    there are. alone: whether keys that neither have nor had the label are none of its own, as if they did not exist.
    wrote_at: name of the token where the key was that wrote last; empty if there was none.
    """

    def __init__(
        self,
        scanner: KeyScanner,
        *,
        write_label: str,
        recalled: str,
        on_change: Callable[[Inventory, Inventory], None],
        alone: bool = False,
    ) -> None:
        self.write_label = write_label
        self.inventory = EMPTY
        self.wrote_at = ""
        self.look = scanner.look
        self.look_soon = scanner.look_soon
        self._scanner = scanner
        self._recalled = recalled
        self._alone = alone
        self._on_change = on_change
        self._judged: tuple[tuple[Sequence[TokenKey], ...], object, Inventory] = (), None, EMPTY
        """The lists that were judged last, all else that the judgement rests on, and the inventory."""
        scanner.judges.append(self)

    @property
    def hmac_label(self) -> str:
        """The label of the HMAC key of a pair that was made for two labels; may be empty."""
        return "" if self._alone else self._scanner.configured.hmac_label

    @property
    def takes_rsa(self) -> bool:
        """Whether RSA keys serve."""
        return self._scanner.configured.rsa

    @property
    def takes_signing(self) -> bool:
        """Whether key pairs that sign are looked for."""
        return self._scanner.configured.signing

    def ability(self, place: str) -> Ability:
        """Return what a token can do, as last seen."""
        return self._scanner.places[place].ability

    def needs_pair(self, place: str) -> bool:
        """Return whether an AES key on this token serves only with an HMAC key beside it."""
        able, algorithm = self.ability(place), self._scanner.configured.algorithm
        return algorithm == "aes-cbc" or (algorithm == "auto" and able.cbc and not able.gcm)

    @property
    def outgoing(self) -> Key | None:
        """The key that a rotation replaces: the write key, or where none writes the newest that holds the write label
        and only lacks a way to write that its token has."""
        if self.inventory.write is not None:
            return self.inventory.write
        held = [key for key in self.inventory.keys if key.label == self.write_label and key.lacks_scheme]
        found = [key for key in held if self.ability(key.place).gcm or self.needs_pair(key.place)]
        return newest_first(found)[0] if found else None

    @property
    def tokens(self) -> Mapping[str, Hsm]:
        return {place.name: place.hsm for place in self._scanner.places.values()}

    @property
    def seen(self) -> bool:
        """Whether every token has shown its keys since kmsd started."""
        return all(place.seen for place in self._scanner.places.values())

    @property
    def refused(self) -> bool:
        """Whether an operator must act before a token is tried again."""
        return any(place.hsm.refused for place in self._scanner.places.values())

    @property
    def away(self) -> bool:
        """Whether a token is away."""
        return bool(self._scanner.away)

    @property
    def complete(self) -> bool:
        """Whether the inventory is what all tokens show now, as far as is known."""
        return self.seen and all(place.hsm.connected is not None for place in self._scanner.places.values())

    @property
    def where(self) -> str:
        """The tokens in words, for sentences."""
        return self._scanner.where

    @property
    def problems(self) -> list[Problem]:
        """The problems of the tokens that are up."""
        return self._scanner.problems

    def hsm(self, key: Key) -> Hsm:
        """Return the token that holds a key."""
        return self._scanner.places[key.place].hsm

    def write_key(self) -> Key:
        """Return the key that encrypts. Raises why there is none."""
        key = self.inventory.write
        if key is None:
            raise self.why_none()
        return key

    def why_none(self) -> KmsdError:
        """Return why there is no write key."""
        away = self._scanner.away
        if away and not any(place.seen for place in self._scanner.places.values()):
            return away[0].hsm.error.again()
        for problem in self.inventory.problems:
            if problem.fatal and not (away and not self.seen):
                return Misconfigured(problem.message, problem.hint)
        if away:
            return away[0].hsm.error.again()
        if not self.seen:
            return Unavailable(f"the keys on {self.where} have not been looked at yet", "try again in a moment")
        return Misconfigured(f"there is no write key on {self.where}", f"make one: kmsctl keygen {self.write_label}")

    async def find(self, key_id: str, *, or_label: bool = False) -> Key:
        """Return the key with this id, after a fresh look at the tokens if it is unknown. or_label: the text may be a
        label as well, which the error then says. Raises NotFound."""
        key = self.inventory.by_key_id.get(key_id)
        if key is None:
            await self.look_soon()
            key = self.inventory.by_key_id.get(key_id)
        if key is None:
            await self._scanner.look_elsewhere(key_id)
            key = self.inventory.by_key_id.get(key_id)
        if key is None:
            for known in (*self.inventory.keys, *self.inventory.public):
                if known.key_id == key_id and known.reason:
                    raise Misconfigured(f"key {key_id!r} cannot serve: {known.reason}", known.hint)
            raise self._missing(f"with key id {'or label ' if or_label else ''}{_short(key_id)}")
        return key

    def labelled(self, label: str) -> list[Key]:
        """Return the readable keys that hold this label or held it before a rotation, newest first."""
        held = (f"{label}@", f"{label}.retired@")
        return newest_first(
            key for key in self.inventory.keys if key.reads and (key.label == label or key.label.startswith(held))
        )

    def _missing(self, what: str) -> KmsdError:
        away = self._scanner.away
        if away:
            # It may be there: nothing is lost as long as that is not known.
            return Unavailable(
                f"the key {what} may be on {away[0].hsm.name}, which is away: {away[0].hsm.error.message}",
                away[0].hsm.error.hint or "bring the token back",
            )
        return NotFound(
            f"there is no key {what} on {self.where}",
            "restore the key to the token; without it this data cannot be read",
        )

    def select(self, text: str) -> Key:
        """Return the one key that an operator means: by key id, label, or "sha256:" and the first digits of its hash.

        Raises InvalidRequest, NotFound.
        """
        if not text:
            raise InvalidRequest(
                "no key is named", "give a key id, a label, or sha256: and the first digits of a key id's hash"
            )
        found = [key for key in self.inventory.keys if key.key_id == text]
        found = found or [key for key in self.inventory.keys if key.label == text]
        digits = text.removeprefix("sha256:")
        if digits != text:
            hashed = set(digits) <= set("0123456789abcdef") and len(digits) >= _HASH_DIGITS
            meant = [key for key in self.inventory.keys if hashed and key.key_id_sha256.startswith(digits)]
            if found and any(key.key_id != found[0].key_id for key in meant):
                raise InvalidRequest(
                    f"{_short(text)} is the label of one key and the hash of another's key id",
                    "name it by its key id; kmsctl keys list -o wide shows all",
                )
            if not found and not hashed:
                raise InvalidRequest(
                    f"{_short(text)} is no label, and no hash of a key id",
                    f"give sha256: and its first digits, {_HASH_DIGITS} at least, in lower case",
                )
            found = found or meant
        # The HMAC key of a pair shares the id of its AES key, which is the one that is meant.
        found = [key for key in found if key.token.seals] or found
        if not found and any(text in (key.key_id, key.label) for key in self.inventory.public):
            raise Conflict(
                f"{_short(text)} on {self.where} is a public object, which anybody may have made: kmsd does not use it",
                "kmsctl keys list shows it, and what to do about it",
            )
        if not found:
            alike = near(text, [key.label for key in self.inventory.keys])
            hint = f"did you mean {' or '.join(map(_short, alike))}? " if alike else ""
            raise NotFound(f"there is no key {_short(text)} on {self.where}", f"{hint}kmsctl keys list shows all")
        if len(found) > 1:
            ids = ", ".join(key.key_id or "(none)" for key in found[:8])
            raise InvalidRequest(f"{len(found)} keys are called {_short(text)}: {ids}", "name one by its key id")
        return found[0]

    async def scheme(self, key: Key) -> Scheme | None:
        """Return how a key writes, after trying what its token does with it, if need be; None if it cannot write."""
        inventory = self.judge() if await self._scanner.pick(key) else self.inventory
        for other in inventory.keys:
            if (other.place, other.cka_id, other.token.kind) == (key.place, key.cka_id, key.token.kind):
                return other.scheme
        return key.scheme

    def judge(self, changed: Place | None = None, found: Sequence[TokenKey] = ()) -> Inventory:
        """Judge what the tokens showed last; or what it would be if this token showed these keys."""
        inventory = self._judge({} if changed is None else {changed.name: found})
        if changed is not None:
            return inventory
        away = [place for place in self._scanner.away if not place.seen]
        if not away or inventory.write is None or not self._recalled or self._recalled in inventory.by_key_id:
            return inventory
        if inventory.write.created_ms > created_ms(self._recalled):
            return inventory
        # The key that wrote last may be on the token that has not been seen yet: an older one must not take over.
        hsm = away[0].hsm
        problem = Problem(
            f"the key that wrote last, {self._recalled}, may be on {hsm.name}, which is away: {hsm.error.message}",
            f"bring the token back; if it is gone for good: kmsctl keygen {self.write_label}",
            fatal=True,
            about=About(away[0].name, calls=Calls(code=Misconfigured.code)),
        )
        return replace(inventory, write=None, problems=(problem, *inventory.problems))

    def _judge(self, instead: Mapping[str, Sequence[TokenKey]]) -> Inventory:
        """Judge what the tokens showed last, some of them something else.

        The same lists, which stay the same objects while nothing changes, are judged once: to judge thousands of keys
        at every look would keep the calls waiting.
        """
        places = self._scanner.places.values()
        shown = {place.name: instead.get(place.name, place.found) for place in places}
        public = {place.name: place.public for place in places}
        others = frozenset(() if self._alone else self.others)
        lists = (*shown.values(), *public.values())
        asked = (tuple(shown), self.where, self._scanner.rules, others)
        known, answered, inventory = self._judged
        if answered != asked or not all(map(is_, known, lists)):
            inventory = judge(
                {name: self._own(each) for name, each in shown.items()},
                self.write_label,
                self.where,
                self._scanner.rules,
                {name: self._own(each) for name, each in public.items()},
                others,
            )
            self._judged = lists, asked, inventory
        return inventory

    def _own(self, found: Sequence[TokenKey]) -> Sequence[TokenKey]:
        """Return those of the keys that are judged here: an HMAC key belongs to the AES key with its id."""
        if not self._alone:
            return found
        grouped = self._scanner.grouped(found)
        held = grouped.by_role.get(self.write_label, ())
        return [*held, *(mac for key in held if key.cka_id for mac in grouped.macs.get(key.cka_id, ()))]

    @property
    def others(self) -> Collection[str]:
        """The write labels of other keyrings over the same tokens, but for one that is this keyring's, too."""
        return {other.write_label for other in self._scanner.judges} - {self.write_label}

    @property
    def mine(self) -> Sequence[Key]:
        """The keys that no other keyring writes, or wrote, with."""
        others = self.others
        return [key for key in self.inventory.keys if role(key.label) not in others]

    def take(self, inventory: Inventory) -> None:
        """Go by this inventory from now on, and tell of it if it is another."""
        before, self.inventory = self.inventory, inventory
        if inventory.write is not None:
            self.wrote_at = inventory.write.place
        if inventory is before:
            return
        if (
            {(k.place, k.token) for k in before.keys} != {(k.place, k.token) for k in inventory.keys}
            or (before.write and before.write.key_id) != (inventory.write and inventory.write.key_id)
            or {(k.place, k.token) for k in before.planted} != {(k.place, k.token) for k in inventory.planted}
        ):
            self._on_change(before, inventory)


def _short(text: str) -> str:
    shown = text if len(text) <= 80 else text[:77] + "..."
    return repr(shown)
