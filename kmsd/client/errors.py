"""Why a call to kmsd failed, as its clients see it.

    ClientError
    |-- InvalidRequest   can never succeed: a bad argument, or a target that is no Unix socket
    |-- Unreachable      no kmsd answers on the socket
    |-- Denied           no permission on the socket, or kmsd or the token refused
    |-- NotFound         no such key
    |-- Conflict         the label or key id is taken, or the state of the key or token forbids it
    |-- Unhealthy        kmsd answered that it, or its token, cannot serve now
    |-- Overloaded       kmsd answered that one of its bounds was reached
    `-- Outdated         this kmsd does not know the call

Knows nothing of gRPC: `code` is the name of a canonical status code.
"""

from __future__ import annotations


class ClientError(Exception):
    """One failed call.

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
    pass


class Unreachable(ClientError):
    pass


class Denied(ClientError):
    pass


class NotFound(ClientError):
    pass


class Conflict(ClientError):
    pass


class Unhealthy(ClientError):
    pass


class Overloaded(ClientError):
    pass


class Outdated(ClientError):
    pass
