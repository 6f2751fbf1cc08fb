"""The sorts of values that settings have, each with what it may be: what every section is made of."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from kmsd import paths
from kmsd.config import pkcs11_uri

SESSIONS = '"auto" or a whole number from 1 to 64'


def socket_path(path: Path) -> Path:
    """Return the path of a socket. Raises ValueError for one that cannot be used."""
    text = str(path)
    if text.startswith(("@", "\0")):
        raise ValueError("a socket must be a path in a directory, for an abstract one has no permissions")
    if not path.is_absolute():
        raise ValueError("the path of a socket must be absolute")
    if len(text.encode()) > paths.SOCKET_PATH_MAX:
        raise ValueError(f"the path of a Unix socket must have {paths.SOCKET_PATH_MAX} bytes at most")
    return path


def optional_socket(path: Path | None) -> Path | None:
    """Return the path of a socket that may be missing. Raises ValueError, as `socket_path` does."""
    return None if path is None else socket_path(path)


def _label(text: str) -> str:
    if not text or len(text.encode()) > 255 or not text.isprintable():
        raise ValueError("a label must have 1 to 255 bytes and no control characters")
    return text


def _host(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._:%-]{1,255}", text):
        raise ValueError("a host must be a name or an IP address, without brackets and without a port")
    return text


def _key_file(path: Path | None) -> Path | None:
    if pkcs11_uri.is_uri(str(path)):
        raise ValueError("expected the path of a file: a key on a token is for kmsd proxy alone")
    return path


def _proxy_key(path: Path | None) -> Path | None:
    if pkcs11_uri.is_uri(str(path)):
        pkcs11_uri.parse(str(path))
    return path


def as_tuple(value: object) -> object:
    """Return a list as a tuple, which does not change, and anything else as it is."""
    return tuple(value) if isinstance(value, list) else value


def _sessions(value: object) -> object:
    if value == "auto" or (isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 64):
        return value
    raise ValueError(f"expected {SESSIONS}")


SocketPath = Annotated[Path, AfterValidator(socket_path)]
Label = Annotated[str, AfterValidator(_label)]
KeyId = Annotated[str, Field(min_length=1, max_length=512)]
KeyFile = Annotated[Path | None, AfterValidator(_key_file)]
ProxyKey = Annotated[Path | None, AfterValidator(_proxy_key)]
Host = Annotated[str, AfterValidator(_host)]
Sessions = Annotated[int | Literal["auto"], BeforeValidator(_sessions)]


class Section(BaseModel):
    """The base of every section: frozen, and without room for unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


Issuers = Annotated[
    tuple[Annotated[str, Field(min_length=1, max_length=1024)], ...], BeforeValidator(as_tuple), Field(max_length=16)
]


def check_listen(text: str) -> str:
    """Return host and port to listen on, or nothing. Raises ValueError for anything else."""
    if text and not (re.fullmatch(r"([A-Za-z0-9._-]{1,253}|\[[0-9a-fA-F:.%]+\]):[0-9]{1,5}", text)):
        raise ValueError("an address to listen on must be host:port, and an IPv6 address in brackets")
    if text and not 1 <= int(text.rpartition(":")[2]) <= 65535:
        raise ValueError("a port must be from 1 to 65535")
    return text
