"""Keys as objects on the token: listing, making, naming. Each function runs on a thread with a session.

Knows CKA_LABEL and CKA_ID as bytes; what a label or an id means is the keyring's business.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, TypeVar

from kmsd.errors import Conflict, DeadlineExceeded
from kmsd.hsm.ckr import CkrError
from kmsd.hsm.doctor.findings import PROBE_LABEL
from kmsd.hsm.host import calls
from kmsd.hsm.host import cryptoki as c
from kmsd.hsm.host.cryptoki import Template
from kmsd.hsm.host.session import TokenSession, rsa_numbers_of
from kmsd.hsm.operation import Operation, operation
from kmsd.hsm.purpose import Purpose, signing_purpose

T = TypeVar("T")

Kind = Literal["aes", "hmac", "rsa", "ec", "other"]
"""The kind of a key. rsa, ec: a private key, with its public key object if it has one."""

_ATTRIBUTES: Final = (
    c.CKA_LABEL,
    c.CKA_ID,
    c.CKA_KEY_TYPE,
    c.CKA_VALUE_LEN,
    c.CKA_ENCRYPT,
    c.CKA_DECRYPT,
    c.CKA_SIGN,
    c.CKA_VERIFY,
    c.CKA_SENSITIVE,
    c.CKA_EXTRACTABLE,
    c.CKA_PRIVATE,
    c.CKA_LOCAL,
    c.CKA_ALWAYS_SENSITIVE,
    c.CKA_NEVER_EXTRACTABLE,
)
_PRIVATE_ATTRIBUTES: Final = tuple(each for each in _ATTRIBUTES if each != c.CKA_VALUE_LEN)
_USAGES: Final = (
    *(c.CKA_ENCRYPT, c.CKA_DECRYPT, c.CKA_SIGN, c.CKA_VERIFY),
    *(c.CKA_WRAP, c.CKA_UNWRAP, c.CKA_DERIVE),
)
SECRET: Final[Template] = {c.CKA_PRIVATE: True, c.CKA_SENSITIVE: True, c.CKA_EXTRACTABLE: False}
_CLASSES: Final[dict[Kind, Template]] = {
    "rsa": {c.CKA_CLASS: c.CKO_PRIVATE_KEY, c.CKA_KEY_TYPE: c.CKK_RSA},
    "ec": {c.CKA_CLASS: c.CKO_PRIVATE_KEY, c.CKA_KEY_TYPE: c.CKK_EC},
}
"""Attributes by which the objects of a kind are found; all others are secret keys."""
CURVES: Final = {
    256: bytes.fromhex("06082a8648ce3d030107"),
    384: bytes.fromhex("06052b81040022"),
    521: bytes.fromhex("06052b81040023"),
}
"""CKA_EC_PARAMS of the curves that are used: their object identifiers as DER (RFC 5480, 2.1.1.1), by size in bits."""
PUBLIC_MOST: Final = 256
"""Public objects that are described; more are only counted. Anybody who reaches the token can make them."""
NOT_AS_MADE: Final = "the new key does not read back as it was made"
"""The name of the CkrError of a key that is there, but not as one whole key."""
_TRIES: Final = 4
_READ_PAUSES: Final = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
"""Seconds between two looks for a key that was made just now."""
_PASSING: Final = frozenset({"CKR_OBJECT_HANDLE_INVALID", "CKR_KEY_HANDLE_INVALID", "CKR_GENERAL_ERROR"})
"""The answers that SoftHSM gives now and then while others change objects: look again, and believe what is seen."""


@dataclass(frozen=True, slots=True)
class TokenKey:
    """A secret or private key as the token describes it.

    encrypt: of an RSA key whether it decrypts, for what its public half does needs no token.
    sensitive to never_extractable: None if the token does not tell (PKCS#11 3.0, 4.8 and 4.9).
    """

    label: str
    cka_id: bytes
    kind: Kind
    bits: int
    """The size of the key in bits; 0 if the token does not tell."""
    encrypt: bool
    decrypt: bool
    sign: bool
    verify: bool
    sensitive: bool | None
    extractable: bool | None
    private: bool
    local: bool | None = None
    """CKA_LOCAL: whether the key was generated on this token rather than imported; None if the token does not tell."""
    always_sensitive: bool | None = None
    never_extractable: bool | None = None

    @property
    def purpose(self) -> Purpose:
        """The purpose of the key: what it encrypts, or signs."""
        if self.kind in ("rsa", "ec"):
            return signing_purpose(self.cka_id) or "kek"
        return "hmac" if self.kind == "hmac" else "kek"

    @property
    def seals(self) -> bool:
        """Whether data is encrypted under it, as it is not under an HMAC key, nor under one that signs."""
        return self.kind == "aes" or (self.kind == "rsa" and self.purpose == "kek")

    @property
    def exposed(self) -> tuple[str, ...]:
        """The attributes that a key of a KMS should not have: its value can be read, or taken away wrapped."""
        told = {"EXTRACTABLE": self.extractable is True, "not SENSITIVE": self.sensitive is False}
        return tuple(words for words, holds in told.items() if holds)


class KeyListing(NamedTuple):
    """The keys on a token, in its order. keys: private objects, which only a program with the PIN can have made, and
    the public ones that the configuration trusts. public: other public objects, at most PUBLIC_MOST. more: how many
    public objects there are beyond those."""

    keys: tuple[TokenKey, ...]
    public: tuple[TokenKey, ...] = ()
    more: int = 0


@operation(Operation.LIST_KEYS)
def list_keys(session: TokenSession, rsa: bool = False, signing: bool = False) -> KeyListing:
    """List the secret keys on the token, without those of a probe at work; with `rsa` the RSA private keys, too, and
    with `signing` the private keys that sign.

    Raises CkrError.
    """
    kinds: tuple[Kind, ...] = ("aes", "rsa") if rsa else ("aes",)
    keys = [key for kind in kinds for key in _find(session, {}, kind)]
    for cka_id in sorted(session.trusted_public):
        keys.extend(key for kind in kinds for key in _find(session, _by_id(cka_id), kind) if not key.private)
    if signing:
        keys.extend(key for kind in ("ec", "rsa") if kind not in kinds for key in _find(session, {}, kind, signs))
    public: list[TokenKey] = []
    more = 0
    for kind in (*kinds, "ec") if signing else kinds:
        found, beyond = _public(session, kind, PUBLIC_MOST - len(public))
        public.extend(key for key in found if key.cka_id not in session.trusted_public)
        more += beyond
    session.check_login()
    return KeyListing(tuple(key for key in keys if not key.label.startswith(PROBE_LABEL)), tuple(public), more)


def _public(session: TokenSession, kind: Kind, most: int) -> tuple[list[TokenKey], int]:
    """Describe up to `most` public objects of a kind, and count the others. Raises CkrError."""
    template = {**_class_of(kind), c.CKA_PRIVATE: False}

    def described() -> tuple[list[TokenKey], int]:
        handles = session.cryptoki.find(session.handle, template)
        sizes = _Sizes(session, template)
        found = [_describe(session, handle, sizes, kind) for handle in handles[:most]]
        # A token that does not search by this attribute shows private objects, too.
        return [key for key in found if not key.private], max(0, len(handles) - most)

    return _repeated(described)


def _find(
    session: TokenSession, template: Template, kind: Kind = "aes", wanted: Callable[[bytes], bool] | None = None
) -> list[TokenKey]:
    """Find the secret keys of ours on the token that match, described; for "rsa" and "ec" the private ones. wanted: by
    CKA_ID."""
    return [key for _, key in objects(session, template, kind, wanted)]


def signs(cka_id: bytes) -> bool:
    """Return whether a private key with this CKA_ID is one that signs."""
    return signing_purpose(cka_id) is not None


def objects(
    session: TokenSession, template: Template, kind: Kind, wanted: Callable[[bytes], bool] | None = None
) -> list[tuple[int, TokenKey]]:
    """Find what `_find` finds, with the handles. Public objects, which anybody may have made, only if the template asks
    for them."""
    whole = {**_class_of(kind), **session.trusted(template.get(c.CKA_ID)), **template}
    public = template.get(c.CKA_PRIVATE) is False

    def described() -> list[tuple[int, TokenKey]]:
        handles = session.cryptoki.find(session.handle, whole)
        if wanted is not None:
            handles = [each for each in handles if wanted(_id_of(session, each))]
        sizes = _Sizes(session, whole)
        found = [(handle, _describe(session, handle, sizes, kind)) for handle in handles]
        # A token that does not search by this attribute shows others, too.
        return [(handle, key) for handle, key in found if key.private is not public or _trusts(session, key)]

    return _repeated(described)


def _id_of(session: TokenSession, handle: int) -> bytes:
    return session.cryptoki.attributes(session.handle, handle, (c.CKA_ID,)).get(c.CKA_ID, b"")


def _trusts(session: TokenSession, key: TokenKey) -> bool:
    return key.cka_id in session.trusted_public and not signs(key.cka_id)


def _class_of(kind: Kind) -> Template:
    return {**_CLASSES.get(kind, {c.CKA_CLASS: c.CKO_SECRET_KEY}), c.CKA_TOKEN: True}


def _repeated(look: Callable[[], T]) -> T:
    """Return what `look` sees, looked for again while other processes change objects. Raises CkrError."""
    for last in range(_TRIES, 0, -1):
        try:
            return look()
        except CkrError as error:
            # A key made or destroyed between the two calls, by us or by another process.
            if error.name not in _PASSING or last == 1:
                raise
    raise AssertionError("unreachable")


class _Sizes:
    """The sizes of AES keys on a token that has no CKA_VALUE_LEN to read: searching by it may work all the same."""

    def __init__(self, session: TokenSession, template: Template) -> None:
        self._session = session
        self._template = template
        self._handles: dict[int, frozenset[int]] = {}

    def of(self, handle: int) -> int:
        """Return the size in bits, or 0. Raises CkrError."""
        for size in (32, 24, 16):
            if size not in self._handles:
                sized = {**self._template, c.CKA_KEY_TYPE: c.CKK_AES, c.CKA_VALUE_LEN: size}
                try:
                    self._handles[size] = frozenset(self._session.cryptoki.find(self._session.handle, sized))
                except CkrError as error:
                    if error.name in _PASSING:
                        raise
                    self._handles[size] = frozenset()
            if handle in self._handles[size]:
                return size * 8
        return 0


def _describe(session: TokenSession, handle: int, sizes: _Sizes, found_as: Kind) -> TokenKey:
    rsa, ec = found_as == "rsa", found_as == "ec"
    size = c.CKA_MODULUS if rsa else c.CKA_EC_PARAMS
    told_by = (*_PRIVATE_ATTRIBUTES, size) if rsa or ec else _ATTRIBUTES
    raw = session.cryptoki.attributes(session.handle, handle, told_by)

    def flag(attribute: int) -> bool:
        return raw.get(attribute, b"\0") != b"\0"

    def told(attribute: int) -> bool | None:
        return raw[attribute] != b"\0" if raw.get(attribute) else None

    def number(attribute: int) -> int:
        value = raw.get(attribute, b"")
        return ctypes.c_ulong.from_buffer_copy(value).value if len(value) == ctypes.sizeof(ctypes.c_ulong) else 0

    kind = found_as if rsa or ec else _kind(number(c.CKA_KEY_TYPE))
    bits = number(c.CKA_VALUE_LEN) * 8
    if rsa:
        bits = int.from_bytes(raw.get(c.CKA_MODULUS, b""), "big").bit_length()
    elif ec:
        bits = next((bits for bits, oid in CURVES.items() if oid == raw.get(c.CKA_EC_PARAMS)), 0)
    return TokenKey(
        label=raw.get(c.CKA_LABEL, b"").decode("utf-8", "replace"),
        cka_id=raw.get(c.CKA_ID, b""),
        kind=kind,
        bits=bits or (sizes.of(handle) if kind == "aes" else 0),
        encrypt=flag(c.CKA_DECRYPT if rsa else c.CKA_ENCRYPT),
        decrypt=flag(c.CKA_DECRYPT),
        sign=flag(c.CKA_SIGN),
        verify=flag(c.CKA_VERIFY),
        sensitive=told(c.CKA_SENSITIVE),
        extractable=told(c.CKA_EXTRACTABLE),
        private=flag(c.CKA_PRIVATE),
        local=told(c.CKA_LOCAL),
        always_sensitive=told(c.CKA_ALWAYS_SENSITIVE),
        never_extractable=told(c.CKA_NEVER_EXTRACTABLE),
    )


@operation(Operation.GENERATE_KEY, changes=True)
def generate(session: TokenSession, until: float, label: str, cka_id: bytes, kind: Kind, bits: int) -> TokenKey:
    """Make a key and read it back. `session` is read-write. until: see `begin`.

    AES: ENCRYPT and DECRYPT only; HMAC: SIGN and VERIFY only; RSA: DECRYPT, its public half ENCRYPT, only. All TOKEN,
    PRIVATE, SENSITIVE and not EXTRACTABLE (PKCS#11 3.0, 4.9 and 4.10). Raises CkrError.
    """
    begin(until)
    return make_object(session, cka_id, kind, lambda: _generate(session, label, cka_id, kind, bits))


def make_object(session: TokenSession, cka_id: bytes, kind: Kind, make: Callable[[], object]) -> TokenKey:
    """Make a key and read it back. make: makes the one with this CKA_ID. Raises CkrError."""
    for last in range(_TRIES, 0, -1):
        failed: CkrError | None = None
        try:
            make()
        except CkrError as error:
            # The call may have failed after the object was made: what the token shows is what counts.
            if error.name not in _PASSING:
                raise
            failed = error
        found = _read_back(session, cka_id, kind)
        # Another kmsd may have moved the label on already: the identity is what shows that it is this key.
        if len(found) == 1 and found[0].label:
            return found[0]
        if found:
            raise CkrError(NOT_AS_MADE, "C_GenerateKey")
        if failed is None:
            break  # A second one with this identity would make both useless.
        if last == 1:
            raise failed
    raise CkrError("the new key is not to be found", "C_GenerateKey")


def _generate(session: TokenSession, label: str, cka_id: bytes, kind: Kind, bits: int) -> None:
    table = session.cryptoki.table
    if kind == "rsa":
        public, private = new_rsa(bits, label, cka_id)
        calls.generate_key_pair(table, session.handle, c.CKM_RSA_PKCS_KEY_PAIR_GEN, public, private)
    else:
        mechanism = c.CKM_AES_KEY_GEN if kind == "aes" else c.CKM_GENERIC_SECRET_KEY_GEN
        calls.generate_key(table, session.handle, mechanism, new_secret(kind, bits, label, cka_id))


def _read_back(session: TokenSession, cka_id: bytes, kind: Kind) -> list[TokenKey]:
    """Return the keys with this identity; read again after each pause while that is not one with a label."""
    return _settled(lambda: _with_id(session, cka_id, kind), lambda found: len(found) == 1 and bool(found[0].label))


def _settled(look: Callable[[], list[TokenKey]], whole: Callable[[list[TokenKey]], bool]) -> list[TokenKey]:
    """Return what is seen, looked for again after each pause until it is whole: SoftHSM shows a key to nobody, or
    without attributes, while another process changes it, and openCryptoki may show one twice."""
    found = look()
    for pause in _READ_PAUSES:
        if whole(found):
            break
        time.sleep(pause)
        found = look()
    return found


def new_secret(kind: Kind, bits: int, label: str, cka_id: bytes = b"", *, on_token: bool = True) -> Template:
    """Return the template of a new AES or HMAC key. on_token: False for a key that is gone with its session."""
    usage = (c.CKA_ENCRYPT, c.CKA_DECRYPT) if kind == "aes" else (c.CKA_SIGN, c.CKA_VERIFY)
    return {
        **new_object(label, cka_id, on_token),
        **SECRET,
        c.CKA_CLASS: c.CKO_SECRET_KEY,
        c.CKA_KEY_TYPE: c.CKK_AES if kind == "aes" else c.CKK_GENERIC_SECRET,
        c.CKA_VALUE_LEN: bits // 8,
        # Each attribute is given a value, because the token chooses what is left out.
        **{attribute: attribute in usage for attribute in _USAGES},
    }


def new_rsa(bits: int, label: str, cka_id: bytes = b"", *, on_token: bool = True) -> tuple[Template, Template]:
    """Return the templates of a new public and private key. Their usages are few, so that no token has to know all of
    them."""
    both = new_object(label, cka_id, on_token)
    numbers: Template = {c.CKA_MODULUS_BITS: bits, c.CKA_PUBLIC_EXPONENT: b"\x01\x00\x01"}
    public: Template = {**both, **numbers, c.CKA_ENCRYPT: True, c.CKA_VERIFY: False, c.CKA_WRAP: False}
    return public, {**both, **SECRET, c.CKA_DECRYPT: True, c.CKA_SIGN: False, c.CKA_UNWRAP: False}


def new_object(label: str, cka_id: bytes, on_token: bool = True) -> Template:
    """Return what the template of every new key has."""
    return {c.CKA_TOKEN: on_token, c.CKA_LABEL: label.encode(), **_by_id(cka_id)}


@operation(Operation.RELABEL_KEY, changes=True)
def relabel(session: TokenSession, until: float, kind: Kind, cka_id: bytes, label: str, to: str) -> TokenKey:
    """Give the one key of this kind, CKA_ID and label another label, and read it back. `session` is read-write. until:
    see `begin`.

    What another process has done already counts as done now. Raises Conflict if there is no such key, or CkrError.
    """
    begin(until)
    for last in range(_TRIES, 0, -1):
        _one(session, kind, cka_id, {label, to})
        try:
            for handle, key in objects(session, _by_id(cka_id), kind):
                if _is(key, kind, cka_id) and key.label == label:
                    # The private key last: by its label it is known whether all is done.
                    for each in (*public_halves(session, handle, kind), handle):
                        new = {c.CKA_LABEL: to.encode()}
                        calls.set_attributes(session.cryptoki.table, session.handle, each, new)
        except CkrError as error:
            if error.name not in _PASSING or last == 1:
                raise
        found = _one(session, kind, cka_id, {label, to})
        if found.label == to:
            return found
    raise CkrError("the label does not read back as it was set", "C_SetAttributeValue")


@operation(Operation.DESTROY_KEY, changes=True)
def destroy(session: TokenSession, until: float, kind: Kind, cka_id: bytes, label: str) -> None:
    """Destroy the one key of this kind, CKA_ID and label. Cannot be undone. `session` is read-write.

    until: of the monotonic clock; it is asked just before, whatever the looking took. Raises Conflict if there is not
    exactly one, DeadlineExceeded, or CkrError.
    """
    for last in range(_TRIES, 0, -1):
        _one(session, kind, cka_id, {label})
        try:
            for handle, key in objects(session, _by_id(cka_id), kind):
                if _is(key, kind, cka_id) and key.label == label:
                    both = (*public_halves(session, handle, kind), handle)
                    begin(until)
                    for each in both:
                        calls.destroy_object(session.cryptoki.table, session.handle, each)
        except CkrError as error:
            if error.name not in _PASSING or last == 1:
                raise
        if not [key for key in _with_id(session, cka_id, kind) if key.label == label]:
            return
    raise CkrError("the key is still there", "C_DestroyObject")


def begin(until: float) -> None:
    """Begin to change something on the token. Raises DeadlineExceeded if it is later than `until`, by the monotonic
    clock: a token that hung would make the change when it comes back, whatever has been decided since."""
    if time.monotonic() > until:
        raise late()


def late() -> DeadlineExceeded:
    """Return the error of a change whose caller has stopped waiting."""
    return DeadlineExceeded(
        "the token, or another change of its keys, kept this one waiting for longer than its caller waits: nothing was "
        "changed",
        "check the token (kmsctl status), then repeat the call",
    )


def _one(session: TokenSession, kind: Kind, cka_id: bytes, labels: set[str]) -> TokenKey:
    """Return the one key of this kind and CKA_ID, which has one of these labels."""
    found = _settled(
        lambda: [key for key in _with_id(session, cka_id, kind) if key.label in labels], lambda found: len(found) == 1
    )
    if len(found) != 1:
        raise Conflict(
            f"{len(found)} keys of this id are labelled {min(labels)!r}; exactly one is needed",
            "somebody else changes the keys of this token: look with kmsctl keys list, and try again",
        )
    return found[0]


def _kind(key_type: int) -> Kind:
    return "aes" if key_type == c.CKK_AES else "hmac" if key_type in c.CKK_HMAC else "other"


def _with_id(session: TokenSession, cka_id: bytes, kind: Kind) -> list[TokenKey]:
    return [key for key in _find(session, _by_id(cka_id), kind) if _is(key, kind, cka_id)]


def public_halves(session: TokenSession, handle: int, kind: Kind) -> list[int]:
    """Find the public key objects that belong to a private key: with its CKA_ID and, of an RSA key, its numbers: that
    of an EC key does not tell its public key."""
    if kind not in ("rsa", "ec"):
        return []
    cka_id = _id_of(session, handle)
    of_type = {**_CLASSES[kind], c.CKA_CLASS: c.CKO_PUBLIC_KEY, c.CKA_TOKEN: True}
    template = {**of_type, **_by_id(cka_id)}
    if kind == "ec":
        return session.cryptoki.find(session.handle, template) if cka_id else []
    mine = rsa_numbers_of(session, handle)
    return [each for each in session.cryptoki.find(session.handle, template) if rsa_numbers_of(session, each) == mine]


def _by_id(cka_id: bytes) -> Template:
    # A key may lack the attribute where another holds an empty one: no template finds both.
    return {c.CKA_ID: cka_id} if cka_id else {}


def _is(key: TokenKey, kind: Kind, cka_id: bytes) -> bool:
    return key.kind == kind and key.cka_id == cka_id
