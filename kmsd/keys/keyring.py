"""Which key writes, which keys read: the inventory of the tokens' keys, kept up to date.

The tokens are looked at every `refresh` seconds and whenever the inventory may be out of date, so that no request waits
for a look. The rules are in `inventory`; what changes keys is in `lifecycle`. Knows nothing of gRPC.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from time import monotonic, time
from typing import Final

from kmsd.crypto.schemes import ANY, Ability, Algorithm, Scheme
from kmsd.errors import Conflict, InvalidRequest, KmsdError, Misconfigured, NotFound, Unavailable
from kmsd.hsm.connection import Hsm
from kmsd.hsm.host import keys as token_keys
from kmsd.hsm.host.keys import TokenKey
from kmsd.keys.inventory import Rules, judge
from kmsd.keys.key import EMPTY, Inventory, Key, KeyState, newest_first
from kmsd.keys.labels import created_ms
from kmsd.near import near
from kmsd.problem import About, Calls, Problem

_LOOK_PAUSE: Final = 0.25
"""Seconds between looks that requests ask for (an unknown kid), so that garbage cannot keep the token busy."""
_VERIFY_PAUSE: Final = 30.0
_VERIFY_PAUSE_MOST: Final = 600.0
"""Seconds between re-initialisations that ask for a write key which is missed: from the first up to the second."""
_EMPTY_PAUSE: Final = 5.0
"""Seconds between two times that a token with few places for keys is logged in to anew, for the write key's sake."""
_READ_PAUSES: Final = (0.005, 0.01, 0.02, 0.05, 0.1)
"""Seconds between two readings of a token whose keys change."""
_NEW_SECONDS: Final = 600.0
"""A key made within so many seconds that is not to be found is asked for in another process."""
_SEEK_PAUSE: Final = 2.0
_SEEK_PAUSE_MOST: Final = 60.0
"""Seconds between two times that another process is asked: from the first up to the second while it finds nothing."""
_SEEK_SECONDS: Final = 10.0
_SOUGHT_MOST: Final = 4096
"""Ids of which it is remembered that they were asked for."""
_PICKS_MOST: Final = 8
"""Pairs that are tried at one look: those with the write label one after the other, and as many others."""
_HASH_DIGITS: Final = 8
"""Fewest digits of a key id's hash that name a key."""


class _Place:
    """One token and what it showed last."""

    def __init__(self, name: str, hsm: Hsm) -> None:
        self.name = name
        self.hsm = hsm
        self.found: tuple[TokenKey, ...] = ()
        self.public: tuple[TokenKey, ...] = ()
        self.public_more = 0
        self.seen = False
        self.ability = ANY
        self.verified = -1e9
        self.verify_pause = _VERIFY_PAUSE
        self.emptied = -1e9


class Keyring:
    """The keys of all tokens, as last seen.

    tokens: by name in the configuration. write_label: of the key that encrypts. algorithm, hmac_label: see `Rules`.
    recalled: the key_id that wrote last
    before this kmsd started, empty if that is not known.
    on_change: called after a look that changed which key writes or which keys there are.
    """

    def __init__(
        self,
        tokens: Mapping[str, Hsm],
        *,
        write_label: str,
        algorithm: Algorithm = "auto",
        hmac_label: str = "",
        recalled: str,
        on_change: Callable[[Inventory, Inventory], None],
    ) -> None:
        self.write_label = write_label
        self.inventory = EMPTY
        self._places = {name: _Place(name, hsm) for name, hsm in tokens.items()}
        self._rules = Rules(algorithm, hmac_label)
        self._picked: dict[tuple[str, bytes, bytes], str] = {}
        self._recalled = recalled
        self._on_change = on_change
        self._looking: asyncio.Task[None] | None = None
        self._looked = -1e9
        self._wrote_at = ""
        self._sought: dict[str, None] = {}
        self._seeking: asyncio.Task[None] | None = None
        self._seek_after = -1e9
        self._seek_pause = _SEEK_PAUSE

    @property
    def hmac_label(self) -> str:
        """Label of the HMAC key of a pair that was made for two labels; may be empty."""
        return self._rules.hmac_label

    @property
    def takes_rsa(self) -> bool:
        """Whether RSA keys serve."""
        return self._rules.rsa

    def ability(self, place: str) -> Ability:
        """What a token can do, as last seen."""
        return self._places[place].ability

    def needs_pair(self, place: str) -> bool:
        """Return whether an AES key on this token serves only with an HMAC key beside it."""
        able = self.ability(place)
        return self._rules.algorithm == "aes-cbc" or (self._rules.algorithm == "auto" and able.cbc and not able.gcm)

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
        return {place.name: place.hsm for place in self._places.values()}

    @property
    def seen(self) -> bool:
        """Whether every token has shown its keys since kmsd started."""
        return all(place.seen for place in self._places.values())

    @property
    def refused(self) -> bool:
        """Whether an operator must act before a token is tried again."""
        return any(place.hsm.refused for place in self._places.values())

    @property
    def away(self) -> bool:
        """Whether a token is away."""
        return bool(self._away())

    @property
    def complete(self) -> bool:
        """Whether the inventory is what all tokens show now, as far as is known."""
        return self.seen and all(place.hsm.connected is not None for place in self._places.values())

    @property
    def where(self) -> str:
        """The tokens in words, for sentences."""
        names = [place.hsm.name for place in self._places.values()]
        return names[0] if len(names) == 1 else "tokens " + " and ".join(name.removeprefix("token ") for name in names)

    @property
    def problems(self) -> list[Problem]:
        """What is to be known of the tokens that are up."""
        return [problem for place in self._places.values() for problem in self._problems_of(place)]

    def _problems_of(self, place: _Place) -> Iterator[Problem]:
        connected = place.hsm.connected
        if connected is None:
            return
        if connected.gcm_refused and self._rules.algorithm == "auto":
            yield Problem(
                f"{place.hsm.name} lists AES-GCM, which does not work ({connected.gcm_refused}): pairs of keys serve, "
                "with AES-CBC and HMAC",
                "update what is between kmsd and the token (p11-kit), or choose this for good: --algorithm aes-cbc",
                fatal=False,
                about=About(token=place.name),
            )
        if place.public_more:
            yield Problem(
                f"{place.hsm.name} holds {place.public_more + len(place.public)} public objects that look like keys, "
                "more than are told of one by one; anybody who reaches the token can make them, and none is used",
                "find out who reaches the token, and delete them with its own tool (pkcs11-tool --list-objects)",
                fatal=False,
                about=About(token=place.name),
            )
        room = place.hsm.room
        # Where it is the write key that found no place, its health says so.
        if room is not None and room.crowded and not self._shut_out(place):
            error = room.error(place.hsm.name)
            about = About(token=place.name, calls=Calls(code=error.code))
            yield Problem(error.message, error.hint, fatal=False, about=about)

    def _shut_out(self, place: _Place) -> bool:
        """Whether the write key found no place on a token that has few."""
        room, write = place.hsm.room, self.inventory.write
        if room is None or write is None or write.place != place.name:
            return False
        return room.shuts_out(write.cka_id, write.scheme.mac if write.scheme is not None else None)

    def hsm(self, key: Key) -> Hsm:
        """The token that holds a key."""
        return self._places[key.place].hsm

    def write_key(self) -> Key:
        """The key that encrypts. Raises why there is none."""
        key = self.inventory.write
        if key is None:
            raise self.why_none()
        return key

    def why_none(self) -> KmsdError:
        away = self._away()
        if away and not any(place.seen for place in self._places.values()):
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
        """The key with this id, after a fresh look at the tokens if it is unknown. or_label: the text may be a label as
        well, which the error then says. Raises NotFound."""
        key = self.inventory.by_key_id.get(key_id)
        if key is None:
            await self.look_soon()
            key = self.inventory.by_key_id.get(key_id)
        if key is None and self._may_be_new(key_id):
            await self._look_elsewhere(key_id)
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
        away = self._away()
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
        """The one key that an operator means: by key id, label, or "sha256:" and the first digits of its hash.

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

    async def look_soon(self) -> None:
        """A look that begins after this call, a little later if there was one just now: however many requests
        ask, the tokens are looked at a few times a second. Raises KmsdError if they are away."""
        await asyncio.sleep(max(0.0, self._looked + _LOOK_PAUSE - monotonic()))
        if self._looking is None:
            self._start_looking()
        await self._join()

    async def look(self) -> None:
        """Look at the tokens now. Raises KmsdError if none of them shows its keys."""
        while self._looking is not None:
            # That look may have begun before what the caller wants to see.
            with contextlib.suppress(KmsdError):
                await self._join()
        self._start_looking()
        await self._join()

    def _start_looking(self) -> None:
        self._looked = monotonic()
        self._looking = asyncio.create_task(self._look_once(), name="keyring-look")
        self._looking.add_done_callback(_heard)

    async def _join(self) -> None:
        if self._looking is not None:
            await asyncio.shield(self._looking)

    async def _look_once(self) -> None:
        try:
            await self._look()
        finally:
            # Here and not in a callback: whoever runs between the end and the callback would wait for what is over.
            self._looking = None

    async def _look(self) -> None:
        places = list(self._places.values())
        up = [place for place in places if place.hsm.connected is not None] or places
        shown = await asyncio.gather(*(self._look_at(place) for place in up), return_exceptions=True)
        failed = [each for each in shown if isinstance(each, BaseException)]
        if len(failed) == len(up):
            raise failed[0]
        before = self.inventory
        after = await self._judge_and_pick()
        self.inventory = after
        if after.write is not None:
            self._wrote_at = after.write.place
        if (
            {(k.place, k.token) for k in before.keys} != {(k.place, k.token) for k in after.keys}
            or (before.write and before.write.key_id) != (after.write and after.write.key_id)
            or {(k.place, k.token) for k in before.planted} != {(k.place, k.token) for k in after.planted}
        ):
            for place in places:
                gone = _unlabelled(before, place.name) - _unlabelled(after, place.name)
                if gone:
                    place.hsm.forget_handles(frozenset(token.cka_id for token in gone))
            self._on_change(before, after)

    async def _judge_and_pick(self) -> Inventory:
        """The inventory, once it has been tried how the pairs write that write now or are about to, and some others."""
        # What was refused is tried again: the keys' attributes may have been put right.
        self._picked = {pair: enc for pair, enc in self._picked.items() if enc}
        for _ in range(_PICKS_MOST):
            inventory = self._judge()
            fresh = [await self._pick(key) for key in inventory.keys if key.state in (KeyState.WRITE, KeyState.PENDING)]
            if not any(fresh):
                break
        inventory = self._judge()
        # Where each key takes a place of a few, those that write have them.
        others = [key for key in inventory.keys if key.may_write and self._untried(key) and self.hsm(key).room is None]
        if any([await self._pick(key) for key in others[:_PICKS_MOST]]):
            inventory = self._judge()
        return inventory

    def _untried(self, key: Key) -> bool:
        how = key.scheme
        return how is not None and bool(how.candidates) and _tried_with(key, how) not in self._picked

    async def scheme(self, key: Key) -> Scheme | None:
        """How a key writes, for trying it: once it has been tried what its token does with it. None: it cannot."""
        inventory = self._judge() if await self._pick(key) else self.inventory
        for other in inventory.keys:
            if (other.place, other.cka_id, other.token.kind) == (key.place, key.cka_id, key.token.kind):
                return other.scheme
        return key.scheme

    async def _pick(self, key: Key) -> bool:
        """Find out which of the encs that its token lists works with a key that is to write; whether that is news."""
        how = key.scheme
        if how is None or not self._untried(key):
            return False
        try:
            enc = await how.pick(self.hsm(key), key.cka_id, timeout=30.0)
        except Misconfigured:
            enc = ""
        except KmsdError:
            return False  # the token is away, or the key not to be seen just now: the next look tries again
        self._picked[_tried_with(key, how)] = enc
        return True

    async def _look_at(self, place: _Place) -> None:
        found = await self._list(place)
        if self._suspicious(place, found):
            # A token that has gone shows no keys on some modules: only a module that starts anew tells.
            place.verified = monotonic()
            await place.hsm.hosting.replace("keys vanished", doubted=True)
            found = await self._list(place)
        elif self._shut_out(place) and monotonic() - place.emptied > _EMPTY_PAUSE:
            place.emptied = monotonic()
            await place.hsm.hosting.replace("other keys take the places of the write key")
        place.found = found
        place.seen = True
        connected = place.hsm.connected
        if connected is not None:
            longest = connected.quirks.hmac_longest or 0
            place.ability = Ability(connected.mechanisms, longest, connected.gcm_refused, connected.gcm_unauthenticated)

    async def _list(self, place: _Place) -> tuple[TokenKey, ...]:
        """The keys of a token at one moment. A list is read key by key while other processes move labels, and SoftHSM
        shows a key to nobody while it is relabelled: what differs from what was there is believed when it is read
        twice, that a key is gone, or that none writes any more, only when it is read every time."""
        known = {_identity(key) for key in place.found}
        before: Counter[TokenKey] = Counter(place.found)
        shown: dict[tuple[str, bytes, str], TokenKey] = {}
        found: tuple[TokenKey, ...] = ()
        for pause in (*_READ_PAUSES, 0.0):
            found, place.public, place.public_more = await place.hsm.run(
                token_keys.list_keys, self._rules.rsa, timeout=30.0
            )
            if Counter(found) == before and self._plausible(place, known, found):
                return found
            before = Counter(found)
            shown.update({_identity(key): key for key in found})
            await asyncio.sleep(pause)
        here = {_identity(key) for key in found}
        return (*found, *(key for identity, key in shown.items() if identity not in here and identity in known))

    def _plausible(self, place: _Place, known: set[tuple[str, bytes, str]], found: Sequence[TokenKey]) -> bool:
        if known - {_identity(key) for key in found}:
            return False
        return self.inventory.write is None or self._judge_as(place, found).write is not None

    def _judge_as(self, changed: _Place, found: Sequence[TokenKey] | None) -> Inventory:
        """The inventory if this token showed these keys; None: those that it showed last."""
        shown = {
            place.name: found if place is changed and found is not None else place.found
            for place in self._places.values()
        }
        abilities = {place.name: place.ability for place in self._places.values()}
        rules = replace(self._rules, abilities=abilities, picked=self._picked)
        public = {place.name: place.public for place in self._places.values()}
        return judge(shown, self.write_label, self.where, rules, public)

    def _judge(self) -> Inventory:
        inventory = self._judge_as(next(iter(self._places.values())), None)
        away = [place for place in self._away() if not place.seen]
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

    def _away(self) -> list[_Place]:
        return [place for place in self._places.values() if place.hsm.connected is None]

    def _suspicious(self, place: _Place, found: Sequence[TokenKey]) -> bool:
        write = self.inventory.write
        if write is not None and write.place == place.name:
            if not any(key.seals and key.cka_id == write.cka_id for key in found):
                return True
            if self._judge_as(place, found).write is None:
                return True
        if place.found and not found:
            return True
        # The token may have gone just when the module started anew: a write key that is missed is asked for again.
        missed = self._wrote_at == place.name and write is None
        if not missed:
            place.verify_pause = _VERIFY_PAUSE
        elif monotonic() - place.verified > place.verify_pause:
            # Less and less often: each time stops the other keys for a moment.
            place.verify_pause = min(place.verify_pause * 2, _VERIFY_PAUSE_MOST)
            return True
        return False

    async def _look_elsewhere(self, key_id: str) -> None:
        """Where a module is known to miss objects, ask another process for the key with this id, and have the module
        begin anew only if it is there. Once for each id, and now and then at the most for all who ask: whoever may call
        Decrypt can name any id.

        SoftHSM's index of a token's objects can miss one for good: two processes that make objects at the same moment
        write the same generation number, and each takes the other's change for its own.
        """
        missing = [place for place in self._places.values() if place.hsm.beside.misses_objects]
        if missing and key_id not in self._sought and self._seeking is None and monotonic() > self._seek_after:
            self._sought[key_id] = None
            while len(self._sought) > _SOUGHT_MOST:
                del self._sought[next(iter(self._sought))]
            self._seeking = asyncio.create_task(self._seek(missing, key_id), name="keyring-seek")
            self._seeking.add_done_callback(_heard)
        if self._seeking is not None and key_id in self._sought:
            await asyncio.shield(self._seeking)

    async def _seek(self, missing: Sequence[_Place], key_id: str) -> None:
        found = False
        try:
            for place in missing:
                if await place.hsm.beside.has_key(key_id.encode(), timeout=_SEEK_SECONDS):
                    found = True
                    await place.hsm.hosting.replace("a key that another process made is missed")
            if found:
                await self.look()
        finally:
            # Whoever names ids that nobody made costs less and less; a key that was really missed sets it back.
            self._seek_pause = _SEEK_PAUSE if found else min(self._seek_pause * 2, _SEEK_PAUSE_MOST)
            self._seek_after = monotonic() + self._seek_pause
            self._seeking = None

    def _may_be_new(self, key_id: str) -> bool:
        """Whether a key of this id may have been made by another kmsd just now."""
        made = created_ms(key_id) / 1000
        return abs(time() - made) < _NEW_SECONDS


def _tried_with(key: Key, how: Scheme) -> tuple[str, bytes, bytes]:
    return key.place, key.cka_id, how.mac or b""


def _identity(key: TokenKey) -> tuple[str, bytes, str]:
    """Of one key, whatever its label; a key without CKA_ID has nothing but its label."""
    return key.kind, key.cka_id, "" if key.cka_id else key.label


def _unlabelled(inventory: Inventory, place: str) -> set[TokenKey]:
    return {replace(key.token, label="") for key in inventory.keys if key.place == place}


def _heard(task: asyncio.Task[None]) -> None:
    if not task.cancelled():
        task.exception()  # whoever waits for the look has it; nobody may be waiting


def _short(text: str) -> str:
    shown = text if len(text) <= 80 else text[:77] + "..."
    return repr(shown)
