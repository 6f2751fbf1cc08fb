"""`kmsctl keygen`, which is `kmsctl keys generate` too."""

from __future__ import annotations

import time
from enum import StrEnum
from typing import Annotated, Final

import typer

from kmsctl import diagnostics, documents, keyview, options, waiting
from kmsctl.diagnostics import UsageError
from kmsctl.options import KeyId, Label, Options, TokenName
from kmsctl.waiting import WAIT, wait_for
from kmsd.client import GeneratedKey, KeyType, Status, connect


class KeyTypeOption(StrEnum):
    """A type of key that can be made."""

    AES = "aes"
    HMAC = "hmac"
    PAIR = "pair"
    RSA = "rsa"
    EC_P256 = "ec-p256"
    EC_P384 = "ec-p384"
    EC_P521 = "ec-p521"
    RSA_2048 = "rsa-2048"
    RSA_3072 = "rsa-3072"
    RSA_4096 = "rsa-4096"


class PurposeOption(StrEnum):
    """A purpose that a key can be made for, beside encrypting."""

    JWT = "jwt"


class Bits(StrEnum):
    """A length that a key can have."""

    B128 = "128"
    B192 = "192"
    B256 = "256"
    B2048 = "2048"
    B3072 = "3072"
    B4096 = "4096"


_USUAL_BITS: Final = 256
_SIGNING: Final = tuple(each for each in KeyTypeOption if "-" in each)
"""The types of key pairs that sign."""


def keygen(
    ctx: typer.Context,
    label: Label,
    kind: Annotated[
        KeyTypeOption | None,
        typer.Option("--type", help="Type of the key. Default: what serves on the token.", show_default=False),
    ] = None,
    bits: Annotated[Bits | None, typer.Option("--bits", help="Length of the key in bits.", show_default=False)] = None,
    purpose: Annotated[
        PurposeOption | None,
        typer.Option(
            "--purpose",
            help="What it is for: jwt signs service account tokens. Default: it encrypts.",
            show_default=False,
        ),
    ] = None,
    key_id: KeyId = "",
    token: TokenName = "",
    if_not_exists: Annotated[
        bool, typer.Option("--if-not-exists", help="If the label is taken, show the key that holds it.")
    ] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until kmsd answers and its token is there.")] = False,
    output_format: options.Output = None,
    target: options.Target = None,
    timeout: waiting.Timeout = None,
) -> None:
    """\b
    Examples:
      kmsctl {command} k8s-kek --if-not-exists --wait
      kmsctl {command} spare-kek --bits 128 -o json
      kmsctl {command} cbc-kek --type pair
      kmsctl {command} sa-signer --type ec-p256 --purpose jwt --if-not-exists

    Make a key on the token, which it never leaves.

    A label that is taken is a conflict (exit code 6), or with --if-not-exists a success.
    With --wait, a kmsd that starts, or whose token is away, is waited for: a node's script needs no loop.
    Without --type it is what serves on the token: an AES key, or where AES-GCM does not work a pair. A key that holds
    the label and cannot serve there is a conflict, too: `kmsctl rotate` makes a pair in its place.
    A pair is an AES key and an HMAC key that share a key id: what AES-CBC needs.
    An RSA key (3072 bits, on a TPM 2048) is for tokens without AES, with --algorithm rsa-oaep; others have 256 bits.
    The types that end in a length are key pairs that sign, with --purpose jwt; without --type it is ec-p256.
    """
    opts = options.gather(ctx, target=target, output=output_format)
    form = opts.form(*keyview.FORMATS)
    _check(kind, bits, purpose, key_id)
    patience = opts.timeout if timeout is None else timeout
    if wait:
        patience = _wait(opts, token, WAIT if timeout is None else timeout)
    with connect(opts.target, timeout=patience) as kmsd, diagnostics.working("the token makes a key"):
        made = kmsd.generate_key(
            label,
            type=_type(kind, purpose),
            bits=_number(kind, bits),
            key_id=key_id,
            if_not_exists=if_not_exists,
            token=token,
            purpose=purpose.value if purpose is not None else "",
        )
    keyview.emit_one(
        {
            "created": made.created,
            "key": documents.of(made.key),
            "companion": documents.or_none(made.companion),
        },
        made.key,
        form,
        made.companion,
    )
    if not made.created:
        diagnostics.note(f"the key {label!r} was there already; nothing was made")
    elif kind is None and made.companion is not None:
        diagnostics.note("AES-GCM is not used on this token: a pair was made, an AES key and an HMAC key")
    _compare(made, kind, bits, key_id, token)
    keyview.next_step(made.key)


def _wait(opts: Options, token: str, seconds: float) -> float:
    """Wait until kmsd answers and the token is up, or so long. Return the seconds that are left for making a key."""
    started = time.monotonic()

    def look(patience: float) -> Status:
        with connect(opts.target, timeout=patience) as kmsd:
            return kmsd.get_status()

    def against(status: Status) -> str:
        named = [each for each in status.tokens if each.name == token]
        up = named[0].token.up if named else status.token.up
        return "" if up else status.healthz

    wait_for(look, against, seconds, opts.timeout)
    # A token that is still away says why better than an end of patience would.
    return max(opts.timeout, seconds - (time.monotonic() - started))


def _check(kind: KeyTypeOption | None, bits: Bits | None, purpose: PurposeOption | None, key_id: str) -> None:
    """Raise UsageError for options that do not go together."""
    signs = kind in _SIGNING
    if purpose is None and signs:
        raise UsageError(f"a key of type {kind} signs, and encrypts nothing", "say what it signs: --purpose jwt")
    if purpose is None:
        return
    if kind is not None and not signs:
        raise UsageError(
            f"a key of type {kind} signs no tokens", f"choose one of {', '.join(_SIGNING)}, or leave out --purpose"
        )
    if bits is not None or key_id:
        raise UsageError("a key with a purpose has its length in its type, and no key id of yours", "leave both out")


def _type(kind: KeyTypeOption | None, purpose: PurposeOption | None) -> KeyType | None:
    if purpose is not None:
        return KeyType.EC if kind is None else KeyType(kind.value.partition("-")[0])
    return None if kind is None else KeyType(kind.value)


def _number(kind: KeyTypeOption | None, bits: Bits | None) -> int:
    """Return the bits that are asked for; 0 where the token decides what is usual."""
    if bits is not None:
        return int(bits.value)
    if kind in _SIGNING:
        return int(kind.value.partition("-")[2].lstrip("p"))
    return 0 if kind in (None, KeyTypeOption.RSA) else _USUAL_BITS


def _compare(made: GeneratedKey, kind: KeyTypeOption | None, bits: Bits | None, key_id: str, token: str) -> None:
    """Say where a key differs from the one that was asked for: one that was found, or one that an older kmsd made."""
    key = made.key
    wanted = key.type
    if kind is not None:
        wanted = KeyType.AES if kind is KeyTypeOption.PAIR else KeyType(kind.value.partition("-")[0])
    number = _number(kind, bits) or key.bits
    if key.type is not wanted or key.bits != number:
        diagnostics.warning(f"it is {keyview.algorithm(key)}, not {wanted}-{number}")
    if kind is KeyTypeOption.PAIR and made.companion is None:
        diagnostics.warning("no HMAC key is beside it")
    if key_id and key.key_id != key_id:
        diagnostics.warning(f"its key id is {key.key_id!r}, not {key_id!r}")
    if token and key.token != token:
        diagnostics.warning(f"it is on the token {key.token or key.token_label!r}, not {token!r}")
