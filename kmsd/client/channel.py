"""The one place that makes gRPC channels to kmsd, and reads the files that one by TLS needs."""

from __future__ import annotations

import contextlib
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

import grpc

from kmsd.client.errors import ClientError, Denied, InvalidRequest
from kmsd.client.places import Place, TlsPlace, UnixPlace, flag

if TYPE_CHECKING:
    from kmsd.tlsfiles import TlsFileError

_OPTIONS: Final = (
    ("grpc.enable_http_proxy", 0),
    # A client that watches kmsd comes back soon after kmsd does; the defaults wait up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
    # Octets of a stream that are fetched before they are read. A reader that takes its time then gets a few large
    # messages from kmsd, and not thousands of small ones late: each costs both sides the same, however small.
    ("grpc.http2.lookahead_bytes", 2048),
    ("grpc.http2.bdp_probe", 0),
)
_TLS_OPTIONS: Final = (
    # A channel that is made with new files must not be given the connection of one with the old ones.
    ("grpc.use_local_subchannel_pool", 1),
    # A stream that waits for news learns that the other machine is gone.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 5_000),
)


_EXPLAIN: Final = 1.0
"""Seconds of the time for a call that are kept to find out why there is no connection."""
_CONNECT_MOST: Final = 20.0
"""Seconds for one attempt to connect, at the most."""


class Connection:
    """The channel to a place; nothing is dialled until it is used. Threads may share one.

    timeout: seconds for an attempt to connect by TLS. Raises InvalidRequest, Denied for files that cannot be used.
    """

    def __init__(self, place: Place, timeout: float) -> None:
        self.place = place
        self._timeout = timeout
        self._lock = Lock()
        self._doubted = False
        self._files = _read(place) if isinstance(place, TlsPlace) else None
        self._channel = self._open()
        self._former: grpc.Channel | None = None

    @property
    def channel(self) -> grpc.Channel:
        """The channel for the next call."""
        if self._doubted:
            with self._lock:
                self._renew()
        return self._channel

    def doubt(self) -> None:
        """Look before the next call whether there are other files, after one that these may have failed."""
        self._doubted = self._files is not None

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()
        if self._former is not None:
            self._former.close()

    def _renew(self) -> None:
        # While the new files are wrong, as when one of two has been replaced, the old ones stay in force.
        with contextlib.suppress(ClientError):
            files = _read(self.place) if isinstance(self.place, TlsPlace) else None
            self._doubted = False
            if files != self._files:
                self._files = files
                # What goes on over the old channel may end there, until there is a third one.
                ended, self._former, self._channel = self._former, self._channel, self._open()
                if ended is not None:
                    ended.close()

    def _connect_seconds(self) -> float:
        """Return the seconds for one attempt to connect: some are left to find out why it failed."""
        return max(0.1, min(self._timeout - min(_EXPLAIN, self._timeout / 2), _CONNECT_MOST))

    def _open(self) -> grpc.Channel:
        if self._files is None or isinstance(self.place, UnixPlace):
            # gRPC reads a unix: target as a URI and undoes percent-encoding.
            return grpc.insecure_channel(f"unix:{quote(str(self.place))}", options=_OPTIONS)
        ca, certificate, key = self._files
        options = (
            *_OPTIONS,
            *_TLS_OPTIONS,
            # How long an attempt to connect may take, in spite of its name.
            ("grpc.min_reconnect_backoff_ms", round(1000 * self._connect_seconds())),
            ("grpc.ssl_target_name_override", self.place.server_name),
        )
        credentials = grpc.ssl_channel_credentials(ca, key, certificate)
        return grpc.secure_channel(f"dns:///{self.place.host_and_port}", credentials, options)


def _read(place: TlsPlace) -> tuple[bytes, bytes, bytes]:
    """Return the CA, the certificate and the key, once they are known to fit together. Raises InvalidRequest,
    Denied."""
    from kmsd import tlsfiles

    place.check()
    paths = Path(place.tls.ca), Path(place.tls.certificate), Path(place.tls.key)
    try:
        ca, certificate = tlsfiles.read(flag("ca"), paths[0]), tlsfiles.read(flag("certificate"), paths[1])
        key = tlsfiles.read(flag("key"), paths[2], secret=True)
        tlsfiles.make_context((paths[0], ca), (paths[1], certificate), paths[2], server=False)
    except tlsfiles.TlsFileError as error:
        raise _wrong_file(place, error) from None
    return ca, certificate, key


def _wrong_file(place: TlsPlace, error: TlsFileError) -> InvalidRequest | Denied:
    message = f"target {place} cannot be asked: {error.message}"
    if error.denied:
        return Denied(message, "run this as who may read it, or give that user a file of its own", "PERMISSION_DENIED")
    return InvalidRequest(message, error.hint or "give the right file", "INVALID_ARGUMENT")
