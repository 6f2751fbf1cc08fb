"""Put another manifest in the place of one that the kubelet watches, with a copy of the old one elsewhere.

The kubelet starts every file of that folder whose name does not begin with a dot, and looks at names alone: a backup in
there would be a second kube-apiserver. (kubernetes, pkg/kubelet/config/file.go: extractFromDir; file_linux.go)
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from kmsctl.diagnostics import UsageError


def replace(manifest: Path, before: str, after: str, backups: Path) -> Path:
    """Replace a manifest, whole or not at all, and return the copy of the old one. Mode, owner and group stay.

    before: what it is known to hold. backups: a folder for the copy, which is made if it is not there. Raises
    UsageError if the copy would lie where the kubelet looks, if the manifest has changed meanwhile, or if a file cannot
    be written.
    """
    manifest, backups = manifest.resolve(), backups.resolve()
    if backups == manifest.parent:
        raise UsageError(
            f"a copy in {backups} would be started by the kubelet, as a second kube-apiserver",
            "name another folder with --backup-dir",
        )
    try:
        return _replace(manifest, before.encode(), after.encode(), backups)
    except OSError as error:
        raise UsageError(f"cannot write {error.filename or manifest}: {error.strerror}", "run this as root") from error


def _replace(manifest: Path, before: bytes, after: bytes, backups: Path) -> Path:
    found = manifest.stat()
    backups.mkdir(mode=0o700, parents=True, exist_ok=True)
    copy = backups / f"{manifest.name}.{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}"
    _write(os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), before, found)
    _sync(backups)
    # In the same folder, for only there can it take the place of the other at once; the dot hides it from the kubelet.
    descriptor, name = tempfile.mkstemp(dir=manifest.parent, prefix=f".{manifest.name}.")
    try:
        _write(descriptor, after, found)
        _compare(manifest, before)
        Path(name).replace(manifest)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise
    _sync(manifest.parent)
    return copy


def _compare(manifest: Path, before: bytes) -> None:
    if manifest.read_bytes() != before:
        raise UsageError(f"{manifest} has been changed by somebody else meanwhile", "look at it, and try again")


def _write(descriptor: int, data: bytes, like: os.stat_result) -> None:
    with os.fdopen(descriptor, "wb") as file:
        os.fchown(file.fileno(), like.st_uid, like.st_gid)
        os.fchmod(file.fileno(), stat.S_IMODE(like.st_mode))
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
