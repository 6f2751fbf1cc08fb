"""The token of a node, as a URI names it: its address, its PIN, and errors in words that fit. And opened for one
program that blocks, such as `kmsctl enrol`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
import threading
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Final, TypeVar

from kmsd.config import pins
from kmsd.config.errors import ConfigError
from kmsd.config.pkcs11_uri import TokenKeyUri, parse
from kmsd.config.settings import Token
from kmsd.errors import InvalidRequest, KmsdError, Misconfigured
from kmsd.est.files import NodeFiles, prepare
from kmsd.est.node_keys import NodeKeys
from kmsd.est.token_files import TokenFiles
from kmsd.hsm.address import KeyName, TokenAddress
from kmsd.hsm.connection import Hsm
from kmsd.hsm.pin_guard import PinGuard

T = TypeVar("T")

SECONDS: Final = 3.0
"""Time limit of a signature. A handshake has a little more."""
_NAME: Final = "tls-key"
_STUCK_AFTER: Final = 30.0
_CLOSE_SECONDS: Final = 15.0


class NodeToken:
    """A token that a URI names, before it is opened. place: of the PIN, in hints."""

    def __init__(self, uri: TokenKeyUri) -> None:
        self.uri = uri
        self._pin: str | None = None

    def address(self, stuck_after: float) -> TokenAddress:
        """Return the address. stuck_after: seconds after which a call hangs."""
        uri = self.uri
        return TokenAddress(
            module=uri.module,
            provider=uri.provider,
            label=uri.token,
            slot=uri.slot,
            sessions=1,
            queue=256,
            timeout=SECONDS,
            stuck_after=stuck_after,
            manufacturer=uri.manufacturer,
            model=uri.model,
            serial=uri.serial,
            tls_key=KeyName(uri.label, uri.cka_id),
        )

    def check_names_family(self) -> None:
        """Raise Misconfigured if the URI names one key for good, where new ones are to be made."""
        if not self.uri.label or self.uri.cka_id:
            raise Misconfigured(
                "each new certificate gets a new key, under one label, and the URI names a key by its id",
                "name it by object= alone, without id=",
            )

    def read_pin(self) -> str | None:
        """Return the PIN, kept until `forget_pin`: a pipe or a credential may be there to be read only once. Raises
        Misconfigured."""
        file = self.uri.pin_file
        if self._pin is None and file is not None:
            try:
                if stat.S_ISREG((found := os.stat(file)).st_mode) and found.st_mode & 0o007:  # noqa: PTH116
                    raise Misconfigured(
                        f"the PIN file {file} may be read by every user of this machine", f"chmod o= {file}"
                    )
                self._pin = pins.read_pin(Token(pin_file=file))
            except OSError as error:
                reason = (error.strerror or "cannot be read").lower()
                raise Misconfigured(f"the PIN file {file}: {reason}", "correct pin-source in the URI") from error
            except ConfigError as error:
                raise Misconfigured(error.message, error.hint) from error
        return self._pin

    def read_pin_again(self) -> None:
        """Take the PIN that is in the file now; keep the old one if it could be read only once. Raises Misconfigured
        then."""
        before, self._pin = self._pin, None
        try:
            self.read_pin()
        except KmsdError:
            self._pin = before
            raise

    def in_words(self, error: KmsdError, where: str, corrected: str, unlocked: str) -> KmsdError:
        """Return the error with the token's name, and a hint that fits a URI. where: the address in words. corrected:
        what to do when the PIN is corrected. unlocked: what to do if it is the right one after all."""
        uri, message = self.uri, error.message
        if where not in message and (not uri.token or repr(uri.token) not in message):
            message = f"{where}: {message}"
        if "pin_file" in error.hint or "pin-file" in error.hint:
            file = uri.pin_file
            place = f"the PIN in {file}" if file is not None else "the PIN: name its file by pin-source=file:/path"
            hint = f"correct {place}, then {corrected}"
            if "kmsctl unlock" in error.hint:
                hint += f"; if it is the right one after all, {unlocked}"
            return type(error)(message, hint)
        if "kmsctl keygen" in error.hint or "AES" in error.hint:
            hint = "name a private key that may sign (CKA_SIGN), on a token that signs by ECDSA or RSASSA-PSS"
            return type(error)(message, hint)
        hint = error.hint.replace("--p11-label", "token=").replace("--p11-slot", "slot-id=")
        return type(error)(message, hint.replace("--p11-lib", "module-path="))


@contextlib.contextmanager
def opened(text: str, folder: Path) -> Iterator[TokenFiles]:
    """Log in to the token that a URI names, once, and let go of it at the end. folder: of the certificate; a PIN that
    was refused is remembered there. Raises InvalidRequest, and what the token says."""
    try:
        token = NodeToken(parse(text))
    except ValueError as error:
        raise InvalidRequest(
            str(error), "for example pkcs11:token=node;object=kmsd?module-path=/usr/lib/..."
        ) from error
    token.check_names_family()
    prepare(folder)
    files, loop = NodeFiles.within(folder), asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="token", daemon=True)
    thread.start()

    def awaited(work: Coroutine[object, object, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, loop).result()

    async def make() -> Hsm:
        guard = PinGuard(_NAME, folder)
        made = Hsm(token.address(_STUCK_AFTER), token.read_pin, lambda: None, guard=guard, name=_NAME)
        await made.start()
        return made

    hsm = awaited(make())

    def in_words(error: KmsdError) -> KmsdError:
        again = f"remove {folder}/pins-refused.json, and it is tried once more"
        return token.in_words(error, str(hsm.address), "repeat this", again)

    try:
        if hsm.connected is None:
            raise in_words(hsm.error)
        yield TokenFiles(files.certificate, files.authorities, NodeKeys(hsm, token.uri.label, awaited, in_words))
    finally:
        with contextlib.suppress(TimeoutError):
            asyncio.run_coroutine_threadsafe(hsm.close(), loop).result(_CLOSE_SECONDS)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(1)
        if not thread.is_alive():
            loop.close()
