"""TLS credentials whose private key is somewhere else: whoever has it is asked for the signature of each handshake.

By an experimental part of grpcio, which may change with its next version: only this module knows it.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import warnings
from collections.abc import Awaitable, Callable
from typing import Final, Literal

import grpc
import grpc.experimental

from kmsd.errors import Misconfigured

TlsScheme = Literal["sha256", "sha384", "sha512"]
Sign = Callable[[TlsScheme, bytes], Awaitable[bytes]]
"""A function that signs bytes, hashed by this hash: ECDSA (DER) or RSASSA-PSS, as the key is. Raises KmsdError."""
_SCHEMES: Final[dict[str, TlsScheme]] = {
    "ECDSA_SECP256R1_SHA256": "sha256",
    "ECDSA_SECP384R1_SHA384": "sha384",
    "RSA_PSS_RSAE_SHA256": "sha256",
    "RSA_PSS_RSAE_SHA384": "sha384",
    "RSA_PSS_RSAE_SHA512": "sha512",
}
"""Signature schemes of TLS 1.3 (RFC 8446, 4.2.3), by gRPC's names, and the hash of each."""


def credentials(ca: bytes, certificate: bytes, sign: Sign) -> grpc.ChannelCredentials:
    """Return credentials whose handshakes are signed by `sign`, on the event loop that runs now.

    ca, certificate: PEM. A handshake that is not signed fails, and the call with it: UNAVAILABLE.
    """
    loop = asyncio.get_running_loop()

    async def signed(data: bytes, scheme: str) -> bytes:
        hash_ = _SCHEMES.get(scheme)
        if hash_ is None:
            raise Misconfigured(f"a key on a token does not sign by {scheme}", "the key manager must speak TLS 1.3")
        return await sign(hash_, data)

    def sign_soon(data: bytes, algorithm: int, complete: Callable[[bytes | Exception], None]) -> Callable[[], None]:
        # Called on a thread of gRPC's, which must not wait.
        scheme = grpc.experimental.PrivateKeySignatureAlgorithm(algorithm).name
        asked = asyncio.run_coroutine_threadsafe(signed(data, scheme), loop)

        def done(asked: concurrent.futures.Future[bytes]) -> None:
            if not asked.cancelled():
                error = asked.exception()
                complete(asked.result() if error is None else RuntimeError(str(error)))

        asked.add_done_callback(done)

        def give_up() -> None:
            asked.cancel()

        return give_up

    with warnings.catch_warnings():
        # That it is experimental is told by docs/remote.md.
        warnings.simplefilter("ignore", grpc.experimental.ExperimentalApiWarning)
        made: grpc.ChannelCredentials = grpc.experimental.ssl_channel_credentials_with_custom_signer(
            private_key_sign_fn=sign_soon, root_certificates=ca, certificate_chain=certificate
        )
    return made
