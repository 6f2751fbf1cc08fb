"""Tell what is wrong with an inventory of keys, in words and with what to do about it. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

from kmsd.errors import Misconfigured, short
from kmsd.keys.judging import Rules
from kmsd.keys.key import Key, KeyState
from kmsd.near import near
from kmsd.problem import About, Calls, Problem

_MAY_NOT_WRITE: Final = "set it, or choose another write label (--p11-key-label) and make its key"
DELETE_PUBLIC: Final = (
    "delete what is not yours (no PIN is needed: pkcs11-tool --delete-object --type secrkey --label LABEL); a key that "
    "you made yourself: kmsctl keys adopt LABEL --public"
)
_NOTHING_WRITES: Final = Calls(code=Misconfigured.code)
"""The calls that `Keyring.why_none` lets fail."""
_NOT_READ: Final = Calls("Decrypt", Misconfigured.code)
"""The calls that `Keyring.find` lets fail."""


def of_writing(
    keys: Sequence[Key],
    writers: Sequence[Key],
    write: Key | None,
    others: Sequence[Key],
    write_label: str,
    where: str,
    rules: Rules,
) -> Iterable[Problem]:
    """Yield why nothing writes, or why a key with the write label does not."""
    if len(writers) > 1:
        yield Problem(
            f"{len(writers)} keys on {where} are labelled {write_label!r}; the newest writes, all read",
            "kmsd relabels the older ones by itself; if this stays, `kmsctl rotate` says why",
            fatal=False,
            passing=True,
            about=_about(writers[-1]),
        )
    fatal = write is None
    told = False
    for key in keys:
        if key.label == write_label and key.token.seals:
            reason, hint = _why_not_writing(key)
            if reason:
                told = True
                if fatal and key.lacks_scheme and rules.algorithm != "aes-gcm":
                    hint = f"`kmsctl rotate` makes a key that serves in its place, and keeps this one; {hint}"
                about = replace(_about(key), calls=_NOTHING_WRITES if fatal else _NOT_READ if key.key_id else None)
                yield Problem(f"key {write_label!r} on {where} cannot serve: {reason}", hint, fatal=fatal, about=about)
    if write is None and not told:
        public = any(key.label == write_label for key in others)
        alike = near(write_label, (key.label for key in keys if key.token.seals))
        yield Problem(
            f"there is no key labelled {write_label!r} on {where}"
            + (", but a public object, which whoever reaches the token may have made" if public else "")
            + (f"; there is {' and '.join(map(repr, alike))}" if alike else ""),
            f"make one: kmsctl keygen {write_label}{rules.new_key}"
            + (f"; if you made the public one yourself: kmsctl keys adopt {write_label} --public" if public else "")
            + (f"; if it is that one: kmsctl keys relabel {_named(alike[0], keys)} {write_label}" if alike else ""),
            fatal=True,
            about=About(key_label=write_label, calls=_NOTHING_WRITES),
        )


def of_planted(public: Sequence[Key], where: str) -> Iterable[Problem]:
    """Yield that public objects pass for keys of kmsd, if any do."""
    planted = [key for key in public if key.state is KeyState.PLANTED]
    if planted:
        names = ", ".join(sorted({repr(key.label or key.key_id)[:80] for key in planted})[:4])
        yield Problem(
            f"public objects on {where} pass for keys of kmsd ({names}, {len(planted)} in all): whoever made them "
            "needed no PIN; they are not used",
            f"find out who reaches the token, then {DELETE_PUBLIC}",
            fatal=False,
            about=_about(planted[0]),
        )


def of_exposed(keys: Sequence[Key], where: str) -> Iterable[Problem]:
    """Yield what the attributes of keys that serve allow, and should not."""
    used = [key for key in keys if key.reads or key.state in (KeyState.COMPANION, KeyState.SIGNING)]
    exposed = [key for key in used if key.token.exposed]
    if exposed:
        shown = ", ".join(f"{key.label!r} is {' and '.join(key.token.exposed)}" for key in exposed[:4])
        more = f", and {len(exposed) - 4} more" if len(exposed) > 4 else ""
        yield Problem(
            f"keys on {where} can be read by whoever has the PIN: {shown}{more}",
            "they serve all the same; to be rid of this, rotate to a key that kmsd makes: kmsctl rotate, or for a key "
            "that signs kmsctl ca roll",
            fatal=False,
            about=_about(exposed[0]),
        )


def of_trusted_public(keys: Sequence[Key], where: str) -> Iterable[Problem]:
    """Yield that the configuration trusts public objects, if it names some that are there."""
    trusted = sorted(key.key_id for key in keys if not key.token.private)
    if trusted:
        yield Problem(
            f"keys.trust_public_objects names {', '.join(map(short, trusted[:4]))} on {where}: whoever reaches the "
            "token can put another key in the place of these without a PIN, and read what is written then",
            "use private keys wherever the token keeps some: kmsctl rotate",
            fatal=False,
            about=About(setting="keys.trust_public_objects"),
        )


def _about(key: Key) -> About:
    return About(key.place, key.key_id, key.label)


def _named(label: str, keys: Iterable[Key]) -> str:
    """Return what names the key with a label on a command line: its label, or its key id where no shell could take
    that."""
    if label.isprintable():
        return shlex.quote(label)
    return next((key.key_id for key in keys if key.label == label and key.key_id), "KEY-ID")


def _why_not_writing(key: Key) -> tuple[str, str]:
    """Return (reason, hint) why this key cannot write; ("", "") if it can."""
    if not key.reads:
        return key.reason, key.hint
    if not key.token.encrypt:
        return (
            "CKA_ENCRYPT is not set, so it only reads",
            _MAY_NOT_WRITE,
        )
    if key.scheme is None:
        return key.reason, key.hint
    return "", ""
