"""Judge the fields of an EncryptionConfiguration one by one, as kube-apiserver reads them. Pure.

Source of the rules: see `encryption_rules`. A fault names what is wrong with a secret, and never the secret.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

_UNITS: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)")
_DURATION = re.compile(rf"([+-]?)((?:{_PART.pattern})+|0)")
_ENDPOINT = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):(?://([^/?#]*))?([^?#]*)(?:[?#].*)?", re.DOTALL)


@dataclass(frozen=True)
class Fault:
    """A reason for which kube-apiserver does not start with a file. where: in the document, as kube-apiserver writes
    it. fix: what to do."""

    where: str
    text: str
    fix: str


def unknown(where: str, found: Mapping[Any, Any], known: set[str] | frozenset[str]) -> Iterator[Fault]:
    """Yield the fields that strict decoding refuses; names count as they are written."""
    for name in found:
        if name not in known:
            text = f"unknown field {str(name)[:60]!r}"
            yield Fault(where, text, f"it has {', '.join(sorted(known)) or 'none'}: correct the name, or take it out")


def cachesize(where: str, size: object, api: str) -> Iterator[Fault]:
    """Yield what is wrong with the cache of a KMS provider. api: v1 or v2."""
    if size is None:
        return
    if not isinstance(size, int) or isinstance(size, bool) or not -(2**31) <= size < 2**31:
        yield Fault(where, "it is no number of 32 bits", "leave it out for 1000")
    elif api != "v1":
        yield Fault(where, "v2 has no cachesize", "leave it out")
    elif size == 0:
        yield Fault(where, "it must not be 0", "leave it out for 1000; a negative one switches the cache off")


def socket_of(where: str, endpoint: str) -> tuple[str, list[Fault]]:
    """Return the path that is dialled; empty if there is none."""
    fix = "write unix:///run/kmsd/kms.sock"
    if not endpoint:
        return "", [Fault(where, "the endpoint is missing", fix)]
    found = _ENDPOINT.fullmatch(endpoint)
    if found is None or found[1].lower() != "unix":
        scheme = repr(found[1]) if found else "none"
        return "", [Fault(where, f"the scheme of the endpoint must be unix, got {scheme}", fix)]
    path = found[3]
    return (path.removeprefix("/") if path.startswith("/@") else path), []


def keys(where: str, body: Mapping[str, Any], sizes: Sequence[int]) -> Iterator[Fault]:
    """Yield what is wrong with the keys of a provider that has them in the file. sizes: bytes that one may have."""
    yield from unknown(where, body, {"keys"})
    found = body.get("keys")
    if not isinstance(found, list) or not found:
        yield Fault(f"{where}.keys", "at least one key is required", "give it a name and a secret")
        return
    for at, key in enumerate(found):
        place = f"{where}.keys[{at}]"
        if not isinstance(key, dict):
            yield Fault(place, "it is no mapping", "give it a name and a secret")
            continue
        yield from unknown(place, key, {"name", "secret"})
        if not key.get("name"):
            yield Fault(f"{place}.name", "the name is missing", "name the key")
        yield from _secret(f"{place}.secret", key.get("secret"), sizes)


def _secret(where: str, secret: object, sizes: Sequence[int]) -> Iterator[Fault]:
    if not secret or not isinstance(secret, str):
        yield Fault(where, "the secret is missing", "give it in base64")
        return
    try:
        length = len(base64.b64decode(secret.replace("\n", "").replace("\r", ""), validate=True))
    except (binascii.Error, ValueError):
        yield Fault(where, "the secret is not base64", "encode it with base64 -w0")
        return
    if length not in sizes:
        wanted = " or ".join(map(str, sizes))
        yield Fault(where, f"the secret must have {wanted} bytes, and has {length}", "make one of that length")


def duration(text: object) -> float | None:
    """Return the seconds of a duration of Go (time.ParseDuration), which metav1.Duration is; None if it is none."""
    found = _DURATION.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        return None
    seconds = sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(found[2]))
    return -seconds if found[1] == "-" else seconds
