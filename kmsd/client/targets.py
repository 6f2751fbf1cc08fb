"""Find kmsd: a Unix socket, a port by TLS, or a target's name, given by the caller, else the default of kmsd itself.

Knows nothing of gRPC and opens no connection.
"""

from __future__ import annotations

from pathlib import Path

from kmsd import paths
from kmsd.client import clientconfig
from kmsd.client.clientconfig import Target
from kmsd.client.errors import InvalidRequest
from kmsd.client.places import NAMES, SCHEME, Place, TlsOptions, TlsPlace, UnixPlace, flag, parse_tls


def default_target() -> str:
    """Return the admin socket that kmsd uses by default for this user; that of `kmsd dev` if only that exists."""
    return f"unix://{_existing(paths.admin_socket(), paths.dev_admin_socket())}"


def default_kms_socket() -> str:
    """Return the KMS socket, found as `default_target` finds the admin socket."""
    return f"unix://{_existing(paths.kms_socket(), paths.dev_kms_socket())}"


def parse_target(target: str | Target) -> Place:
    """Return where the admin API is that a target means: `unix:///path`, `unix:/path`, `/path`, `tls://host:port`, or
    the name of a target in the configuration file. Raises InvalidRequest.

    The files of a TLS target are those that KMSCTL_TLS_CA and its sisters name, else those of the target in the
    configuration file, else those of the file's [tls]. Whether there are any is for `TlsPlace.check`.
    """
    return _place(target, TlsOptions.from_environment())


def options_of(target: str) -> list[str]:
    """Return the options of a command line that name the same target wherever the configuration file is the same.
    Raises InvalidRequest."""
    words, given = ["--target", target], TlsOptions.from_environment()
    if given == TlsOptions():
        return words
    place, known = _place(target, given), _place(target, TlsOptions())
    if isinstance(place, TlsPlace) and isinstance(known, TlsPlace):
        for name in NAMES:
            value = getattr(place.tls, name)
            if value != getattr(known.tls, name):
                words += [flag(name), value if name == "server_name" else str(Path(value).absolute())]
    return words


def _place(target: str | Target, given: TlsOptions) -> Place:
    address, own = (target, TlsOptions()) if isinstance(target, str) else (target.address, target.tls)
    if clientconfig.is_name(address):
        found = clientconfig.find(address)
        address, own = found.address, found.tls
    if not address.startswith(SCHEME):
        return UnixPlace(_socket(address, "name it as unix:///path/of/the.sock or tls://host:port"))
    place = parse_tls(address)
    return TlsPlace(place.host, place.port, given.over(own).over(clientconfig.load().tls))


def parse_socket(target: str) -> Path:
    """Return the path of the Unix socket in `unix:///path`, `unix:/path` or `/path`. Raises InvalidRequest."""
    return _socket(target, "name it as unix:///path/of/the.sock")


def _socket(target: str, hint: str) -> Path:
    path = target
    if target.startswith("unix:"):
        path = target.removeprefix("unix:")
        path = path.removeprefix("//")
    if target.startswith(("unix-abstract:", "@", "\0")) or path.startswith(("@", "\0")):
        raise _refused(target, hint, "it must be a path in a directory, for an abstract socket has no permissions")
    if not path.startswith("/"):
        raise _refused(target, hint, "it must be a Unix socket, named by its absolute path")
    if "\0" in path:
        raise _refused(target, hint, "a path must hold no NUL")
    if len(path.encode(errors="surrogateescape")) > paths.SOCKET_PATH_MAX:
        raise _refused(target, hint, f"the path of a Unix socket must have {paths.SOCKET_PATH_MAX} bytes at most")
    return Path(path)


def _refused(target: str, hint: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"target {target!r}: {why}", hint, "INVALID_ARGUMENT")


def _existing(first: Path, second: Path) -> Path:
    return second if not _exists(first) and _exists(second) else first


def _exists(path: Path) -> bool:
    try:
        path.stat()
    except PermissionError:
        return True  # what cannot be looked at is for the caller to be told about, not to be passed over
    except OSError:
        return False
    return True
