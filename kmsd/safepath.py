"""Check whether a directory can be relied on: nobody but root and this process' own user can put another in its place.

Walks every component from / down, symbolic links and what they point to included, as the kernel does
(path_resolution(7)). What passes stays as it is: only root and this user could change a component of it. Knows nothing
of what lies there.
"""

from __future__ import annotations

import os
import shlex
import stat
from pathlib import Path
from typing import Final

from kmsd.errors import Misconfigured

_MOST_LINKS: Final = 40
"""The kernel's own limit (path_resolution(7))."""
_MOST_ROUNDS: Final = 4096
"""More than a path has components (PATH_MAX)."""


def check(directory: Path, what: str, *, shared: bool = False) -> bool:
    """Walk down to the directory. Returns whether it is there.

    Every directory on the way belongs to root or this user, and others may write to none but sticky ones, where they
    can replace nothing of ours; every symbolic link belongs to root or this user.
    what: names what lies in it, "the socket", for the sentence. shared: whether the directory itself may be a sticky
    one, too. Raises Misconfigured, which names the component that others could replace and the command that mends it.
    """
    return not _walk(directory, what, shared)[1]


def prepare(directory: Path, what: str, *, mode: int = 0o700, gid: int = -1, shared: bool = False) -> None:
    """Make the directory, and those above it that are missing, where nobody else can interfere, and `check` it.

    mode, gid: of the directory if it is made; those above it get 0755 at the most. Raises Misconfigured.
    """
    for _ in range(_MOST_ROUNDS):
        real, missing = _walk(directory, what, shared)
        if not missing:
            return
        here, last = real / missing[0], len(missing) == 1
        try:
            here.mkdir(0o700 if last else 0o755)
            if last and gid != -1:
                os.chown(here, -1, gid)
            if last:
                here.chmod(mode)  # whatever the umask took away
        except FileExistsError:
            continue  # somebody was quicker: it is walked like any other
        except OSError as error:
            raise Misconfigured(
                f"the directory {here} for {what} cannot be made: {error.strerror}",
                "make it for kmsd, or choose another",
            ) from error
    raise Misconfigured(
        f"the directory {directory} for {what} is removed or replaced as soon as it is made", "choose another"
    )


def stranger(found: os.stat_result) -> bool:
    """Return whether a file belongs neither to root nor to this process' own user."""
    return found.st_uid not in (0, os.geteuid())


def owner() -> str:
    """Return who kmsd runs as, as chown(1) takes it."""
    return "root" if os.geteuid() == 0 else str(os.geteuid())


def _walk(path: Path, what: str, shared: bool) -> tuple[Path, list[str]]:
    """Return the real directory as far as it is there, and the names below it that are not."""
    real = Path("/")
    pending = list(path.absolute().parts[:0:-1])
    links = 0
    _check_directory(real, _examine(real, what), what, shared=True)
    while pending:
        name = pending.pop()
        if name == "..":
            real = real.parent  # which was passed on the way down
            continue
        here = real / name
        try:
            found = _examine(here, what)
        except FileNotFoundError:
            if ".." in pending:
                raise Misconfigured(
                    f"the path {path} has .. behind {here}, which is not there", "choose another"
                ) from None
            return real, [name, *reversed(pending)]
        if not stat.S_ISLNK(found.st_mode):
            _check_directory(here, found, what, shared=True)
            real = here
            continue
        if stranger(found):
            raise Misconfigured(
                f"the symbolic link {here} belongs to user {found.st_uid}, who could point it elsewhere, "
                f"and so replace {what}",
                f"chown -h {owner()} {shlex.quote(str(here))} if it points to the right place, or choose another path",
            )
        links += 1
        if links > _MOST_LINKS:
            raise Misconfigured(
                f"the path {path} leads through more than {_MOST_LINKS} symbolic links", "choose another"
            )
        target = here.readlink()
        if target.is_absolute():
            real = Path("/")
        pending.extend(reversed([part for part in target.parts if part != "/"]))
    if not shared:
        _check_directory(real, _examine(real, what), what, shared=False)
    return real, []


def _examine(path: Path, what: str) -> os.stat_result:
    """Look at one name on the way. Raises FileNotFoundError and, for everything else, Misconfigured."""
    try:
        return os.lstat(path)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise Misconfigured(
            f"{path}, on the way to {what}, cannot be examined: {error.strerror}", "choose another path"
        ) from error


def _check_directory(path: Path, found: os.stat_result, what: str, *, shared: bool) -> None:
    quoted = shlex.quote(str(path))
    if not stat.S_ISDIR(found.st_mode):
        raise Misconfigured(f"{path} is no directory", f"move it away, or choose another path for {what}")
    if stranger(found):
        raise Misconfigured(
            f"the directory {path} belongs to user {found.st_uid}, who could replace {what}",
            f"chown {owner()} {quoted}, or use a directory that belongs to root or to kmsd's own user",
        )
    if found.st_mode & (stat.S_IWOTH | stat.S_IWGRP) and not (shared and found.st_mode & stat.S_ISVTX):
        raise Misconfigured(
            f"others may write to the directory {path} (mode {stat.S_IMODE(found.st_mode):04o}), and so replace {what}",
            f"chmod go-w {quoted}",
        )
