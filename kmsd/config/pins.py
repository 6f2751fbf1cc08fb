"""Read the PIN of a token from where the settings say it is, and warn where others may read it, too.

Never puts a PIN into a message.
"""

from __future__ import annotations

import codecs
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from kmsd import plainfile
from kmsd.config.errors import ConfigError
from kmsd.config.settings import Token
from kmsd.errors import Misconfigured

PIN_MAX = 1024
"""Bytes of a PIN in a file."""


def pin_path(token: Token, environ: Mapping[str, str] = os.environ) -> Path | None:
    """Return the file that holds the PIN, if one is set: a relative one in $CREDENTIALS_DIRECTORY if it is there, else
    in the working directory."""
    return _found(token.pin_file, environ) if token.pin_file is not None else None


def _found(file: Path, environ: Mapping[str, str]) -> Path:
    credentials = environ.get("CREDENTIALS_DIRECTORY")
    if credentials:
        credential = Path(credentials) / file  # an absolute path is itself
        if os.path.lexists(credential):
            return credential
    return file


def read_password(file: Path | None, environ: Mapping[str, str] = os.environ) -> str | None:
    """Return the password of the store: the first line of the file, which is found as a PIN's is. Raises
    Misconfigured."""
    if file is None:
        return None
    path = _found(file, environ)
    hint = f"store.password_file must name a file with the password on its first line that uid {os.geteuid()} may read"
    try:
        line, status = plainfile.read_input(path, PIN_MAX + 2, line=True)
    except OSError as error:
        reason = (error.strerror or "cannot be read").lower()
        raise Misconfigured(f"the password file {path}: {reason}", hint) from None
    if stat.S_ISREG(status.st_mode) and status.st_mode & 0o007:
        raise Misconfigured(f"the password file {path} may be read by every user of this machine", f"chmod o= {path}")
    text = line.removesuffix(b"\n").removesuffix(b"\r").decode(errors="replace")
    if not text or len(line) > PIN_MAX or "\ufffd" in text or "\0" in text:
        raise Misconfigured(f"the first line of the password file {path} is no password", hint)
    return text


def read_pin(token: Token, environ: Mapping[str, str] = os.environ) -> str | None:
    """Return the PIN to log in with, None if none is configured.

    From a file it is the first line without its line end; a pipe can be read only once, and is given 5 s.
    Raises ConfigError if the file is missing, cannot be read, or does not begin with a PIN.
    """
    if token.pin is not None:
        return token.pin.get_secret_value()
    path = pin_path(token, environ)
    if path is None:
        return None
    try:
        line, _ = plainfile.read_input(path, PIN_MAX + len(codecs.BOM_UTF8) + 3, line=True)
    except OSError as error:
        reason = (error.strerror or "cannot be read").lower()
        hint = f"token.pin_file must name a file with the PIN on its first line that uid {os.geteuid()} may read"
        raise ConfigError(f"the PIN file {path}: {reason}", hint) from None
    line = line.removesuffix(b"\n").removesuffix(b"\r").removeprefix(codecs.BOM_UTF8)
    if not line:
        raise ConfigError(f"the PIN file {path}: its first line is empty", "write the PIN on its first line")
    if len(line) > PIN_MAX:
        raise ConfigError(
            f"the PIN file {path}: its first line must have {PIN_MAX} bytes at most", "name the file that holds the PIN"
        )
    text = line.decode(errors="replace")
    if "\ufffd" in text:  # and no exception that holds the bytes
        raise ConfigError(f"the PIN file {path}: its first line is not UTF-8", "write the PIN as UTF-8 text")
    # The token counts a wrong PIN, and locks after a few: what is no PIN is not tried.
    if text != text.strip():
        raise ConfigError(
            f"the PIN file {path}: there is a blank before or after the PIN",
            "remove the blank; if it belongs to the PIN, give the PIN as token.pin",
        )
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
        raise ConfigError(
            f"the PIN file {path}: the PIN is in quotes",
            "remove the quotes; if they belong to the PIN, give the PIN as token.pin",
        )
    return text


def file_warnings(token: Token, environ: Mapping[str, str]) -> Iterator[str]:
    """Yield what is unsafe, or of no use, about the file that holds the PIN."""
    if token.pin is not None and token.pin_file is not None:
        yield "token.pin and token.pin_file are both given: the file is not read"
    if path := pin_path(token, environ):
        try:
            status = path.stat()
        except OSError:
            return  # whoever reads it says why it cannot
        if stat.S_ISREG(status.st_mode) and status.st_mode & 0o007:
            mode = stat.S_IMODE(status.st_mode)
            yield f"{path}: holds the PIN and has mode {mode:04o}: chmod o= {path}"
