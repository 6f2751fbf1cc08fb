"""The errors of kmsd, in words an operator can act on.

    KmsdError
    |-- InvalidRequest      the caller sent something that can never succeed
    |   `-- TooLarge        more bytes than any request of its kind has
    |-- NotFound            no such key
    |-- AlreadyExists       the label or the key id is taken
    |-- Conflict            the state of the key or the token forbids it
    |-- Unavailable         the token, or kmsd, cannot serve now; a retry may
    |   `-- WrongResult     the token gave back other bytes than it was given: nothing is encrypted with it
    |       `-- WrongPlaintext  and said that all was well: nothing is decrypted with it either
    |-- Denied              the token refused us: PIN, permissions
    |-- Misconfigured       the configuration or the token needs an operator's hand first
    |-- Overloaded          a bound was reached
    |-- DeadlineExceeded    no answer from the token in time
    `-- Internal            a bug

Knows nothing of gRPC: `code` is the name of a canonical status code, and one place in `kmsd.transport` maps it.
An error never holds a PIN, a plaintext or a ciphertext.
"""

from __future__ import annotations

import re
from typing import ClassVar, Final, Self

_SHOWN: Final = 80
"""Characters that `short` quotes, at most."""
MAX_REASON: Final = 256
"""Characters of a sentence that records of calls keep."""
_SECONDS: Final = re.compile(r"\b\d+(\.\d+)? s\b")


class KmsdError(Exception):
    """A failure, in words an operator can act on.

    message: what failed, on which token or key; one sentence without a full stop.
    hint: what the operator should do; may be empty.
    code: name of the canonical gRPC status code (https://grpc.io/docs/guides/status-codes/).
    retryable: whether the same call, unchanged, may succeed later without an operator's help.
    """

    code: ClassVar[str] = "INTERNAL"
    retryable: ClassVar[bool] = False
    key_id_sha256 = ""
    """Hash of the id of the key with which it failed, for the log and the audit; empty if none is known."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def again(self) -> Self:
        """Return the same failure to be raised once more. One instance raised for many callers would gather their
        tracebacks, and with them their plaintexts."""
        return type(self)(self.message, self.hint)

    def sentence(self) -> str:
        """Return message and hint as one line, for callers that see nothing else (kube-apiserver's log)."""
        return f"{self.message}; {self.hint}" if self.hint else self.message

    @property
    def reason(self) -> str:
        """The sentence as records of calls keep it: at most MAX_REASON characters, and none that moves a cursor."""
        text = printable(self.sentence()[: 2 * MAX_REASON])
        return text if len(text) <= MAX_REASON else text[: MAX_REASON - 3] + "..."

    @property
    def kind(self) -> tuple[str, str]:
        """The code and the message, equal for two failures that differ only in how many seconds something has
        lasted."""
        return self.code, _SECONDS.sub("some s", self.message)


def printable(text: str) -> str:
    """Return the text with every character escaped that moves a cursor, or turns the direction of what follows."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def on_stderr(message: str, hint: str = "") -> str:
    """Return the lines that tell an operator at a terminal what failed. message, hint: each line of them is one."""
    lines = [f"kmsd: error: {printable(line)}\n" for line in message.split("\n") if line]
    return "".join([*lines, *(f"hint: {printable(line)}\n" for line in hint.split("\n") if line)])


def short(text: str) -> str:
    """Quote the beginning of what somebody else sent, as much of it as fits into a sentence: an answer whose sentence
    is longer than gRPC's metadata may be never arrives."""
    return repr(text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "...")


class InvalidRequest(KmsdError):
    """Raised for a request that is wrong in itself."""

    code = "INVALID_ARGUMENT"


class TooLarge(InvalidRequest):
    """Raised if a message has more bytes than its method takes. RESOURCE_EXHAUSTED is what gRPC's libraries answer
    to that."""

    code = "RESOURCE_EXHAUSTED"


class NotFound(KmsdError):
    """Raised if what a request names is not there."""

    code = "NOT_FOUND"


class AlreadyExists(KmsdError):
    """Raised if what is to be made is there already."""

    code = "ALREADY_EXISTS"


class Conflict(KmsdError):
    """Raised if the state of keys or tokens does not allow what is asked."""

    code = "FAILED_PRECONDITION"


class Unavailable(KmsdError):
    """Raised if a token or a file cannot be used now and may be later."""

    code = "UNAVAILABLE"
    retryable = True


class WrongResult(Unavailable):
    """Raised if the token does not do what it says it does, and raises no error."""


class WrongPlaintext(WrongResult):
    """Raised if the token decrypts to other bytes than were encrypted, as if all were well."""


class Denied(KmsdError):
    """Raised if the caller, or the PIN, is refused."""

    code = "PERMISSION_DENIED"


class Misconfigured(KmsdError):
    """Raised if only another configuration, or another key, can help."""

    code = "FAILED_PRECONDITION"


class Overloaded(KmsdError):
    """Raised if more is asked than there is room for."""

    code = "RESOURCE_EXHAUSTED"
    retryable = True


class TooOften(Overloaded):
    """Raised for a caller that has more than its share, whatever the others ask."""


class DeadlineExceeded(KmsdError):
    """Raised if a call was not done in its time."""

    code = "DEADLINE_EXCEEDED"
    retryable = True


class Internal(KmsdError):
    """Raised for a fault of kmsd itself."""

    code = "INTERNAL"
