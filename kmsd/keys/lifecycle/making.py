"""Make keys on a token.

The functions that change keys are called with a fresh inventory, while no other change goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeVarTuple

from kmsd.errors import AlreadyExists, Conflict, InvalidRequest, KmsdError, Unavailable
from kmsd.hsm.ckr import CkrError
from kmsd.hsm.connection import Hsm
from kmsd.hsm.host import keys as token_keys
from kmsd.hsm.host.keys import Kind
from kmsd.hsm.host.session import TokenSession
from kmsd.hsm.vendors import tpm2
from kmsd.keys.inventory import SAME_ID_HINT
from kmsd.keys.key import Key, newest_first
from kmsd.keys.keyring import Keyring
from kmsd.keys.labels import check_label, companion_label, key_id_bytes, new_key_id, role
from kmsd.keys.lifecycle.permit import Permit

Ts = TypeVarTuple("Ts")

Wanted = Literal["aes", "hmac", "pair", "rsa"]

_AES_BITS: Final = (128, 192, 256)
_HMAC_BITS: Final = (128, 192, 256, 384, 512)
PAIR_BITS: Final = (128, 256)
"""The sizes of a pair's AES key (RFC 7518, 5.2): A128CBC-HS256 and A256CBC-HS512; the MAC key is as long."""
_RSA_BITS: Final = (2048, 3072, 4096)
_USUAL_BITS: Final = 256
_USUAL_RSA_BITS: Final = 3072
"""The size that is as strong as 128 bits of AES (NIST SP 800-57 part 1, table 2)."""
_TPM_RSA_BITS: Final = 2048
"""The only size that every TPM must have (TCG PC Client Platform TPM Profile, 4.4)."""


@dataclass(frozen=True)
class Recipe:
    """A description of the key to be made. bits: of the AES and of the HMAC key, or of the RSA key. chosen: the sort
    was left to kmsd, so one that is there and serves will do, whatever it is."""

    wanted: Wanted
    bits: int
    chosen: bool = False

    @property
    def pair(self) -> bool:
        return self.wanted == "pair"

    @property
    def objects(self) -> int:
        """The number of keys that are used together."""
        return 2 if self.pair else 1

    @property
    def kind(self) -> Kind:
        """The kind of the key that has the label."""
        return "aes" if self.wanted == "pair" else self.wanted

    @property
    def alike(self) -> tuple[Kind, ...]:
        """The kinds of keys that must not have its key id already."""
        match self.wanted:
            case "hmac":
                return ("hmac",)
            case "pair":
                return ("aes", "rsa", "hmac")
            case "aes" | "rsa":
                return ("aes", "rsa")


@dataclass(frozen=True)
class Order:
    """A key, or a pair, that somebody wants. key_id: empty for a new one. if_not_exists: the one that holds the label
    will do."""

    label: str
    recipe: Recipe
    key_id: str
    if_not_exists: bool


@dataclass(frozen=True)
class Made:
    """A key that was made or found. created: False if it was there already. companion: the HMAC key of a pair."""

    key: Key
    created: bool
    companion: Key | None = None


def recipe(wanted: Wanted, bits: int, hsm: Hsm) -> Recipe:
    """Return what to make on this token. bits: 0 for what is usual there."""
    on_tpm = hsm.connected is not None and hsm.connected.quirks.generates_through == "tpm2_ptool"
    usual = (_TPM_RSA_BITS if on_tpm else _USUAL_RSA_BITS) if wanted == "rsa" else _USUAL_BITS
    return Recipe(wanted, bits or usual)


def usual(keyring: Keyring, label: str, place: str) -> Wanted:
    """Return the sort of key that serves under this label on this token, where the order leaves it to kmsd."""
    if keyring.takes_rsa and label == keyring.write_label:
        return "rsa"
    if not keyring.needs_pair(place):
        return "aes"
    named = any(
        k.place == place and k.label == keyring.hmac_label and k.token.kind == "hmac" for k in keyring.inventory.keys
    )
    return "aes" if keyring.hmac_label and named else "pair"


def check(order: Order) -> None:
    """Raise InvalidRequest for what no token could make."""
    made = order.recipe
    check_label(order.label)
    if role(order.label) != order.label:
        raise InvalidRequest(
            f"a label that ends as {order.label!r} does is only for rotations to give",
            "choose another label; `kmsctl rotate` makes a new key",
        )
    allowed = {"aes": _AES_BITS, "hmac": _HMAC_BITS, "pair": PAIR_BITS, "rsa": _RSA_BITS}[made.wanted]
    if made.bits not in allowed:
        raise InvalidRequest(
            f"{'a pair' if made.pair else f'an {made.wanted.upper()} key'} cannot have {made.bits} bits",
            f"choose one of {', '.join(map(str, allowed))}",
        )
    if made.pair:
        check_label(companion_label(order.label))


async def generate(keyring: Keyring, permit: Permit, order: Order, place: str) -> Made:
    """Make what is ordered on the token `place`, or find it. Raises AlreadyExists, Unavailable, Conflict."""
    label, wanted, hsm = order.label, order.recipe, keyring.tokens[place]
    if wanted.kind == "rsa" and not keyring.takes_rsa:
        raise Conflict(
            "RSA keys do not serve here: whoever knows the public key can write what opens",
            "prefer AES; on a token without it set keys.algorithm (--algorithm) to rsa-oaep",
        )
    found = _found(keyring, order)
    if found is not None:
        return found
    half = _half_made(keyring, order, place) if wanted.pair and order.if_not_exists and not order.key_id else None
    if half is not None:
        await make(permit, hsm, label, half.cka_id, Recipe("aes", wanted.bits))
        return await made(keyring, half.cka_id, "aes", pair=True)
    if wanted.pair:
        refuse_taken(keyring, companion_label(label), "hmac")
    key_id = order.key_id or new_key_id(newest_of(keyring, label))
    cka_id = key_id_bytes(key_id)
    refuse_known(keyring, key_id, wanted.alike)
    await make(permit, hsm, label, cka_id, wanted)
    return await made(keyring, cka_id, wanted.kind, pair=wanted.pair)


def _found(keyring: Keyring, order: Order) -> Made | None:
    """Return what is there already, if that will do. Raises AlreadyExists, and Unavailable if it may be where nobody
    sees."""
    inventory, label = keyring.inventory, order.label
    hmac = order.recipe.kind == "hmac"
    held = [
        key for key in inventory.keys if key.label == label and (key.token.kind == "hmac" if hmac else key.token.seals)
    ]
    if not held:
        if order.if_not_exists and not keyring.seen:
            raise Unavailable(
                f"a token is away that has not shown its keys yet, and {label!r} may be among them",
                "wait until it is back; without --if-not-exists a key is made all the same",
            )
        return None
    key = newest_first(held)[0]
    if not order.if_not_exists:
        raise AlreadyExists(
            f"{keyring.hsm(key).name} has a key labelled {label!r} already",
            "choose another label, or --if-not-exists; `kmsctl rotate` makes a new write key",
        )
    if order.recipe.chosen:
        return _serving(keyring, key, order)
    if key.token.kind != order.recipe.kind:
        raise AlreadyExists(
            f"{keyring.hsm(key).name} has a key labelled {label!r} already, of another type: {key.token.kind}",
            "choose another label",
        )
    companion = inventory.companion(key) if order.recipe.pair else None
    if order.recipe.pair and companion is None:
        raise AlreadyExists(
            f"{keyring.hsm(key).name} has an AES key labelled {label!r} already, and it is no pair",
            "choose another label, or rotate to a pair",
        )
    return Made(key, created=False, companion=companion)


def _serving(keyring: Keyring, key: Key, order: Order) -> Made:
    """Return the key that is there. Raises AlreadyExists if only a way to write on its token is missing."""
    if key.lacks_scheme and order.recipe.pair:
        way = (
            "`kmsctl rotate` makes a pair in its place" if key.label == keyring.write_label else "choose another label"
        )
        raise AlreadyExists(
            f"{keyring.hsm(key).name} has a key labelled {key.label!r} already, which cannot serve: {key.reason}", way
        )
    return Made(key, created=False, companion=keyring.inventory.companion(key))


def _half_made(keyring: Keyring, order: Order, place: str) -> Key | None:
    """Return the HMAC key of a pair that has no AES key yet, because whoever made it died in between."""
    inventory, newest = keyring.inventory, newest_of(keyring, order.label)
    for key in inventory.keys:
        its = key.token
        alone = its.kind == "hmac" and key.cka_id and inventory.companion(key) is None
        kept = its.sensitive and not its.extractable
        fits = key.place == place and its.bits == order.recipe.bits and key.created_ms > newest
        if key.label == companion_label(order.label) and alone and kept and fits:
            return key
    return None


def refuse_taken(keyring: Keyring, label: str, kind: Kind) -> None:
    """Raise AlreadyExists if a key of this kind has the label."""
    for key in keyring.inventory.keys:
        if key.label == label and key.token.kind == kind:
            raise AlreadyExists(
                f"{keyring.hsm(key).name} has a key labelled {label!r} already: {key.key_id}",
                "choose another label; `kmsctl rotate` moves the write label to a new key",
            )


def refuse_known(keyring: Keyring, key_id: str, kinds: Sequence[Kind]) -> None:
    """Raise AlreadyExists if a key of one of these kinds has an id that reads like this one: as two different CKA_IDs
    can, and then neither key could be told from the other."""
    if any(key.key_id == key_id and key.token.kind in kinds for key in keyring.inventory.keys):
        raise AlreadyExists(
            f"{keyring.where} has a key with key id {key_id!r} already",
            "choose another, or leave it out: kmsd makes one",
        )


async def make(permit: Permit, hsm: Hsm, label: str, cka_id: bytes, wanted: Recipe) -> None:
    """Make a key, or a pair, on this token; the inventory does not show it yet. Raises what the token says."""
    connected = hsm.connected
    if connected is not None and connected.quirks.generates_through == "tpm2_ptool":
        await _make_on_tpm(permit, hsm, connected.token.label, label, cka_id, wanted)
        return
    if wanted.pair:
        # The HMAC key is made first, so that an AES key of a pair is never seen without it.
        await order_key(permit, hsm, token_keys.generate, companion_label(label), cka_id, "hmac", wanted.bits)
    await order_key(permit, hsm, token_keys.generate, label, cka_id, wanted.kind, wanted.bits)
    if connected is not None and connected.quirks.misses_objects:
        # If several made keys at once, the last to come here sees them all and moves all labels.
        await hsm.hosting.replace("another process may have made a key at the same moment")


async def order_key(permit: Permit, hsm: Hsm, fn: Callable[[TokenSession, float, *Ts], object], *args: *Ts) -> None:
    """Have fn(session, until, *args) make a key. One that is there and does not read back is for a module that starts
    anew to show: whoever orders it has to look after that. Raises what the token says."""
    try:
        await permit.change(hsm, fn, *args)
    except KmsdError as error:
        if not (isinstance(error.__cause__, CkrError) and error.__cause__.name == token_keys.NOT_AS_MADE):
            raise
        if not await hsm.hosting.replace(token_keys.NOT_AS_MADE):
            raise


async def _make_on_tpm(permit: Permit, hsm: Hsm, token: str, label: str, cka_id: bytes, wanted: Recipe) -> None:
    """Make keys by a program beside the module: PKCS#11 makes none on a TPM."""
    bits = wanted.bits
    keys = [tpm2.NewKey("hmac", companion_label(label), cka_id)] if wanted.pair else []
    keys.append(tpm2.NewKey(wanted.wanted if wanted.wanted != "pair" else "aes", label, cka_id))

    def add(pin: str | None) -> None:
        if wanted.kind == "rsa":
            permit.begin()
            tpm2.add_keys(token, pin or "", keys, rsa_bits=bits)
            return
        able = tpm2.abilities()
        if not able.encrypts or not able.aes_bits:
            raise Conflict(
                f"the TPM behind {hsm.name} does not encrypt with AES (TPM2_EncryptDecrypt2 is optional)",
                "use another token",
            )
        permit.begin()
        tpm2.add_keys(token, pin or "", keys, aes_bits=min(bits, able.aes_bits), hash_bits=_hash_bits(bits, able))

    await hsm.hosting.without_module(add)


def _hash_bits(bits: int, able: tpm2.TpmAbilities) -> int:
    """Return the bits of the HMAC key beside an AES key of this size (RFC 7518, 5.2): a TPM's HMAC key is of one
    hash."""
    return able.hash_bits if min(bits, able.aes_bits) == 256 else 256


async def made(keyring: Keyring, cka_id: bytes, kind: Kind, *, pair: bool = False) -> Made:
    """Return the key that was made, from a fresh look. Raises Conflict if it is gone again."""
    await keyring.look()
    inventory = keyring.inventory
    found = [key for key in inventory.keys if key.cka_id == cka_id and key.token.kind == kind]
    if len(found) > 1:
        raise Conflict(f"the key was made, and {len(found)} keys have its key id", SAME_ID_HINT)
    for key in found:
        return Made(key, created=True, companion=inventory.companion(key) if pair else None)
    raise Conflict("the key was made and is gone again", "look for another program that uses this token")


def newest_of(keyring: Keyring, label: str) -> int:
    """Return when the newest of the keys was made that have or had this label, in milliseconds: the next one must be
    newer."""
    return max((key.created_ms for key in keyring.inventory.keys if role(key.label) == label), default=0)
