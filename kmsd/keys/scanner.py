"""Look at the keys of all tokens together, for every keyring that judges them.

The tokens are looked at every `refresh` seconds and whenever what was seen may be out of date, so that no request waits
for a look. A look that shows less than the one before is doubted: a token that has gone, a module that misses objects
and another process in the middle of a change all look like keys that are lost.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from time import monotonic, time
from typing import Final, Protocol

from kmsd.crypto.schemes import ANY, Ability, Scheme
from kmsd.errors import KmsdError, Misconfigured
from kmsd.hsm.connection import Hsm
from kmsd.hsm.host import keys as token_keys
from kmsd.hsm.host.keys import TokenKey
from kmsd.keys.judging import Rules
from kmsd.keys.key import Inventory, Key, KeyState
from kmsd.keys.labels import created_ms, role
from kmsd.problem import About, Calls, Problem

_LOOK_PAUSE: Final = 0.25
"""Seconds between looks that requests ask for (an unknown kid), so that garbage cannot keep the token busy."""
_VERIFY_PAUSE: Final = 30.0
_VERIFY_PAUSE_MOST: Final = 600.0
"""Seconds between re-initialisations in search of a missing write key: they grow from the first to the second."""
_EMPTY_PAUSE: Final = 5.0
"""Minimum interval, in seconds, between logins that free a place for the write key on a token with few."""
_READ_PAUSES: Final = (0.005, 0.01, 0.02, 0.05, 0.1)
"""Seconds between two readings of a token whose keys change."""
_NEW_SECONDS: Final = 600.0
"""A key made within so many seconds that is not to be found is asked for in another process."""
_SEEK_PAUSE: Final = 2.0
_SEEK_PAUSE_MOST: Final = 60.0
"""Seconds between two times that another process is asked: from the first up to the second while it finds nothing."""
_SEEK_SECONDS: Final = 10.0
_SOUGHT_MOST: Final = 4096
"""The most ids that are remembered as asked for."""
_PICKS_MOST: Final = 8
"""Pairs that are tried at one look: those with the write label one after the other, and as many others."""


class Place:
    """A token and what it showed last. found: its keys; public: objects that anybody may have made."""

    def __init__(self, name: str, hsm: Hsm) -> None:
        self.name = name
        self.hsm = hsm
        self.found: tuple[TokenKey, ...] = ()
        self.public: tuple[TokenKey, ...] = ()
        self.public_more = 0
        self.shows_twice = False
        self.seen = False
        self.ability = ANY
        self.verified = -1e9
        self.verify_pause = _VERIFY_PAUSE
        self.emptied = -1e9


class Judge(Protocol):
    """A judge of what the tokens show."""

    @property
    def write_label(self) -> str:
        """The label that it judges the keys for."""

    @property
    def inventory(self) -> Inventory:
        """The inventory that it found last."""

    @property
    def wrote_at(self) -> str:
        """Name of the token where the key was that wrote last; empty if there was none."""

    def judge(self, changed: Place | None = None, found: Sequence[TokenKey] = ()) -> Inventory:
        """Judge what the tokens showed last; or what it would be if this token showed these keys."""

    def take(self, inventory: Inventory) -> None:
        """Go by this inventory from now on."""


@dataclass(frozen=True)
class Grouped:
    """The keys of one token by the label that they have or had. macs: HMAC keys by CKA_ID."""

    by_role: Mapping[str, Sequence[TokenKey]]
    macs: Mapping[bytes, Sequence[TokenKey]]


class KeyScanner:
    """The keys of all tokens, as last seen.

    tokens: by name in the configuration. configured: what judgements rest on, without what is found out here. judges:
    who is asked what a change means, and told of it.
    """

    def __init__(self, tokens: Mapping[str, Hsm], configured: Rules) -> None:
        self.places = {name: Place(name, hsm) for name, hsm in tokens.items()}
        self.judges: list[Judge] = []
        self.configured = configured
        self._picked: dict[tuple[str, bytes, bytes], str] = {}
        self._looking: asyncio.Task[None] | None = None
        self._looked = -1e9
        self._sought: dict[str, None] = {}
        self._seeking: asyncio.Task[None] | None = None
        self._seek_after = -1e9
        self._seek_pause = _SEEK_PAUSE
        self._groups: deque[tuple[Sequence[TokenKey], Grouped]] = deque(maxlen=4 * max(1, len(tokens)))

    def grouped(self, found: Sequence[TokenKey]) -> Grouped:
        """Return the keys of one token in groups; done once, however many judges ask."""
        for known, groups in self._groups:
            if known is found:
                return groups
        by_role: dict[str, list[TokenKey]] = {}
        macs: dict[bytes, list[TokenKey]] = {}
        for key in found:
            if key.kind == "hmac":
                macs.setdefault(key.cka_id, []).append(key)
            elif key.purpose == "kek":
                by_role.setdefault(role(key.label), []).append(key)
        groups = Grouped(by_role, macs)
        self._groups.append((found, groups))
        return groups

    def forget(self, judge: Judge) -> None:
        """Ask this judge no more."""
        self.judges.remove(judge)

    @property
    def rules(self) -> Rules:
        """The facts that a judgement rests on beside the keys, as they are known now."""
        abilities = {place.name: place.ability for place in self.places.values()}
        return replace(self.configured, abilities=abilities, picked=dict(self._picked))

    @property
    def away(self) -> list[Place]:
        """The tokens that are away."""
        return [place for place in self.places.values() if place.hsm.connected is None]

    @property
    def where(self) -> str:
        """The tokens in words, for sentences."""
        names = [place.hsm.name for place in self.places.values()]
        return names[0] if len(names) == 1 else "tokens " + " and ".join(name.removeprefix("token ") for name in names)

    @property
    def problems(self) -> list[Problem]:
        """The problems of the tokens that are up."""
        return [problem for place in self.places.values() for problem in self._problems_of(place)]

    def _problems_of(self, place: Place) -> Iterator[Problem]:
        connected = place.hsm.connected
        if connected is None:
            return
        if connected.gcm_refused and self.configured.algorithm == "auto":
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
        # A write key that found no place is reported by health, not here.
        if room is not None and room.crowded and not self._shut_out(place):
            error = room.error(place.hsm.name)
            about = About(token=place.name, calls=Calls(code=error.code))
            yield Problem(error.message, error.hint, fatal=False, about=about)

    def _shut_out(self, place: Place) -> bool:
        """Return whether a write key found no place on a token that has few."""
        room = place.hsm.room
        return room is not None and any(
            room.shuts_out(write.cka_id, write.scheme.mac if write.scheme is not None else None)
            for write in self._writers_at(place)
        )

    def _writers_at(self, place: Place) -> list[Key]:
        """Return the keys on this token that write, as last seen."""
        writers = (judge.inventory.write for judge in self.judges)
        return [write for write in writers if write is not None and write.place == place.name]

    async def look_soon(self) -> None:
        """Look at the tokens by a look that begins after this call, a little later if there was one just now: however
        many requests ask, the tokens are looked at a few times a second. Raises KmsdError if they are away."""
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
            # Not in a done callback: a caller that runs before the callback would wait for a look that is over.
            self._looking = None

    async def _look(self) -> None:
        places = list(self.places.values())
        up = [place for place in places if place.hsm.connected is not None] or places
        shown = await asyncio.gather(*(self._look_at(place) for place in up), return_exceptions=True)
        failed = [each for each in shown if isinstance(each, BaseException)]
        if len(failed) == len(up):
            raise failed[0]
        # What was refused is tried again: the keys' attributes may have been put right.
        self._picked = {pair: enc for pair, enc in self._picked.items() if enc}
        for judge in tuple(self.judges):
            judge.take(await self._judge_and_pick(judge))

    async def _judge_and_pick(self, judge: Judge) -> Inventory:
        """Return the inventory, after trying how pairs write: those that write now or are about to, and some others."""
        for _ in range(_PICKS_MOST):
            inventory = judge.judge()
            fresh = [await self.pick(key) for key in inventory.keys if key.state in (KeyState.WRITE, KeyState.PENDING)]
            if not any(fresh):
                break
        inventory = judge.judge()
        # On a token with few places for keys they are left to the keys that write.
        others = [key for key in inventory.keys if key.may_write and self._untried(key) and self._hsm(key).room is None]
        if any([await self.pick(key) for key in others[:_PICKS_MOST]]):
            inventory = judge.judge()
        return inventory

    def _hsm(self, key: Key) -> Hsm:
        return self.places[key.place].hsm

    def _untried(self, key: Key) -> bool:
        how = key.scheme
        return how is not None and bool(how.candidates) and _tried_with(key, how) not in self._picked

    async def pick(self, key: Key) -> bool:
        """Find out which of the encs that its token lists works with a key; return whether that is news."""
        how = key.scheme
        if how is None or not self._untried(key):
            return False
        try:
            enc = await how.pick(self._hsm(key), key.cka_id, timeout=30.0)
        except Misconfigured:
            enc = ""
        except KmsdError:
            return False  # the token is away, or the key not to be seen just now: the next look tries again
        self._picked[_tried_with(key, how)] = enc
        return True

    async def _look_at(self, place: Place) -> None:
        found = await self._list(place)
        if found is not place.found:
            place.shows_twice = _shows_twice(found)
        if self._suspicious(place, found):
            # A token that has gone shows no keys on some modules: only a module that starts anew tells.
            place.verified = monotonic()
            await place.hsm.hosting.replace("keys vanished", doubted=True)
            found = await self._list(place)
        elif place.shows_twice and self._verify(place):
            await place.hsm.hosting.replace("a key shows twice")
            found = await self._list(place)
        elif self._shut_out(place) and monotonic() - place.emptied > _EMPTY_PAUSE:
            place.emptied = monotonic()
            await place.hsm.hosting.replace("other keys take the places of the write key")
        if found is not place.found:
            gone = _unlabelled(place.found) - _unlabelled(found)
            if gone:
                place.hsm.forget_handles(frozenset(token.cka_id for token in gone))
            place.found = found
        place.seen = True
        connected = place.hsm.connected
        if connected is not None:
            longest = connected.quirks.hmac_longest or 0
            place.ability = Ability(connected.mechanisms, longest, connected.gcm_refused, connected.gcm_unauthenticated)

    async def _list(self, place: Place) -> tuple[TokenKey, ...]:
        """List the keys of a token at one moment. A list is read key by key while other processes move labels, and
        SoftHSM shows a key to nobody while it is relabelled: what differs from what was there is believed when it is
        read twice, that a key is gone, or that none writes any more, only when it is read every time.

        A list that shows what was there is returned as the object that it was: what was judged of it holds."""
        known = {_identity(key) for key in place.found}
        before = place.found
        shown: dict[tuple[str, bytes, str], TokenKey] = {}
        found: tuple[TokenKey, ...] = ()
        for pause in (*_READ_PAUSES, 0.0):
            found, public, place.public_more = await place.hsm.run(
                token_keys.list_keys, self.configured.rsa, self.configured.signing, timeout=30.0
            )
            found = place.found if found == place.found else found
            place.public = place.public if public == place.public else public
            same = found is before or Counter(found) == Counter(before)
            if same and self._plausible(place, known, found):
                return found
            before = found
            shown.update({_identity(key): key for key in found})
            await asyncio.sleep(pause)
        here = {_identity(key) for key in found}
        return (*found, *(key for identity, key in shown.items() if identity not in here and identity in known))

    def _plausible(self, place: Place, known: set[tuple[str, bytes, str]], found: Sequence[TokenKey]) -> bool:
        if found is not place.found and known - {_identity(key) for key in found}:
            return False
        return all(
            judge.inventory.write is None or judge.judge(place, found).write is not None for judge in self.judges
        )

    def _suspicious(self, place: Place, found: Sequence[TokenKey]) -> bool:
        for judge in self.judges:
            write = judge.inventory.write
            if write is not None and write.place == place.name:
                if not any(key.seals and key.cka_id == write.cka_id for key in found):
                    return True
                if judge.judge(place, found).write is None:
                    return True
        if place.found and not found:
            return True
        # The module may have started anew while the token was away: look once more for a write key that is missing.
        missed = any(judge.wrote_at == place.name and judge.inventory.write is None for judge in self.judges)
        if not missed and not place.shows_twice:
            place.verify_pause = _VERIFY_PAUSE
        return missed and self._verify(place)

    @staticmethod
    def _verify(place: Place) -> bool:
        """Return whether the module of this token is to start anew now, to be believed."""
        now = monotonic()
        if now - place.verified <= place.verify_pause:
            return False
        # The pause doubles, as each time stops the other keys for a moment.
        place.verified, place.verify_pause = now, min(place.verify_pause * 2, _VERIFY_PAUSE_MOST)
        return True

    async def look_elsewhere(self, key_id: str) -> None:
        """Ask another process for a key with this id that was made just now, where a module is known to miss objects.
        The module begins anew only if the key is there.

        Once for each id, and now and then at the most for all who ask: whoever may call Decrypt can name any id.

        SoftHSM's index of a token's objects can miss one for good: two processes that make objects at the same moment
        write the same generation number, and each takes the other's change for its own.
        """
        if not _may_be_new(key_id):
            return
        missing = [place for place in self.places.values() if place.hsm.beside.misses_objects]
        if missing and key_id not in self._sought and self._seeking is None and monotonic() > self._seek_after:
            self._sought[key_id] = None
            while len(self._sought) > _SOUGHT_MOST:
                del self._sought[next(iter(self._sought))]
            self._seeking = asyncio.create_task(self._seek(missing, key_id), name="keyring-seek")
            self._seeking.add_done_callback(_heard)
        if self._seeking is not None and key_id in self._sought:
            await asyncio.shield(self._seeking)

    async def _seek(self, missing: Sequence[Place], key_id: str) -> None:
        found = False
        try:
            for place in missing:
                known = any(key.cka_id == key_id.encode() for key in place.found)
                # A key that is known here is not missed: only the keyring that asked does not have it.
                if await place.hsm.beside.has_key(key_id.encode(), timeout=_SEEK_SECONDS) and not known:
                    found = True
                    await place.hsm.hosting.replace("a key that another process made is missed")
            if found:
                await self.look()
        finally:
            # The pause doubles for ids that nobody made, and starts again once a missing key was found.
            self._seek_pause = _SEEK_PAUSE if found else min(self._seek_pause * 2, _SEEK_PAUSE_MOST)
            self._seek_after = monotonic() + self._seek_pause
            self._seeking = None


def _tried_with(key: Key, how: Scheme) -> tuple[str, bytes, bytes]:
    return key.place, key.cka_id, how.mac or b""


def _identity(key: TokenKey) -> tuple[str, bytes, str]:
    """Return what identifies a key whatever its label; a key without CKA_ID has nothing but its label."""
    return key.kind, key.cka_id, "" if key.cka_id else key.label


def _shows_twice(found: Sequence[TokenKey]) -> bool:
    """Return whether two of the keys differ in nothing. openCryptoki may show one key twice until the module starts
    anew, in a process that looked while another one was killed that was making it."""
    told = [(key.kind, key.cka_id, key.label) for key in found if key.cka_id]
    return len(set(told)) < len(told)


def _unlabelled(found: Sequence[TokenKey]) -> set[TokenKey]:
    return {replace(token, label="") for token in found}


def _may_be_new(key_id: str) -> bool:
    """Return whether a key of this id may have been made by another kmsd just now."""
    made = created_ms(key_id) / 1000
    return abs(time() - made) < _NEW_SECONDS


def _heard(task: asyncio.Task[None]) -> None:
    if not task.cancelled():
        task.exception()  # whoever waits for the look has it; nobody may be waiting
