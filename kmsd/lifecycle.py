"""What changes keys: making, naming, rotating, retiring and destroying them, each guarded against losing one.

One change at a time in this process; other processes on the same token are met by rules that need no lock
(`kmsd.rotation`). Knows nothing of gRPC.
"""

from __future__ import annotations

import asyncio
import calendar
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from time import monotonic
from typing import Final, Literal

from kmsd.crypto.schemes import round_trip
from kmsd.errors import AlreadyExists, Conflict, InvalidRequest, KmsdError, NotFound, Unavailable, short
from kmsd.hsm import keys as token_keys
from kmsd.hsm import tpm2
from kmsd.hsm.connection import Hsm
from kmsd.hsm.keys import Kind
from kmsd.keyring import Keyring
from kmsd.observe import logs
from kmsd.picture import (
    Key,
    Problem,
    State,
    archived_label,
    check_label,
    companion_label,
    key_id_bytes,
    new_key_id,
    newest_first,
    old_label,
    pending_label,
    role,
)
from kmsd.rotation import Move, moves

log = logs.get_logger("kmsd.keys")

Wanted = Literal["aes", "hmac", "pair"]

_AES_BITS: Final = (128, 192, 256)
_HMAC_BITS: Final = (128, 192, 256, 384, 512)
_PAIR_BITS: Final = (128, 256)
"""RFC 7518, 5.2: A128CBC-HS256 and A256CBC-HS512; the MAC key is as long as the AES key."""
_LABEL_MOST: Final = 255
"""Bytes."""
_ROTATED_LABEL_MOST: Final = _LABEL_MOST - len(".retired@20261123T120400Z") - len(".hmac")
_STEPS_MOST: Final = 16
"""Moves of one roll-forward: more means that somebody else moves labels all the time."""
_STUCK_PAUSE: Final = 60.0
"""Seconds until a move that failed is tried again by itself."""
_TEST_ROUNDS: Final = 3
_SCAN_AGE: Final = 900.0
"""Seconds after which a scan of etcd proves nothing: objects are written all the time."""
_CLOCKS_APART: Final = 60.0
"""Seconds that the clock of the machine which scanned may be ahead."""
_FOLLOW: Final = 300.0
"""Seconds after a rotation in which a kube-apiserver may still write under the old key (KEP-3299: it polls Status
every minute, and goes on with what it has for some minutes when that fails)."""


@dataclass(frozen=True)
class Made:
    """created: False if it was there already. companion: the HMAC key of a pair."""

    key: Key
    created: bool
    companion: Key | None = None


@dataclass(frozen=True)
class Timings:
    """Seconds, of each round."""

    encrypt: tuple[float, ...]
    decrypt: tuple[float, ...]

    @property
    def medians(self) -> tuple[float, float]:
        return median(self.encrypt), median(self.decrypt)


@dataclass(frozen=True)
class Step:
    """One step of a rotation, done or to be done. action: "generate", "test" or "relabel"."""

    action: str
    key_id: str
    from_label: str
    to_label: str
    place: str
    done: bool
    text: str


@dataclass(frozen=True)
class Rotated:
    """old: None if nothing wrote before. new: None in a dry run. rotated: whether this call moved the label."""

    steps: tuple[Step, ...]
    old: Key | None
    new: Key | None
    rotated: bool


@dataclass(frozen=True)
class Scan:
    """What is stored, counted: evidence for retiring a key. Times in Unix seconds.

    uses: (key id or label, whether it is a label, objects).
    """

    started: float
    finished: float
    prefix: str
    objects: int
    unknown: int
    uses: tuple[tuple[str, bool, int], ...]


class Lifecycle:
    """Changes keys.

    write_token: name of the token where new keys are made. last_used: Unix seconds of a key's last use, 0 if none is
    known. known_since: since when (Unix seconds) uses have been noted without a gap. idle: seconds since its last use
    before a key may go without its label being given once more.
    """

    def __init__(
        self,
        keyring: Keyring,
        *,
        write_token: str,
        last_used: Callable[[str], float],
        known_since: Callable[[], float],
        idle: float,
    ) -> None:
        self.write_token = write_token
        self._keyring = keyring
        self._last_used = last_used
        self._known_since = known_since
        self._idle = idle
        self._changing = asyncio.Lock()
        self._stuck: tuple[Move, Problem] | None = None
        self._stuck_until = 0.0

    @property
    def problems(self) -> Sequence[Problem]:
        """Why a rotation that was begun cannot be finished, if so."""
        return (self._stuck[1],) if self._stuck is not None else ()

    # Making and naming.

    async def generate(
        self, label: str, wanted: Wanted, bits: int, key_id: str, *, if_not_exists: bool, place: str = ""
    ) -> Made:
        """Make a key, or a pair. With if_not_exists, the one that holds the label is answered.

        Raises InvalidRequest, AlreadyExists, and what the token says.
        """
        check_label(label)
        if role(label) != label:
            raise InvalidRequest(
                f"labels as {label!r} are given by rotations", "choose another label; `kmsctl rotate` makes a new key"
            )
        bits = bits or 256
        allowed = {"aes": _AES_BITS, "hmac": _HMAC_BITS, "pair": _PAIR_BITS}[wanted]
        if bits not in allowed:
            raise InvalidRequest(
                f"{'a pair' if wanted == 'pair' else f'an {wanted.upper()} key'} cannot have {bits} bits",
                f"choose one of {', '.join(map(str, allowed))}",
            )
        if wanted == "pair":
            check_label(companion_label(label))
        name = self._place(place)
        async with self._changing:
            return await self._generate(label, wanted, bits, key_id, if_not_exists, name)

    def _place(self, place: str) -> str:
        name = place or self.write_token
        if name not in self._keyring.tokens:
            raise NotFound(
                f"no token called {short(name)} is configured", f"the tokens are {', '.join(self._keyring.tokens)}"
            )
        return name

    async def _generate(
        self, label: str, wanted: Wanted, bits: int, key_id: str, if_not_exists: bool, place: str
    ) -> Made:
        await self._keyring.look()
        picture, hsm = self._keyring.picture, self._keyring.tokens[place]
        kind: Kind = "hmac" if wanted == "hmac" else "aes"
        held = [key for key in picture.keys if key.label == label and key.token.kind == kind]
        if if_not_exists and not held and not self._keyring.seen:
            raise Unavailable(
                f"a token is away that has not shown its keys yet, and {label!r} may be among them",
                "wait until it is back; without --if-not-exists a key is made all the same",
            )
        if held:
            key = newest_first(held)[0]
            if not if_not_exists:
                raise AlreadyExists(
                    f"{self._keyring.hsm(key).name} has a key labelled {label!r} already",
                    "choose another label, or --if-not-exists; `kmsctl rotate` makes a new write key",
                )
            if wanted != "pair" or picture.companion(key) is not None:
                return Made(key, created=False, companion=picture.companion(key) if wanted == "pair" else None)
            raise AlreadyExists(
                f"{self._keyring.hsm(key).name} has an AES key labelled {label!r} already, and it is no pair",
                "choose another label, or rotate to a pair",
            )
        half = self._half_made(label, bits, place) if wanted == "pair" and if_not_exists and not key_id else None
        if half is not None:
            await self._make(hsm, label, half.cka_id, bits, pair=False)
            return await self._made(half.cka_id, "aes", pair=True)
        if wanted == "pair":
            self._refuse_taken(companion_label(label), "hmac")
        wanted_id = key_id or new_key_id(self._newest_of(label))
        cka_id = key_id_bytes(wanted_id)
        self._refuse_known(wanted_id, ("hmac", "aes") if wanted == "pair" else (kind,))
        await self._make(hsm, label, cka_id, bits, pair=wanted == "pair", kind=kind)
        return await self._made(cka_id, kind, pair=wanted == "pair")

    def _half_made(self, label: str, bits: int, place: str) -> Key | None:
        """The HMAC key of a pair whose AES key was not made any more, because whoever made it died in between."""
        picture = self._keyring.picture
        for key in picture.keys:
            its = key.token
            alone = its.kind == "hmac" and key.cka_id and picture.companion(key) is None
            kept = its.sensitive and not its.extractable
            fits = key.place == place and its.bits == bits and key.created_ms > self._newest_of(label)
            if key.label == companion_label(label) and alone and kept and fits:
                return key
        return None

    def _refuse_taken(self, label: str, kind: Kind) -> None:
        """Raises AlreadyExists if a key of this kind has the label."""
        for key in self._keyring.picture.keys:
            if key.label == label and key.token.kind == kind:
                raise AlreadyExists(
                    f"{self._keyring.hsm(key).name} has a key labelled {label!r} already: {key.key_id}",
                    "choose another label; `kmsctl rotate` moves the write label to a new key",
                )

    def _refuse_known(self, key_id: str, kinds: Sequence[Kind]) -> None:
        """Raises AlreadyExists if a key of one of these kinds has an id that reads like this one: as two different
        CKA_IDs can, and then neither key could be told from the other."""
        if any(key.key_id == key_id and key.token.kind in kinds for key in self._keyring.picture.keys):
            raise AlreadyExists(
                f"{self._keyring.where} has a key with key id {key_id!r} already",
                "choose another, or leave it out: kmsd makes one",
            )

    async def _make(self, hsm: Hsm, label: str, cka_id: bytes, bits: int, *, pair: bool, kind: Kind = "aes") -> None:
        connected = hsm.connected
        if connected is not None and connected.quirks.generates_through == "tpm2_ptool":
            await self._make_on_tpm(hsm, connected.token.label, label, cka_id, bits, pair=pair, kind=kind)
            return
        if pair:
            # First, so that an AES key of a pair is never seen without it.
            await hsm.run_rw(token_keys.generate, companion_label(label), cka_id, "hmac", bits)
        await hsm.run_rw(token_keys.generate, label, cka_id, kind, bits)
        if connected is not None and connected.quirks.misses_objects:
            # Of several that made keys at once, the last to come here sees them all, and moves the labels for all.
            await hsm.reconnect("another process may have made a key at the same moment")

    async def _make_on_tpm(
        self, hsm: Hsm, token: str, label: str, cka_id: bytes, bits: int, *, pair: bool, kind: Kind
    ) -> None:
        """PKCS#11 makes no keys on a TPM; a program beside the module does."""
        wanted = [tpm2.NewKey("hmac", companion_label(label), cka_id)] if pair else []
        wanted.append(tpm2.NewKey("hmac" if kind == "hmac" else "aes", label, cka_id))

        def add(pin: str | None) -> None:
            able = tpm2.abilities()
            if not able.encrypts or not able.aes_bits:
                raise Conflict(
                    f"the TPM behind {hsm.name} does not encrypt with AES (TPM2_EncryptDecrypt2 is optional)",
                    "use another token",
                )
            tpm2.add_keys(token, pin or "", wanted, aes_bits=min(bits, able.aes_bits), hash_bits=_hash_bits(bits, able))

        await hsm.without_module(add)

    async def _made(self, cka_id: bytes, kind: Kind, *, pair: bool = False) -> Made:
        await self._keyring.look()
        picture = self._keyring.picture
        for key in picture.keys:
            if key.cka_id == cka_id and key.token.kind == kind:
                return Made(key, created=True, companion=picture.companion(key) if pair else None)
        raise Conflict("the key was made and is gone again", "look for another program that uses this token")

    def _newest_of(self, label: str) -> int:
        """Of the keys that have or had this label, when the newest was made: the next one must be newer."""
        return max((key.created_ms for key in self._keyring.picture.keys if role(key.label) == label), default=0)

    async def adopt(self, label: str, key_id: str) -> Key:
        """Give a CKA_ID to the AES or HMAC key with this label that lacks one. Raises NotFound, Conflict."""
        check_label(label)
        async with self._changing:
            return await self._adopt(label, key_id)

    async def _adopt(self, label: str, key_id: str) -> Key:
        await self._keyring.look()
        keys = self._keyring.picture.keys
        labelled = [key for key in keys if key.label == label and key.token.kind != "other"]
        # An AES key first: it names what is written.
        labelled.sort(key=lambda key: key.token.kind)
        if not labelled:
            raise NotFound(
                f"there is no AES or HMAC key labelled {label!r} on {self._keyring.where}", "kmsctl keys list shows all"
            )
        bare = [key for key in labelled if not key.cka_id]
        if not bare:
            raise Conflict(f"key {label!r} has a CKA_ID already: {labelled[0].key_id}", "there is nothing to do")
        wanted = key_id or new_key_id()
        cka_id = key_id_bytes(wanted)
        self._refuse_known(wanted, ("aes", "hmac", "other"))
        kind = bare[0].token.kind
        await self._keyring.hsm(bare[0]).run_rw(token_keys.set_id, kind, label, cka_id)
        return (await self._made(cka_id, kind)).key

    async def relabel(self, which: str, to: str, confirm_label: str, *, dry_run: bool) -> tuple[Key, str]:
        """Give a key another label; (the key, its previous label). Its HMAC key follows, if it is a pair.

        Raises Conflict for what would change which key writes, unless the present label is given once more.
        """
        check_label(to)
        if role(to) != to:
            raise InvalidRequest(f"labels as {to!r} are given by rotations", "choose another label")
        async with self._changing:
            await self._keyring.look()
            key = self._keyring.select(which)
            picture, write_label = self._keyring.picture, self._keyring.write_label
            if key.label == to:
                return key, to
            companion = self._follower(key)
            self._refuse_taken(to, key.token.kind)
            if companion is not None:
                check_label(companion_label(to))
                self._refuse_taken(companion_label(to), "hmac")
            if key is picture.write:
                why = f"{key.label!r} is the write key: without the label {write_label!r} nothing is encrypted"
            elif to == write_label and key.token.kind == "aes":
                why = f"{key.label!r} would become the write key"
            else:
                why = self._named(key)
            _confirm(key, confirm_label, why, "`kmsctl rotate` makes a new write key and keeps this one readable")
            if dry_run:
                return key, key.label
            await self._relabel(key, to)
            if companion is not None:
                await self._relabel(companion, companion_label(to))
            await self._keyring.look()
            return self._again(key, to), key.label

    def _follower(self, key: Key) -> Key | None:
        """The HMAC key of a pair, if it has the label that goes with its AES key's."""
        companion = self._keyring.picture.companion(key) if key.token.kind == "aes" else None
        return companion if companion is not None and companion.label == companion_label(key.label) else None

    async def _relabel(self, key: Key, to: str) -> None:
        await self._keyring.hsm(key).run_rw(token_keys.relabel, key.token.kind, key.cka_id, key.label, to)

    def _again(self, key: Key, label: str) -> Key:
        """The same key in the present picture. label: its present one, by which a key without CKA_ID is known. Raises
        Conflict if it is gone."""
        for other in self._keyring.picture.keys:
            same = (other.place, other.token.kind, other.cka_id) == (key.place, key.token.kind, key.cka_id)
            if same and (key.cka_id or other.label == label):
                return other
        raise Conflict(f"key {key.label!r} is gone", "look for another program that uses this token")

    # Trying.

    async def test(self, which: str, rounds: int) -> tuple[Key, Timings]:
        """Encrypt and decrypt random bytes with a key, `rounds` times. Raises Conflict if it cannot."""
        if not 1 <= rounds <= 1000:
            raise InvalidRequest(f"{rounds} rounds", "choose 1 to 1000 rounds")
        await self._keyring.look()
        key = self._keyring.select(which)
        if not key.may_write:
            reason, hint = key.reason, key.hint
            if key.token.kind == "hmac":
                reason, hint = "it is an HMAC key", "test the AES key that it belongs to"
            elif not reason:
                reason = "it may not encrypt, so only what it wrote before could show that it works"
                hint = "decrypt something that it wrote: kmsctl decrypt FILE"
            raise Conflict(f"key {key.label!r} cannot be tested: {reason}", hint)
        return key, await self._test(key, rounds)

    async def _test(self, key: Key, rounds: int) -> Timings:
        hsm, how = self._keyring.hsm(key), await self._keyring.scheme(key)
        if how is None:
            raise Conflict(f"key {key.label!r} cannot be tested: {key.reason}", key.hint)
        encrypt: list[float] = []
        decrypt: list[float] = []
        for _ in range(rounds):
            took = await round_trip(hsm, key.cka_id, how, 10.0)
            encrypt.append(took[0])
            decrypt.append(took[1])
        return Timings(tuple(encrypt), tuple(decrypt))

    # Destroying and retiring.

    async def destroy(self, which: str, confirm_label: str, *, dry_run: bool) -> tuple[Key, Key | None]:
        """Destroy a key, and the HMAC key of a pair with it; both as they were. Raises Conflict if it is in use."""
        async with self._changing:
            await self._keyring.look()
            key = self._keyring.select(which)
            companion = self._keyring.picture.companion(key)
            if key.token.kind == "hmac" and companion is not None and companion.reads:
                why = f"the AES key {companion.label!r} needs it"
            else:
                why = self._in_use(key) or self._named(key)
            _confirm(key, confirm_label, why, "what it encrypted would be lost: `kmsctl etcd scan` shows what that is")
            both = [key, companion] if key.token.kind == "aes" and companion is not None else [key]
            if not dry_run:
                for each in both:
                    await self._keyring.hsm(each).run_rw(token_keys.destroy, each.token.kind, each.cka_id, each.label)
                await self._keyring.look()
            return key, companion if len(both) == 2 else None

    def _named(self, key: Key) -> str:
        """Why an HMAC key is needed that the configuration names; empty if it names another."""
        named = key.token.kind == "hmac" and key.label == self._keyring.hmac_label
        return f"{key.label!r} is the HMAC key that --p11-hmac-label names" if named else ""

    def _in_use(self, key: Key) -> str:
        """Why a key is needed, in words; empty if nothing is known to need it."""
        if key.state is State.WRITE:
            return f"{key.label!r} is the write key"
        if key.state is State.PENDING:
            return f"{key.label!r} is about to become the write key"
        if not key.reads:
            return ""
        now = time.time()
        used = self._last_used(key.key_id)
        if used and now - used < self._idle:
            return f"{key.label!r} was used {_ago(now - used)} ago"
        known = self._known_since()
        if not used and key.created_ms < known * 1000 and now - known < self._idle:
            return f"it is not known whether {key.label!r} is in use: uses are noted only since {_ago(now - known)} ago"
        return ""

    async def retire(self, which: str, scan: Scan | None, confirm_label: str, *, dry_run: bool) -> tuple[Key, str]:
        """Mark a key that nothing needs any more; (the key, its previous label). It reads until it is destroyed.

        Raises Conflict if the scan, or its absence, or a use after it speaks against that.
        """
        async with self._changing:
            await self._keyring.look()
            key = self._keyring.select(which)
            if key.token.kind != "aes" or not key.reads:
                raise Conflict(
                    f"key {key.label!r} does not decrypt, so there is nothing to retire",
                    key.hint or "an HMAC key is retired with its AES key; kmsctl keys destroy removes it",
                )
            if key.state is State.ARCHIVED:
                return key, key.label
            if key.state in (State.WRITE, State.PENDING):
                raise Conflict(self._in_use(key), "rotate first: kmsctl rotate")
            to, companion = archived_label(key.label, time.time()), self._follower(key)
            if len((to if companion is None else companion_label(to)).encode()) > _LABEL_MOST:
                raise Conflict(
                    f"the label {key.label!r} is too long: nothing could be put behind it",
                    "give the key a shorter one first: kmsctl keys relabel",
                )
            why, hint = self._still_needed(key, scan)
            _confirm(key, confirm_label, why, hint)
            if dry_run:
                return key, key.label
            await self._relabel(key, to)
            if companion is not None:
                await self._relabel(companion, companion_label(to))
            await self._keyring.look()
            return self._again(key, to), key.label

    def _still_needed(self, key: Key, scan: Scan | None) -> tuple[str, str]:
        again = "rewrite them and scan again (kmsctl etcd scan --report FILE)"
        if scan is None:
            return (
                f"nothing shows that no stored object needs {key.label!r}",
                "count what etcd holds: kmsctl etcd scan --report FILE, then kmsctl keys retire KEY --report FILE",
            )
        now, known = time.time(), self._known_since()
        if scan.finished > now + _CLOCKS_APART:
            return "the scan ended in the future", "the clocks of two machines differ: set them, and scan again"
        if now - scan.finished > _SCAN_AGE:
            return f"the scan is {_ago(now - scan.finished)} old", "scan again; at most 15 minutes may pass"
        if not "/registry/".startswith(scan.prefix.rstrip("/") + "/"):
            return f"the scan covers {short(scan.prefix)} only", "scan the whole of it, /registry"
        if scan.unknown:
            return f"{scan.unknown} stored values could not be read by the scan and may need any key", again
        for name, by_label, objects in scan.uses:
            if objects and (name == role(key.label) if by_label else name == key.key_id):
                return f"{objects} stored objects need {key.label!r}", again
        used = self._last_used(key.key_id)
        if used > scan.started:
            return f"{key.label!r} was used {_ago(now - used)} ago, after the scan began", again
        if key.created_ms < known * 1000 and known > scan.started:
            return (
                f"it is not known whether {key.label!r} was used since the scan began: uses are noted only since "
                f"{_ago(now - known)} ago",
                "scan again",
            )
        rotated = _rotated_at(key.label)
        if rotated and scan.started < rotated + _FOLLOW:
            return (
                f"the scan began less than {_FOLLOW / 60:.0f} minutes after {key.label!r} gave up the write label, "
                "and a kube-apiserver may have gone on with it until then",
                "scan again",
            )
        return "", ""

    # Rotating.

    async def rotate(self, label: str, from_key_id: str, place: str, *, dry_run: bool) -> Rotated:
        """Make a new write key and move the label to it; finish a rotation that was begun instead, if there is one.

        from_key_id: rotate only away from this key. Raises NotFound if nothing writes, and what the token says.
        """
        write_label = self._keyring.write_label
        if label and label != write_label:
            raise InvalidRequest(
                f"this kmsd writes with the label {write_label!r}, not {short(label)}", "leave the label out"
            )
        if len(write_label.encode()) > _ROTATED_LABEL_MOST:
            raise InvalidRequest(
                f"the write label {write_label!r} has over {_ROTATED_LABEL_MOST} bytes: nothing could be put behind it",
                "choose a shorter one (--p11-key-label)",
            )
        name = self._place(place)
        async with self._changing:
            await self._keyring.look()
            old = self._keyring.picture.write
            if old is None:
                raise self._keyring.why_none()
            if from_key_id and old.key_id != from_key_id:
                # Whoever repeats the call wants it finished now, even if a move was stuck a moment ago.
                steps = [] if dry_run else await self._roll_forward()
                picture = self._keyring.picture
                return Rotated(tuple(steps), picture.by_key_id.get(from_key_id), picture.write or old, rotated=False)
            return await self._rotate(old, name, dry_run=dry_run)

    async def revert(self, label: str, from_key_id: str, *, dry_run: bool) -> tuple[Rotated, Key]:
        """After a bad rotation: a new write key on the token of the key that wrote before; (what was done, that key).

        Raises NotFound if no key wrote before.
        """
        await self._keyring.look()
        write_label = self._keyring.write_label
        write = self._keyring.picture.write
        # A call that is repeated finds the bad key reverted already: the one before it is meant again, not it.
        bad = self._keyring.picture.by_key_id.get(from_key_id) or write
        before = newest_first(
            key
            for key in self._keyring.picture.keys
            if key.token.kind == "aes"
            and key.reads
            and key not in (write, bad)
            and (bad is None or bad is write or key.age < bad.age)
            and role(key.label) == write_label
            and key.state is not State.PENDING
        )
        if not before:
            raise NotFound(
                f"no key on {self._keyring.where} had the label {write_label!r} before",
                "there is nothing to revert to; `kmsctl rotate` makes a new write key",
            )
        return await self.rotate(label, from_key_id, before[0].place, dry_run=dry_run), before[0]

    async def _rotate(self, old: Key, place: str, *, dry_run: bool) -> Rotated:
        picture, label = self._keyring.picture, self._keyring.write_label
        begun = [move for move in moves(picture, label, time.time()) if move.tried]
        pair = picture.companion(old) is not None or (old.scheme is not None and old.scheme.cbc)
        if dry_run:
            return Rotated(self._plan(old, place, begun, pair=pair), old, None, rotated=False)
        steps: list[Step] = []
        if not begun:
            hsm = self._keyring.tokens[place]
            key_id = new_key_id(self._newest_of(label))
            await self._make(hsm, pending_label(label), key_id_bytes(key_id), old.token.bits, pair=pair)
            made = (await self._made(key_id_bytes(key_id), "aes")).key
            steps.append(_made_step(made.key_id, pending_label(label), place, hsm.name, done=True))
            log.info("rotation began", label=label, key_id_sha256=made.key_id_sha256)
        steps.extend(await self._roll_forward())
        new = self._keyring.picture.write
        # A key that wrote as L.pending goes on as L; any other has to have given way.
        if new is None or new.label != label or (new.key_id == old.key_id and old.label == label):
            problem = self.problems[0] if self.problems else None
            raise Conflict(
                f"the rotation of {label!r} was begun and could not be finished"
                + (f": {problem.message}" if problem else ""),
                (problem.hint if problem else "") or "repeat kmsctl rotate; the old key writes until then",
            )
        return Rotated(
            tuple(steps), self._again(old, old.label) if new.key_id != old.key_id else None, new, rotated=True
        )

    def _plan(self, old: Key, place: str, begun: Sequence[Move], *, pair: bool) -> tuple[Step, ...]:
        """What a rotation would do."""
        label = self._keyring.write_label
        steps: list[Step] = []
        if not begun:
            steps.append(_made_step("", pending_label(label), place, self._keyring.tokens[place].name, done=False))
        new = begun[0].cka_id.decode("ascii", "replace") if begun else ""
        place = begun[0].place if begun else place
        steps.append(_tested_step(new, pending_label(label), place, done=False))
        steps.append(_moved_step(new, pending_label(label), label, place, done=False))
        steps.append(_moved_step(old.key_id, label, old_label(label, time.time()), old.place, done=False))
        if pair:
            steps.append(
                _moved_step("", companion_label(pending_label(label)), companion_label(label), place, done=False)
            )
        return tuple(steps)

    async def roll_forward(self) -> None:
        """Finish what a rotation left, whoever began it. What cannot be finished now is told in `problems`."""
        if not self._keyring.complete or self._changing.locked():
            return
        if not moves(self._keyring.picture, self._keyring.write_label, time.time()):
            self._stuck = None
            return
        if self._stuck is not None and monotonic() < self._stuck_until:
            return
        async with self._changing:
            await self._roll_forward()

    async def _roll_forward(self) -> list[Step]:
        """Take the moves one after the other, each from a fresh look. The steps that were taken."""
        steps: list[Step] = []
        for _ in range(_STEPS_MOST):
            wanted = moves(self._keyring.picture, self._keyring.write_label, time.time())
            if not wanted:
                self._stuck = None
                break
            move = wanted[0]
            try:
                steps.extend(await self._take(move))
            except Conflict as error:
                # Another kmsd was quicker, most likely: then the next look shows other moves, or none.
                await self._keyring.look()
                if move in moves(self._keyring.picture, self._keyring.write_label, time.time()):
                    self._get_stuck(move, error)
                    break
            except KmsdError as error:
                self._get_stuck(move, error)
                break
            else:
                await self._keyring.look()
        return steps

    async def _take(self, move: Move) -> list[Step]:
        steps: list[Step] = []
        key_id = next(
            (k.key_id for k in self._keyring.picture.keys if (k.place, k.cka_id) == (move.place, move.cka_id)), ""
        )
        if move.tried:
            key = self._keyring.picture.by_key_id[key_id]
            await self._test(key, _TEST_ROUNDS)
            steps.append(_tested_step(key_id, move.from_label, move.place, done=True))
        hsm = self._keyring.tokens[move.place]
        await hsm.run_rw(token_keys.relabel, move.kind, move.cka_id, move.from_label, move.to_label)
        log.info("key relabelled", key_id=key_id, was=move.from_label, label=move.to_label, token=move.place)
        steps.append(_moved_step(key_id, move.from_label, move.to_label, move.place, done=True))
        return steps

    def _get_stuck(self, move: Move, error: KmsdError) -> None:
        hsm = self._keyring.tokens[move.place]
        problem = Problem(
            f"key {move.from_label!r} on {hsm.name} cannot be relabelled {move.to_label!r}: {error.message}",
            error.hint or "kmsd tries again in a minute",
            fatal=False,
        )
        if self._stuck is None or self._stuck[1] != problem:
            log.warning(problem.message, hint=problem.hint)
        self._stuck = (move, problem)
        self._stuck_until = monotonic() + _STUCK_PAUSE


def _hash_bits(bits: int, able: tpm2.TpmAbilities) -> int:
    """Of the HMAC key beside an AES key of this size (RFC 7518, 5.2): a TPM's HMAC key is of one hash."""
    return able.hash_bits if min(bits, able.aes_bits) == 256 else 256


def _confirm(key: Key, given: str, why: str, hint: str) -> None:
    """Raises Conflict if something speaks against it and the label was not given once more; InvalidRequest if a wrong
    one was, for then another key may be meant."""
    if given and given != key.label:
        raise InvalidRequest(
            f"{short(given)} is not the label of this key, which is {key.label!r}",
            "nothing was changed; give its label",
        )
    if why and not given:
        raise Conflict(why, f"{hint}; to do it in spite of that, give the label once more: --confirm {key.label}")


def _made_step(key_id: str, label: str, place: str, token: str, *, done: bool) -> Step:
    return Step("generate", key_id, "", label, place, done, f"make a new key labelled {label} on {token}")


def _tested_step(key_id: str, label: str, place: str, *, done: bool) -> Step:
    return Step("test", key_id, label, label, place, done, f"encrypt and decrypt with {label}")


def _moved_step(key_id: str, was: str, to: str, place: str, *, done: bool) -> Step:
    return Step("relabel", key_id, was, to, place, done, f"relabel {was} to {to}")


def _rotated_at(label: str) -> float:
    """When a key gave up the write label, in Unix seconds; 0 if its label does not say."""
    _, at, stamp = label.rpartition("@")
    try:
        return float(calendar.timegm(time.strptime(stamp, "%Y%m%dT%H%M%SZ"))) if at else 0.0
    except (ValueError, OverflowError):
        return 0.0


def _ago(seconds: float) -> str:
    seconds = max(0.0, seconds)
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} seconds"
