"""A proxy whose TLS key is on a token of its machine. Experimental.

Loaded only then: all other proxies know nothing of PKCS#11.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Final, TypeVar

from cryptography import x509

from kmsd.apis.admin_proxy import TOKEN_NAME, Check
from kmsd.audit.trail import Audit
from kmsd.config.pkcs11_uri import TokenKeyUri, parse
from kmsd.config.settings import Settings
from kmsd.crypto import handshakes
from kmsd.daemon import event_sinks
from kmsd.daemon.configured import Configured
from kmsd.daemon.process import Spawn
from kmsd.daemon.proxy import ProxyParts
from kmsd.errors import KmsdError, Misconfigured, NotFound
from kmsd.est.files import NodeStore
from kmsd.est.node_keys import NodeKeys, key_of
from kmsd.est.node_token import SECONDS, NodeToken
from kmsd.est.token_files import TokenFiles
from kmsd.hsm.connection import Hsm
from kmsd.hsm.pin_guard import PinGuard
from kmsd.observe import logs
from kmsd.service.signer import Sign, TlsScheme
from kmsd.transport.tls import Loaded

T = TypeVar("T")

log = logs.get_logger("kmsd")

_ANEW_FIRST: Final = 1.0
_ANEW_MOST: Final = 60.0
"""Seconds between two logins because the key is not to be found, from the first up to the last."""


def on_token(configured: Configured, spawn: Spawn, give_up: Callable[[str], None]) -> ProxyParts:
    """Make the parts of a proxy whose key is on a token; see `ProxyParts`."""
    settings = configured.settings
    audit = Audit(settings.audit, settings.state.dir)
    key = TokenKey(parse(str(settings.proxy.tls_key)), settings, audit, spawn)
    return ProxyParts(configured, spawn, give_up, audit, key)


class TokenKey:
    """The key of a proxy's certificate, on a token; see `OwnKey`."""

    def __init__(self, uri: TokenKeyUri, settings: Settings, audit: Audit, spawn: Spawn) -> None:
        self._token = NodeToken(uri)
        self._keys: dict[bytes, handshakes.CertifiedKey] = {}
        self._failed: KmsdError | None = None
        self._spawn = spawn
        self._pause, self._anew_at = _ANEW_FIRST, 0.0
        self._changed: Callable[[], None] = lambda: None
        self._told = event_sinks.TokenSink(audit)
        self._hsm = Hsm(
            self._token.address(settings.health.stuck_after),
            read_pin=self._token.read_pin,
            on_change=self._token_changed,
            guard=PinGuard(TOKEN_NAME, settings.state.dir),
            tell=lambda text: event_sinks.token_told(audit, TOKEN_NAME, text),
            name=TOKEN_NAME,
            printed=lambda line, left_out: event_sinks.module_printed(TOKEN_NAME, line, left_out),
        )

    @property
    def where(self) -> str:
        """The key, named by the URI without its query."""
        return self._token.uri.where

    @property
    def problem(self) -> KmsdError | None:
        """Return why the key cannot sign now, as far as is known."""
        return self._failed if self._hsm.available else self._in_words(self._hsm.error)

    async def start(self, changed: Callable[[], None]) -> None:
        """Log in once; go on trying in the background."""
        self._changed = changed
        await self._hsm.start()

    def store(self, certificate: Path, authorities: Path) -> NodeStore:
        """Return the certificate and its keys for a renewal. Raises Misconfigured if the URI names one key for good."""
        self._token.check_names_family()
        loop = asyncio.get_running_loop()

        def awaited(work: Coroutine[object, object, T]) -> T:
            return asyncio.run_coroutine_threadsafe(work, loop).result()

        keys = NodeKeys(self._hsm, self._token.uri.label, awaited, self._in_words)
        return TokenFiles(certificate, authorities, keys)

    async def prove(self, loaded: Loaded) -> None:
        """Try whether it is the key of the certificate. Raises KmsdError."""
        with self._noted():
            await handshakes.prove(self._hsm, await self._key_of(loaded.pem[1]), SECONDS)

    def signer(self, certificate: bytes) -> Sign:
        """Return what signs the handshakes in which this certificate (PEM) is shown."""

        async def sign(hash_: TlsScheme, message: bytes) -> bytes:
            with self._noted():
                return await handshakes.sign(self._hsm, await self._key_of(certificate), hash_, message, SECONDS)

        return sign

    async def _key_of(self, certificate: bytes) -> handshakes.CertifiedKey:
        """Return the key of a certificate (PEM). Raises Misconfigured for a kind that is not used, and what the token
        says."""
        if certificate not in self._keys:
            public = handshakes.certified(x509.load_pem_x509_certificate(certificate).public_key()).public
            self._keys = {certificate: await key_of(self._hsm, public)}
        return self._keys[certificate]

    async def check(self, loaded: Loaded | None) -> Check:
        """Try whether it signs. loaded: the certificate; None if there is none that can be used."""
        began = time.monotonic()
        if loaded is None:
            problem = self.problem or Misconfigured("there is no certificate to try it with")
            return Check("key", "Own key", "failed", problem.message, problem.hint)
        try:
            await self.prove(loaded)
        except KmsdError as error:
            return Check("key", "Own key", "failed", error.message, error.hint)
        took = (time.monotonic() - began) * 1000
        return Check("key", "Own key", "ok", f"{self.where} signs for the certificate ({took:.1f} ms); experimental")

    async def reload(self) -> None:
        """Read the PIN again, and try a token that is away at once."""
        await asyncio.to_thread(self._read_pin_again)
        self._keys = {}
        self._hsm.try_soon()

    async def unlock(self, seconds: float) -> tuple[str, bool]:
        """Log in at an operator's word. Returns the token's label, and whether that was needed. Raises KmsdError."""
        await asyncio.to_thread(self._read_pin_again)
        try:
            tried = await self._hsm.unlock(seconds)
        except KmsdError as error:
            raise self._in_words(error) from error
        return self._hsm.label, tried

    async def close(self) -> None:
        """Let go of the token."""
        self._changed = lambda: None
        await self._hsm.close()

    @contextlib.contextmanager
    def _noted(self) -> Iterator[None]:
        """Remember how an attempt to sign ended, and tell a failure that is new."""
        try:
            yield
        except KmsdError as error:
            told = self._in_words(error)
            if self._failed is None or self._failed.kind != told.kind:
                log.warning("the key of the certificate does not sign", reason=told.message, hint=told.hint)
            self._failed, self._keys = told, {}
            if isinstance(error, NotFound) and time.monotonic() >= self._anew_at:
                self._anew_at = time.monotonic() + self._pause
                self._pause = min(self._pause * 2, _ANEW_MOST)
                self._spawn(self._look_anew())
            raise told.again() from error
        self._failed, self._pause = None, _ANEW_FIRST

    async def _look_anew(self) -> None:
        """Log in anew: a module may go on showing a token that has gone, without its keys."""
        await self._hsm.hosting.replace("the key of the certificate is not to be found", doubted=True)

    def _token_changed(self) -> None:
        if self._hsm.connected is not None:
            self._failed = None
        self._told.changed(TOKEN_NAME, self._hsm, self._hsm.pool_view().open)
        self._changed()

    def _in_words(self, error: KmsdError) -> KmsdError:
        """Return the error in words that fit a proxy, which has no settings of a token."""
        unlocked = "kmsctl unlock tries it once more"
        return self._token.in_words(error, str(self._hsm.address), "reload the proxy (SIGHUP)", unlocked)

    def _read_pin_again(self) -> None:
        try:
            self._token.read_pin_again()
        except KmsdError as error:
            log.warning("the PIN cannot be read again, the old one stays", reason=error.message, hint=error.hint)
