"""TLS 1.3 connections to an EST server whose client key is elsewhere: GnuTLS asks a function for the signature.

Python's ssl module takes keys in files alone. Loads the library libgnutls when the first connection is made. Whom it
speaks with is checked by the one certificate that the server is to show, which others have verified before.
"""

from __future__ import annotations

import ctypes
import functools
import http.client
import io
import socket
import ssl
from collections.abc import Callable
from ctypes import POINTER, byref, c_char_p, c_int, c_size_t, c_ssize_t, c_uint, c_void_p
from typing import Any, Final, Literal, NamedTuple

from kmsd.errors import KmsdError, Misconfigured

_LIBRARY: Final = "libgnutls.so.30"
_CLIENT: Final = 1 << 1
_PEM: Final = 1
_CERTIFICATE_CREDENTIALS: Final = 1
_DNS_NAME: Final = 1
_PRIORITY: Final = b"NORMAL:-VERS-ALL:+VERS-TLS1.3"
_NOT_DONE: Final = -1250
"""GNUTLS_E_UNIMPLEMENTED_FEATURE, in place of a signature."""
_SIGN_FAILED: Final = -46
"""GNUTLS_E_PK_SIGN_FAILED."""
_PREMATURE: Final = -110
_INFO_ALGORITHM: Final = 1
_INFO_CAN_SIGN: Final = 1 << 2
_INFO_BITS: Final = 1 << 3
_OF_FLAGS: Final = 20
"""Bits of the flags of an info function below the algorithm that it asks about (GNUTLS_FLAGS_TO_SIGN_ALGO)."""
_PUBLIC_KEY: Final[dict[str, int]] = {"rsa": 1, "ec": 4}
_HASHES: Final[dict[int, Hash]] = {6: "sha256", 7: "sha384", 8: "sha512"}

Hash = Literal["sha256", "sha384", "sha512"]


class Signer(NamedTuple):
    """A client's certificate, and the key that is elsewhere. certificate: PEM. kind, bits: of the key. sign: signs
    what was hashed by this hash as TLS 1.3 wants it of this kind; raises KmsdError."""

    certificate: bytes
    kind: Literal["ec", "rsa"]
    bits: int
    sign: Callable[[Hash, bytes], bytes]


class _Datum(ctypes.Structure):
    _fields_ = (("data", c_void_p), ("size", c_uint))

    @property
    def bytes(self) -> bytes:
        return ctypes.string_at(self.data, self.size) if self.data else b""


class _Certificate(ctypes.Structure):
    """A certificate, as the library has it (gnutls_pcert_st)."""

    _fields_ = (("public", c_void_p), ("certificate", _Datum), ("kind", c_int))


_SIGN = ctypes.CFUNCTYPE(c_int, c_void_p, c_int, c_void_p, c_uint, POINTER(_Datum), POINTER(_Datum))
_INFO = ctypes.CFUNCTYPE(c_int, c_void_p, c_uint, c_void_p)


class TlsError(ssl.SSLError):
    """Raised if a TLS connection failed. reason: as the library has it."""

    def __init__(self, reason: str) -> None:
        super().__init__(1, reason)
        self.reason = reason


@functools.cache
def _library() -> ctypes.CDLL:
    """Return the library. Raises Misconfigured."""
    try:
        library = ctypes.CDLL(_LIBRARY)
    except OSError as error:
        raise Misconfigured(
            f"{_LIBRARY} is not there, with which a certificate is renewed whose key is on a token",
            "install it (Debian, Ubuntu: apt-get install libgnutls30), then try again",
        ) from error
    library.gnutls_strerror.restype = c_char_p
    library.gnutls_certificate_get_peers.restype = POINTER(_Datum)
    for name in ("gnutls_record_send", "gnutls_record_recv"):
        getattr(library, name).restype = c_ssize_t
        getattr(library, name).argtypes = (c_void_p, c_char_p, c_size_t)
    for name in ("gnutls_deinit", "gnutls_certificate_free_credentials", "gnutls_handshake_set_timeout"):
        getattr(library, name).restype = None
    return library


class _Stream(io.RawIOBase):
    """The bytes that come over a connection."""

    def __init__(self, connection: _Session) -> None:
        self._connection = connection

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read what has come; return 0 at the end."""
        data = self._connection.receive(len(buffer))
        buffer[: len(data)] = data
        return len(data)


class _Session:
    """A connection, with the shape that `http.client` wants of a socket."""

    def __init__(self, raw: socket.socket, name: str, timeout: float, signer: Signer, shown: bytes) -> None:
        self._library = _library()
        self._raw = raw
        self._signer = signer
        self._failed: KmsdError | None = None
        self._session, self._credentials = c_void_p(), c_void_p()
        # The library keeps what these point to.
        self._kept = _SIGN(lambda *_: _NOT_DONE), _SIGN(self._sign), _INFO(self._info)
        try:
            self._begin(name, timeout)
            self._handshake(shown)
        except BaseException:
            self.close()
            raise

    def _begin(self, name: str, timeout: float) -> None:
        call, milliseconds = self._call, max(1, int(timeout * 1000))
        call("gnutls_certificate_allocate_credentials", byref(self._credentials))
        pem = self._signer.certificate
        datum = _Datum(ctypes.cast(c_char_p(pem), c_void_p), len(pem))
        certificate, key = _Certificate(), c_void_p()
        call("gnutls_pcert_import_x509_raw", byref(certificate), byref(datum), _PEM, 0)
        call("gnutls_privkey_init", byref(key))
        call("gnutls_privkey_import_ext4", key, None, self._kept[0], self._kept[1], None, None, self._kept[2], 0)
        # Certificate and key are the credentials' from now on.
        call("gnutls_certificate_set_key", self._credentials, None, 0, byref(certificate), 1, key)
        call("gnutls_init", byref(self._session), _CLIENT)
        call("gnutls_priority_set_direct", self._session, c_char_p(_PRIORITY), None)
        call("gnutls_credentials_set", self._session, _CERTIFICATE_CREDENTIALS, self._credentials)
        if not name.replace(".", "").isdigit() and ":" not in name:
            call("gnutls_server_name_set", self._session, _DNS_NAME, c_char_p(name.encode()), c_size_t(len(name)))
        self._library.gnutls_transport_set_int2(self._session, self._raw.fileno(), self._raw.fileno())
        # Descriptors of sockets with a time limit do not block, and the library waits itself.
        self._raw.setblocking(True)
        self._library.gnutls_handshake_set_timeout(self._session, c_uint(milliseconds))
        self._library.gnutls_record_set_timeout(self._session, c_uint(milliseconds))

    def _handshake(self, shown: bytes) -> None:
        """Make the handshake, and compare what the server shows with `shown`. Raises TlsError, KmsdError."""
        self._again(lambda: int(self._library.gnutls_handshake(self._session)))
        count = c_uint()
        peers = self._library.gnutls_certificate_get_peers(self._session, byref(count))
        if not count.value or peers[0].bytes != shown:
            raise TlsError("the server shows another certificate than a moment ago")

    def _again(self, act: Callable[[], int]) -> int:
        """Return what a call returns, made again as long as it was interrupted. Raises TlsError."""
        while (result := act()) < 0:
            if self._failed is not None:
                raise self._failed
            if self._library.gnutls_error_is_fatal(result) or result == _PREMATURE:
                raise TlsError(self._library.gnutls_strerror(result).decode())
        return result

    def _call(self, name: str, *arguments: object) -> None:
        if (result := getattr(self._library, name)(*arguments)) < 0:
            raise TlsError(f"{name}: {self._library.gnutls_strerror(result).decode()}")

    # What the library asks.

    def _sign(self, key: int, algorithm: int, data: int, flags: int, digest: Any, signature: Any) -> int:
        try:
            hash_ = _HASHES.get(self._library.gnutls_sign_get_hash_algorithm(algorithm))
            if hash_ is None:
                return _NOT_DONE
            made = self._signer.sign(hash_, digest[0].bytes)
        except KmsdError as error:
            self._failed = error
            return _SIGN_FAILED
        allocate = ctypes.CFUNCTYPE(c_void_p, c_size_t)(c_void_p.in_dll(self._library, "gnutls_malloc").value or 0)
        place = allocate(len(made))
        ctypes.memmove(place, made, len(made))
        signature[0].data, signature[0].size = place, len(made)
        return 0

    def _info(self, key: int, flags: int, data: int) -> int:
        if flags & _INFO_ALGORITHM:
            return _PUBLIC_KEY[self._signer.kind]
        if flags & _INFO_BITS:
            return self._signer.bits
        if flags & _INFO_CAN_SIGN:
            algorithm = flags >> _OF_FLAGS
            usable = self._library.gnutls_sign_get_hash_algorithm(algorithm) in _HASHES
            kind = self._library.gnutls_sign_supports_pk_algorithm(algorithm, _PUBLIC_KEY[self._signer.kind])
            return int(bool(usable and kind))
        return -1

    # What `http.client` asks.

    def sendall(self, data: bytes) -> None:
        """Send all of it. Raises TlsError."""
        left = bytes(data)
        while left:
            send = functools.partial(self._library.gnutls_record_send, self._session, left, len(left))
            left = left[self._again(send) :]

    def receive(self, most: int) -> bytes:
        """Return what has come, at most so many bytes; nothing at the end. Raises TlsError."""
        buffer = ctypes.create_string_buffer(most)
        got = self._again(lambda: self._library.gnutls_record_recv(self._session, buffer, most))
        return buffer.raw[:got]

    def makefile(self, mode: str) -> io.BufferedReader:
        """Return what comes, to be read."""
        return io.BufferedReader(_Stream(self))

    def close(self) -> None:
        """End the connection."""
        if self._session:
            self._library.gnutls_deinit(self._session)
            self._session = c_void_p()
        if self._credentials:
            self._library.gnutls_certificate_free_credentials(self._credentials)
            self._credentials = c_void_p()
        self._raw.close()


class Connection(http.client.HTTPConnection):
    """An HTTP connection over TLS whose client certificate has its key elsewhere. shown: the server's certificate as
    DER, which it is to show again."""

    def __init__(self, host: str, port: int, timeout: float, signer: Signer, shown: bytes) -> None:
        super().__init__(host, port, timeout=timeout)
        self._limit = timeout
        self._signer = signer
        self._shown = shown

    def connect(self) -> None:
        """Connect. Raises OSError, KmsdError."""
        raw = socket.create_connection((self.host, self.port), self._limit)
        self.sock = _Session(raw, self.host, self._limit, self._signer, self._shown)
