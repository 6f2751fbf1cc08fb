"""One key manager that a proxy asks: the connection to it, and how it does. Knows no API and no server."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Final

import grpc
import grpc.aio

from kmsd.errors import (
    AlreadyExists,
    DeadlineExceeded,
    Denied,
    Internal,
    InvalidRequest,
    KmsdError,
    Misconfigured,
    NotFound,
    Overloaded,
    Unavailable,
    printable,
)
from kmsd.metadata import CALLER, HINT, MAX_MESSAGE, PROXY, PROXY_CHECK
from kmsd.request import on_own_account

if TYPE_CHECKING:
    from kmsd.service.signer import Sign

_FIRST_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 15.0
"""Seconds until an upstream that failed is asked again: from the first up to the second while it goes on failing."""
_MOST_WORDS: Final = 512
"""The most characters that are passed on of what an upstream says."""
_CLOSE_SECONDS: Final = 10.0
"""Seconds that the calls on a replaced connection have to end."""
_UNSIGNED: Final = "PRIVATE_KEY_OPERATION_FAILED"
"""The words of gRPC for a handshake that was not signed."""
_KINDS: Final[dict[str, type[KmsdError]]] = {
    each.code: each
    for each in (
        *(InvalidRequest, NotFound, AlreadyExists, Unavailable, Denied, Misconfigured, Overloaded, DeadlineExceeded),
        Internal,
    )
}
_ITS_OWN: Final = frozenset({"UNAVAILABLE", "DEADLINE_EXCEEDED", "INTERNAL", "UNKNOWN", "CANCELLED", "UNIMPLEMENTED"})
"""Codes of failures that are the upstream's, or the network's to it, whatever was asked."""

Channel = grpc.aio.Channel
Dial = Callable[[str], grpc.aio.Channel]
"""A function that makes a connection to an address."""


def dial(address: str, pem: tuple[bytes, bytes, bytes] | None, name: str, sign: Sign | None = None) -> Channel:
    """Make a connection with TLS and a client certificate; it is brought about when something is asked.

    address: host and port. pem: CA certificates, this side's certificate and its key; None while there are none that
    can be used: then nothing is reached. name: that the other side's certificate must have; empty for the host. sign:
    signs the handshakes, in place of a key that is in no file.
    """
    ca, certificate, key = pem if pem is not None else (b"", None, None)
    if sign is not None and certificate is not None:
        # These load what a key in a file does not need.
        from kmsd.service.signer import credentials as signed_credentials

        credentials = signed_credentials(ca, certificate, sign)
    else:
        credentials = grpc.ssl_channel_credentials(ca or None, key, certificate)
    options: list[tuple[str, str | int]] = [
        ("grpc.max_receive_message_length", MAX_MESSAGE),
        ("grpc.max_send_message_length", MAX_MESSAGE),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.enable_retries", 0),
        ("grpc.initial_reconnect_backoff_ms", 200),
        # This is how long an attempt to connect may take, too; a token may need a while to sign.
        ("grpc.min_reconnect_backoff_ms", 1000 if sign is None else 5000),
        ("grpc.max_reconnect_backoff_ms", 5000),
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 5_000),
    ]
    if name:
        options.append(("grpc.ssl_target_name_override", name))
    return grpc.aio.secure_channel(address, credentials, options)


class UpstreamError(Exception):
    """An upstream did not answer a call, or refused it.

    error: what its caller is to be told. its_own: whether that is the upstream's failure, whatever was asked.
    """

    def __init__(self, error: KmsdError, *, its_own: bool) -> None:
        super().__init__(error.message)
        self.error = error
        self.its_own = its_own


class Upstream:
    """A key manager.

    address: host and port. dial: makes a connection. own_fault: why this side cannot show its certificate; None if it
    can. up: whether it answered last. error: why not. since: Unix seconds
    since which that is so. key_id: that its Status named last. wrong_key: why its key is not the one that is meant,
    None if it is. asked, failed: calls, and those of them that it did not answer. seconds: that its last Status took.
    """

    def __init__(self, address: str, dial: Dial, own_fault: Callable[[], KmsdError | None] = lambda: None) -> None:
        self.address = address
        self.up = False
        self.error: KmsdError = Unavailable(f"{address} has not been asked yet", "try again in a moment")
        self.since = time.time()
        self.key_id = ""
        self.healthz = ""
        self.wrong_key: KmsdError | None = None
        self.asked = self.failed = self.in_flight = 0
        self.seconds = 0.0
        self.answered_at = 0.0
        self._proven = ("", -math.inf)
        self._dial = dial
        self._own_fault = own_fault
        self._channel: grpc.aio.Channel | None = None
        self._pause = _FIRST_PAUSE
        self._again_at = 0.0
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def usable(self) -> bool:
        """Whether calls are to go to it before any that is not usable."""
        return self.up and self.wrong_key is None and self.healthz in ("", "ok")

    def proves(self, key_id: str) -> None:
        """Note that it has just shown that it has the key that it is to have, while it names this one."""
        self._proven = (key_id, monotonic())

    def has_proven(self, key_id: str, seconds: float) -> bool:
        """Return whether it has shown that within so many seconds, has answered since, and names the same key id."""
        proven, at = self._proven
        return self.up and self.wrong_key is None and proven == key_id and monotonic() - at < seconds

    @property
    def due(self) -> bool:
        """Whether one that is away is to be tried again."""
        return monotonic() >= self._again_at

    def renew(self) -> None:
        """Connect anew for calls from now on; those that are under way end on the old connection."""
        channel, self._channel = self._channel, None
        self._again_at = 0.0
        if channel is not None:
            task = asyncio.create_task(channel.close(_CLOSE_SECONDS), name="upstream-close")
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """End the connection."""
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close(None)
        await asyncio.gather(*self._closing, return_exceptions=True)

    async def ask(self, path: str, body: bytes, timeout: float, *, check: bool = False) -> bytes:
        """Ask a method. timeout: seconds. check: whether nobody is behind it but this proxy.
        Raises UpstreamError."""
        if self._channel is None:
            self._channel = self._dial(self.address)
        self.asked += 1
        self.in_flight += 1
        try:
            method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(path)
            metadata = ((CALLER, (PROXY_CHECK if check or on_own_account.get() else PROXY).encode()),)
            answer = await method(body, timeout=max(timeout, 0.001), metadata=metadata)
        except grpc.aio.AioRpcError as error:
            failure = self._failure(error)
            self.failed += failure.its_own
            raise failure from None
        except asyncio.CancelledError:
            raise
        except Exception as error:
            self.failed += 1
            unclear = Unavailable(
                f"key manager {self.address} cannot be asked ({type(error).__name__})", "see kmsd's log"
            )
            raise UpstreamError(unclear, its_own=True) from error
        finally:
            self.in_flight -= 1
        self.answered_at = time.time()
        return answer

    def is_well(self) -> None:
        """Note that it answered as it should."""
        if not self.up:
            self.up, self.since = True, time.time()
        self._pause = _FIRST_PAUSE

    def is_ill(self, error: KmsdError) -> None:
        """Note that it failed with this error: others are asked before it for a while."""
        if self.up or self.error.kind != error.kind:
            self.since = time.time()
        self.up, self.error = False, error.again()
        self._again_at = monotonic() + self._pause * random.uniform(0.8, 1.2)  # noqa: S311 - spreads, hides nothing
        self._pause = min(self._pause * 2, _LONGEST_PAUSE)

    def _failure(self, error: grpc.aio.AioRpcError) -> UpstreamError:
        code = error.code().name
        trailing = dict(error.trailing_metadata() or ())
        told = trailing.get(HINT)
        details = printable((error.details() or "")[:_MOST_WORDS])
        if told is None:
            # The words are gRPC's own, or a stranger's.
            return UpstreamError(self._transport_error(code, details), its_own=True)
        hint = told.decode(errors="replace") if isinstance(told, bytes) else told
        hint = printable(hint[:_MOST_WORDS])
        message = details.removesuffix(f"; {hint}") if hint else details
        kind = _KINDS.get(code, Internal)
        return UpstreamError(kind(f"{message} (key manager {self.address})", hint), its_own=code in _ITS_OWN)

    def _transport_error(self, code: str, details: str) -> KmsdError:
        match code:
            case "DEADLINE_EXCEEDED":
                return DeadlineExceeded(
                    f"key manager {self.address} did not answer in time",
                    "check it and the network to it: kmsctl doctor",
                )
            case "UNAVAILABLE" if _UNSIGNED in details and (fault := self._own_fault()) is not None:
                return Unavailable(f"key manager {self.address} cannot be reached: {fault.message}", fault.hint)
            case "UNAVAILABLE":
                return Unavailable(
                    f"key manager {self.address} cannot be reached: {details or 'no reason is told'}",
                    "check it, the network to it, and both sides' certificates: kmsctl doctor",
                )
        return Unavailable(
            f"what answers at {self.address} is no key manager: {code} {details}".rstrip(),
            "name kmsd's own port with --upstream (server.port of the key manager)",
        )
