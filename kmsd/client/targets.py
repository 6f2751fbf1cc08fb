"""Find kmsd: a Unix socket, or a target's name, given by the caller, else the default of kmsd itself.

Knows nothing of gRPC and opens no connection.
"""

from __future__ import annotations

from pathlib import Path

from kmsd import paths
from kmsd.client import clientconfig
from kmsd.client.errors import InvalidRequest


def default_target() -> str:
    """Return the admin socket that kmsd uses by default for this user; that of `kmsd dev` if only that exists."""
    return f"unix://{_existing(paths.admin_socket(), paths.dev_admin_socket())}"


def default_kms_socket() -> str:
    """Return the KMS socket, found as `default_target` finds the admin socket."""
    return f"unix://{_existing(paths.kms_socket(), paths.dev_kms_socket())}"


def parse_target(target: str) -> Path:
    """Return the path of the admin socket that `unix:///path`, `unix:/path`, `/path`, or the name of a target in the
    configuration file means. Raises InvalidRequest."""
    if clientconfig.is_name(target):
        return parse_socket(clientconfig.address_of(target))
    return parse_socket(target)


def parse_socket(target: str) -> Path:
    """Return the path of the Unix socket in `unix:///path`, `unix:/path` or `/path`. Raises InvalidRequest."""
    path = target
    if target.startswith("unix:"):
        path = target.removeprefix("unix:")
        path = path.removeprefix("//")
    if target.startswith(("unix-abstract:", "@", "\0")) or path.startswith(("@", "\0")):
        raise _refused(target, "it must be a path in a directory, for an abstract socket has no permissions")
    if not path.startswith("/"):
        raise _refused(target, "it must be a Unix socket, named by its absolute path")
    if "\0" in path:
        raise _refused(target, "a path must hold no NUL")
    if len(path.encode(errors="surrogateescape")) > paths.SOCKET_PATH_MAX:
        raise _refused(target, f"the path of a Unix socket must have {paths.SOCKET_PATH_MAX} bytes at most")
    return Path(path)


def _refused(target: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"target {target!r}: {why}", "name it as unix:///path/of/the.sock", "INVALID_ARGUMENT")


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
