"""The errors of a call to kmsd, as its clients see them.

    ClientError
    |-- InvalidRequest   can never succeed: a bad argument, or a target that is none
    |-- Unreachable      no kmsd answers there
    |-- Denied           no permission on the socket, a certificate was refused, or kmsd or the token refused
    |-- NotFound         no such key
    |-- Conflict         the label or key id is taken, or the state of the key or token forbids it
    |-- Unhealthy        kmsd answered that it, or its token, cannot serve now
    |-- Overloaded       kmsd answered that one of its bounds was reached
    `-- Outdated         this kmsd does not know the call

Knows nothing of gRPC: `code` is the name of a canonical status code.
"""

from __future__ import annotations


class ClientError(Exception):
    """A failed call.

    message: what failed; one sentence without a full stop.
    hint: what the operator should do; may be empty.
    code: name of the canonical gRPC status code (https://grpc.io/docs/guides/status-codes/).
    retryable: whether the same call, unchanged, may succeed later.
    """

    def __init__(self, message: str, hint: str = "", code: str = "UNKNOWN", *, retryable: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.code = code
        self.retryable = retryable


class InvalidRequest(ClientError):
    """Raised for what is wrong in the request itself."""


class Unreachable(ClientError):
    """Raised if no kmsd answers."""


class Denied(ClientError):
    """Raised if the caller, or the PIN, is refused."""


class NotFound(ClientError):
    """Raised if what the request names is not there."""


class Conflict(ClientError):
    """Raised if the state of keys or tokens does not allow what is asked."""


class Unhealthy(ClientError):
    """Raised if kmsd answers and cannot do it."""


class Overloaded(ClientError):
    """Raised if kmsd has more to do than it has room for."""


class Outdated(ClientError):
    """Raised if kmsd is too old to know the call."""
