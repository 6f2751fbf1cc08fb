"""A proxy whose TLS key is on a token of its machine. Experimental.

Loaded only then: all other proxies know nothing of PKCS#11.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
import time
from collections.abc import Callable, Iterator
from typing import Final

from cryptography import x509

from kmsd.apis.admin_proxy import TOKEN_NAME, Check
from kmsd.audit.trail import Audit
from kmsd.config import pins
from kmsd.config.errors import ConfigError
from kmsd.config.pkcs11_uri import TokenKeyUri, parse
from kmsd.config.settings import Settings, Token
from kmsd.crypto import handshakes
from kmsd.daemon import event_sinks
from kmsd.daemon.configured import Configured
from kmsd.daemon.process import Spawn
from kmsd.daemon.proxy import ProxyParts
from kmsd.errors import KmsdError, Misconfigured, NotFound
from kmsd.hsm.address import KeyName, TokenAddress
from kmsd.hsm.connection import Hsm
from kmsd.hsm.pin_guard import PinGuard
from kmsd.observe import logs
from kmsd.service.signer import Sign, TlsScheme
from kmsd.transport.tls import Loaded

log = logs.get_logger("kmsd")

_SECONDS: Final = 3.0
"""Time limit of a signature. A handshake has a little more."""
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
        self._uri = uri
        self._pin: str | None = None
        self._failed: KmsdError | None = None
        self._spawn = spawn
        self._pause, self._anew_at = _ANEW_FIRST, 0.0
        self._changed: Callable[[], None] = lambda: None
        self._told = event_sinks.TokenSink(audit)
        address = TokenAddress(
            module=uri.module,
            provider=uri.provider,
            label=uri.token,
            slot=uri.slot,
            sessions=1,
            queue=256,
            timeout=_SECONDS,
            stuck_after=settings.health.stuck_after,
            manufacturer=uri.manufacturer,
            model=uri.model,
            serial=uri.serial,
            tls_key=KeyName(uri.label, uri.cka_id),
        )
        self._hsm = Hsm(
            address,
            read_pin=self._read_pin,
            on_change=self._token_changed,
            guard=PinGuard(TOKEN_NAME, settings.state.dir),
            tell=lambda text: event_sinks.token_told(audit, TOKEN_NAME, text),
            name=TOKEN_NAME,
            printed=lambda line, left_out: event_sinks.module_printed(TOKEN_NAME, line, left_out),
        )

    @property
    def where(self) -> str:
        """The key, named by the URI without its query."""
        return self._uri.where

    @property
    def problem(self) -> KmsdError | None:
        """Return why the key cannot sign now, as far as is known."""
        return self._failed if self._hsm.available else self._in_words(self._hsm.error)

    async def start(self, changed: Callable[[], None]) -> None:
        """Log in once; go on trying in the background."""
        self._changed = changed
        await self._hsm.start()

    async def prove(self, loaded: Loaded) -> None:
        """Try whether it is the key of the certificate. Raises KmsdError."""
        public = _public(loaded)
        with self._noted():
            await handshakes.prove(self._hsm, public, _SECONDS)

    def signer(self, loaded: Loaded) -> Sign:
        """Return what signs the handshakes in which this certificate is shown."""
        public = _public(loaded)

        async def sign(hash_: TlsScheme, message: bytes) -> bytes:
            with self._noted():
                return await handshakes.sign(self._hsm, public, hash_, message, _SECONDS)

        return sign

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
            self._failed = told
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
        """Return the error with the token's name, and a hint that fits a proxy, which has no settings of a token."""
        file, token, message = self._uri.pin_file, str(self._hsm.address), error.message
        if token not in message and (not self._uri.token or repr(self._uri.token) not in message):
            message = f"{token}: {message}"
        if "pin_file" in error.hint or "pin-file" in error.hint:
            place = f"the PIN in {file}" if file is not None else "the PIN: name its file by pin-source=file:/path"
            hint = f"correct {place}, then reload the proxy (SIGHUP)"
            if "kmsctl unlock" in error.hint:
                hint += "; if it is the right one after all, kmsctl unlock tries it once more"
            return type(error)(message, hint)
        if "kmsctl keygen" in error.hint or "AES" in error.hint:
            hint = "name a private key that may sign (CKA_SIGN), on a token that signs by ECDSA or RSASSA-PSS"
            return type(error)(message, hint)
        hint = error.hint.replace("--p11-label", "token=").replace("--p11-slot", "slot-id=")
        return type(error)(message, hint.replace("--p11-lib", "module-path="))

    def _read_pin_again(self) -> None:
        """Take the PIN that is in the file now; keep the old one if it could be read only once."""
        before, self._pin = self._pin, None
        try:
            self._read_pin()
        except KmsdError as error:
            self._pin = before
            log.warning("the PIN cannot be read again, the old one stays", reason=error.message, hint=error.hint)

    def _read_pin(self) -> str | None:
        """Return the PIN, kept until a reload: a pipe or a credential may be there to be read only once."""
        file = self._uri.pin_file
        if self._pin is None and file is not None:
            try:
                if stat.S_ISREG((found := os.stat(file)).st_mode) and found.st_mode & 0o007:  # noqa: PTH116
                    raise Misconfigured(
                        f"the PIN file {file} may be read by every user of this machine", f"chmod o= {file}"
                    )
                self._pin = pins.read_pin(Token(pin_file=file))
            except OSError as error:
                reason = (error.strerror or "cannot be read").lower()
                raise Misconfigured(f"the PIN file {file}: {reason}", "correct pin-source in proxy.tls_key") from error
            except ConfigError as error:
                raise Misconfigured(error.message, error.hint) from error
        return self._pin


def _public(loaded: Loaded) -> handshakes.CertifiedKey:
    """Return the public key of the certificate. Raises Misconfigured for a kind that is not used."""
    return handshakes.certified(x509.load_pem_x509_certificates(loaded.pem[1])[0].public_key())
