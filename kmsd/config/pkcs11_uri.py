"""Read a PKCS#11 URI (RFC 7512) that names one private key on a token, and where the PIN is. Pure.

A PIN in the URI itself is refused, and never repeated: a URI is on a command line, which everybody reads.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import unquote_to_bytes

SCHEME: Final = "pkcs11:"
_PATH: Final = ("token", "manufacturer", "model", "serial", "slot-id", "object", "id", "type")
_QUERY: Final = ("module-path", "module-name", "pin-source")
_WELL_FORMED: Final = re.compile(r"(?:[A-Za-z0-9._~:\[\]@!$'()*+,=&/?|-]|%[0-9A-Fa-f]{2})*")
"""The characters of a value; `|` as one sees it, which a shell quotes."""
_MODULES: Final = ("softhsm", "tpm2", "p11-kit", "luna", "dpod", "cloudhsm", "opencryptoki")
"""Names of modules: `token.provider` knows where each of these lies."""
_ID_MOST: Final = 255


@dataclass(frozen=True)
class TokenKeyUri:
    """A private key on a token, as a URI names it; what it leaves out is empty.

    text: the URI. module: path; provider: where to look for a module that is not named by its path. token,
    manufacturer, model, serial: as the token tells them. slot: its id, None for any. label, cka_id: of the key.
    pin_file: None for a token without a PIN.
    """

    text: str
    module: str
    provider: str
    token: str
    manufacturer: str
    model: str
    serial: str
    slot: int | None
    label: str
    cka_id: bytes
    pin_file: Path | None

    @property
    def where(self) -> str:
        """The URI without its query: which key it is."""
        return self.text.partition("?")[0]


def is_uri(text: str) -> bool:
    """Return whether a text is meant as a PKCS#11 URI."""
    return text[: len(SCHEME)].lower() == SCHEME


def parse(text: str) -> TokenKeyUri:
    """Read a URI. Raises ValueError with a sentence that holds no value of it but those that are harmless."""
    if not is_uri(text):
        raise ValueError("a key on a token must be a URI that begins with pkcs11:")
    if "pin-value" in unquote_to_bytes(text).decode("utf-8", "replace").lower():
        raise ValueError(
            "a PIN in the URI (pin-value) is not taken, for a command line and a configuration are read by others: "
            "name a file with pin-source=file:/path"
        )
    path, _, query = text[len(SCHEME) :].partition("?")
    of_key = dict(_attributes(path, ";", _PATH, "before the question mark"))
    how = dict(_attributes(query, "&", _QUERY, "after the question mark"))
    words = {name: _words(name, value) for name, value in (of_key | how).items() if name != "id"}
    if words.get("type", "private") != "private":
        raise ValueError("type must be private in the URI of a key that signs")
    if not any(words.get(name) for name in ("token", "serial", "slot-id")):
        raise ValueError("the URI must name the token: token=LABEL, serial=NUMBER or slot-id=NUMBER")
    if not words.get("object") and not of_key.get("id"):
        raise ValueError("the URI must name the key: object=LABEL or id=%01%02")
    if len(of_key.get("id", b"")) > _ID_MOST:
        raise ValueError(f"id must have {_ID_MOST} bytes at most")
    if words.get("slot-id", "0").isascii() is False or not re.fullmatch(r"[0-9]{1,20}", words.get("slot-id", "0")):
        raise ValueError("slot-id must be a whole number")
    module, provider = _module(words)
    return TokenKeyUri(
        text=text,
        module=module,
        provider=provider,
        token=words.get("token", ""),
        manufacturer=words.get("manufacturer", ""),
        model=words.get("model", ""),
        serial=words.get("serial", ""),
        slot=int(words["slot-id"]) if "slot-id" in words else None,
        label=words.get("object", ""),
        cka_id=of_key.get("id", b""),
        pin_file=_pin_file(words["pin-source"]) if "pin-source" in words else None,
    )


def _attributes(text: str, between: str, known: tuple[str, ...], place: str) -> Iterator[tuple[str, bytes]]:
    seen = set()
    for part in filter(None, text.split(between)):
        name, equals, value = part.partition("=")
        if name not in known:
            shown = ascii(name[:40])
            raise ValueError(f"{shown} is no attribute that kmsd knows {place} of a URI; it knows {', '.join(known)}")
        if not equals or not value:
            raise ValueError(f"{name} has no value in the URI")
        if name in seen:
            raise ValueError(f"{name} is twice in the URI")
        if not _WELL_FORMED.fullmatch(value):
            raise ValueError(f"the value of {name} has a character that a URI has as %20 and the like alone")
        seen.add(name)
        yield name, unquote_to_bytes(value)


def _words(name: str, value: bytes) -> str:
    try:
        text = value.decode()
    except UnicodeDecodeError:
        raise ValueError(f"the value of {name} is no UTF-8") from None
    if not text.isprintable() or len(value) > 4096:
        raise ValueError(f"the value of {name} must have printable characters, 4096 bytes at most")
    return text


def _module(words: dict[str, str]) -> tuple[str, str]:
    """Return path and provider of the module."""
    path, name = words.get("module-path", ""), words.get("module-name", "")
    if bool(path) == bool(name):
        raise ValueError(
            "the URI must name the module, after a question mark: module-path=/path/of/module.so, or module-name= and "
            f"one of {', '.join(_MODULES)}"
        )
    if path and not path.startswith("/"):
        raise ValueError("module-path must be absolute")
    if name and name not in _MODULES:
        raise ValueError(f"module-name must be one of {', '.join(_MODULES)}; name any other by module-path")
    return path, name or "auto"


def _pin_file(source: str) -> Path:
    path = source.removeprefix("file:").removeprefix("//") if source.startswith("file:") else source
    if not path.startswith("/"):
        raise ValueError("pin-source must be file: and an absolute path")
    return Path(path)
