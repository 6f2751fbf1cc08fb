"""Name what a token can be asked to do: the vocabulary that kmsd and its host processes share.

A function that is marked with `operation` runs in the host process, on a thread with a session of the token or with the
host's own `Place`. Only its name and plain values travel, never code; the types of the values are those of the
function's signature, and both sides check them.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any, Final, TypeVar

import msgspec

F = TypeVar("F", bound=Callable[..., object])


class Operation(StrEnum):
    """The operations; the values are the names in metrics, logs and documentation."""

    RANDOM = "random"
    ENCRYPT_GCM = "encrypt_gcm"
    ENCRYPT_GCM_LEGACY = "encrypt_gcm_legacy"
    DECRYPT_GCM = "decrypt_gcm"
    PROBE_GCM = "probe_gcm"
    ENCRYPT_CBC_HMAC = "encrypt_cbc_hmac"
    DECRYPT_CBC_HMAC = "decrypt_cbc_hmac"
    PROBE_CBC_HMAC = "probe_cbc_hmac"
    PICK_CBC_HMAC = "pick_cbc_hmac"
    DECRYPT_CBC_LEGACY = "decrypt_cbc_legacy"
    ENCRYPT_CBC_BLOCKS = "encrypt_cbc_blocks"
    ENCRYPT_OAEP = "encrypt_oaep"
    DECRYPT_OAEP = "decrypt_oaep"
    PROBE_OAEP = "probe_oaep"
    PICK_OAEP = "pick_oaep"
    SIGN = "sign"
    SIGN_TLS = "sign_tls"
    LIST_PUBLIC_HALVES = "list_public_halves"
    GENERATE_SIGNING_KEY = "generate_signing_key"
    GENERATE_TLS_KEY = "generate_tls_key"
    LIST_TLS_KEYS = "list_tls_keys"
    DESTROY_TLS_KEY = "destroy_tls_key"
    IMPORT_SIGNING_KEY = "import_signing_key"
    LIST_KEYS = "list_keys"
    LIST_NAMELESS_KEYS = "list_nameless_keys"
    GENERATE_KEY = "generate_key"
    RELABEL_KEY = "relabel_key"
    DESTROY_KEY = "destroy_key"
    GIVE_KEY_ID = "give_key_id"
    MAKE_KEY_PRIVATE = "make_key_private"
    FIND_TOKEN = "find_token"  # noqa: S105 - no password
    LOG_IN = "log_in"
    SET_SESSIONS = "set_sessions"
    LIST_SLOTS = "list_slots"
    LIST_MECHANISMS = "list_mechanisms"
    SURVEY = "survey"
    DIAGNOSE = "diagnose"
    LIST_FINDINGS = "list_findings"
    FORGET_KEYS = "forget_keys"
    END = "end"


@dataclass(frozen=True)
class Definition:
    """An operation and the function that does it.

    alone: it runs on a thread of its own, beside those that serve, because it takes long or needs no session.
    changes: it changes what is on the token, so it gets a read-write session of its own and is never repeated.
    """

    name: Operation
    function: Callable[..., object]
    alone: bool
    changes: bool

    @property
    def beside(self) -> bool:
        """Whether it leaves the sessions that serve to the calls."""
        return self.alone or self.changes

    @cached_property
    def _hints(self) -> dict[str, Any]:
        return typing.get_type_hints(self.function)

    @cached_property
    def result(self) -> msgspec.msgpack.Decoder[Any]:
        """The decoder of what the function returns."""
        return msgspec.msgpack.Decoder(self._hints["return"])

    @cached_property
    def _parameters(self) -> list[Any]:
        # The first parameter is the session or the token, which the host supplies.
        return [self._hints[name] for name in list(inspect.signature(self.function).parameters)[1:]]

    def arguments(self, packed: msgspec.Raw) -> tuple[Any, ...]:
        """Return the arguments of one call. Raises msgspec.ValidationError."""
        count = len(msgspec.msgpack.decode(packed, type=list[msgspec.Raw]))
        decoder = _decoders.get((self.name, count))
        if decoder is None:
            types = tuple(self._parameters[:count])
            decoder = _decoders[self.name, count] = msgspec.msgpack.Decoder(tuple[types])  # type: ignore[valid-type]
        values: tuple[Any, ...] = decoder.decode(packed)
        return values


_decoders: Final[dict[tuple[Operation, int], msgspec.msgpack.Decoder[Any]]] = {}
_definitions: Final[dict[Operation, Definition]] = {}
_of: Final[dict[object, Definition]] = {}


def operation(name: Operation, *, alone: bool = False, changes: bool = False) -> Callable[[F], F]:
    """Mark the function that does an operation; see `Definition`."""

    def mark(function: F) -> F:
        _definitions[name] = _of[function] = Definition(name, function, alone, changes)
        return function

    return mark


def definition_of(function: Callable[..., object]) -> Definition:
    """Return what was said of a marked function. Raises KeyError for any other."""
    return _of[function]


def definition(name: str) -> Definition:
    """Return the definition of an operation. Raises KeyError for a name that is none, or whose module is not loaded."""
    return _definitions[Operation(name)]
