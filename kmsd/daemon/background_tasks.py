"""Do what nobody asks for: look at the keys, finish rotations that others began, make the keys that kmsd may make, and
try the write key for health."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from time import monotonic
from typing import Final

from kmsd import state
from kmsd.config.settings import Settings
from kmsd.crypto.schemes import as_plugin
from kmsd.errors import KmsdError, Unavailable, WrongResult
from kmsd.hsm.connection import Hsm
from kmsd.keys.key import Key
from kmsd.keys.keyring import Keyring
from kmsd.keys.lifecycle import Lifecycle, Wanted
from kmsd.keys.scanner import KeyScanner
from kmsd.observe import logs
from kmsd.observe.unproven import Unproven
from kmsd.problem import About, Problem

log = logs.get_logger("kmsd")

_UNREAD_AFTER: Final = 3
"""The number of looks at the keys that must fail one after another before that is told as a problem."""
_ADOPT_PAUSE: Final = 60.0
"""Seconds until a key that could not be given a CKA_ID is tried again."""


class Upkeep:
    """The looks at the keys, for ever. labels: what is kept up for each write label; may change at any time. looked:
    functions that are called after each look; they raise nothing."""

    def __init__(self, settings: Settings, tokens: Mapping[str, Hsm], scanner: KeyScanner) -> None:
        self.labels: list[LabelUpkeep] = []
        self.looked: list[Callable[[], Awaitable[None]]] = []
        self._unread: Problem | None = None
        self._settings = settings
        self._tokens = tokens
        self._scanner = scanner
        self._nudge = asyncio.Event()

    @property
    def problems(self) -> list[Problem]:
        """The problem that keys cannot be looked at, if so."""
        return [self._unread] if self._unread is not None else []

    def nudge(self) -> None:
        """Look at the keys soon: something changed."""
        self._nudge.set()

    async def run(self) -> None:
        """Connect, then look, make what is to be made, and finish what others began, for ever."""
        await asyncio.gather(*(hsm.start() for hsm in self._tokens.values()))
        failed = 0
        while True:
            self._nudge.clear()
            if any(hsm.connected is not None for hsm in self._tokens.values()):
                try:
                    await self._scanner.look()
                    self._unread, failed = None, 0
                    await self._keep_up()
                except KmsdError as error:
                    log.debug("look failed", reason=error.message)
                    failed += 1
                    if failed == _UNREAD_AFTER:
                        self._unread = Problem(f"the keys cannot be read: {error.message}", error.hint, fatal=False)
                        log.warning(self._unread.message, hint=error.hint)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._settings.keys.refresh):
                    await self._nudge.wait()

    async def _keep_up(self) -> None:
        """Do what is due for each label: what one of them cannot have done keeps no other waiting."""
        for label in tuple(self.labels):
            try:
                await label.keep_up()
            except KmsdError as error:
                log.debug("upkeep failed", label=label.label, reason=error.message)
        for looked in self.looked:
            await looked()


class LabelUpkeep:
    """The work that nobody asks for of one write label, and the round trip with its key.

    directory: where it is kept which key wrote. in_doubt: what a token that gave wrong results may have spoiled, until
    kmsd is restarted. unproven: told of each round trip. adopted: called with each key that got a CKA_ID unasked.
    """

    def __init__(
        self,
        settings: Settings,
        directory: Path,
        keyring: Keyring,
        lifecycle: Lifecycle,
        unproven: Unproven,
        adopted: Callable[[Key], None],
    ) -> None:
        self.in_doubt: Problem | None = None
        self._withheld: Problem | None = None
        self._not_adopted: Problem | None = None
        self._adopt_at = 0.0
        self._adopted = adopted
        self._unproven = unproven
        self._settings = settings
        self._directory = directory
        self._keyring = keyring
        self._lifecycle = lifecycle
        self._created = not settings.keys.auto_create

    @property
    def label(self) -> str:
        return self._keyring.write_label

    @property
    def problems(self) -> list[Problem]:
        """The problems of this label: what may be lost, and why no key was made, or adopted, while nothing writes."""
        without = () if self._keyring.inventory.write is not None else (self._withheld, self._not_adopted)
        return [problem for problem in (self.in_doubt, *without) if problem is not None]

    async def keep_up(self) -> None:
        """Finish a rotation that was begun, and adopt or make the write key where that is due. Raises KmsdError."""
        await self._lifecycle.roll_forward()
        await self._adopt()
        if not self._created and self._keyring.seen:
            await self._auto_create()
            self._created = True

    async def _adopt(self) -> None:
        """Give a CKA_ID to the key of another program's that would write if it had one."""
        keys = self._settings.keys
        if keys.adopt == "never" or self._keyring.inventory.write is not None or monotonic() < self._adopt_at:
            return
        recalled = state.recall(self._directory, self._keyring.write_label)
        try:
            problem = await self._lifecycle.adopt_unasked(
                self._adopted, public=keys.adopt == "public", recalled=recalled
            )
        except KmsdError as error:
            # Another kmsd may have been quicker: then the next look shows what it gave.
            self._adopt_at = monotonic() + _ADOPT_PAUSE
            problem = Problem(
                f"the key {self._keyring.write_label!r} gets no CKA_ID: {error.message}",
                error.hint or "kmsd tries again in a minute",
                fatal=False,
                about=About(key_label=self._keyring.write_label),
            )
        if problem is not None and problem != self._not_adopted:
            log.warning(problem.message, hint=problem.hint)
        self._not_adopted = problem

    async def _auto_create(self) -> None:
        keys, label = self._settings.keys, self._keyring.write_label
        known = state.recall(self._directory, label)
        doubt = state.doubt(self._directory)
        if self._keyring.inventory.write is None and known:
            # Another write key in its place would hide a loss, or a token that is not the right one.
            self._withheld = Problem(
                f"key {known} wrote here before and is not on {self._keyring.where}: --auto-create makes no other",
                f"bring the right token or key back; if it is gone for good: kmsctl keygen {label}",
                fatal=False,
                about=About(key_id=known, key_label=label),
            )
            log.error(self._withheld.message, hint=self._withheld.hint)
            return
        if self._keyring.inventory.write is None and doubt is not None and self._directory.is_dir():
            self._withheld = Problem(
                f"{doubt.message}: whether a key wrote here before is not known, so --auto-create makes none",
                f"{doubt.hint}, and restart kmsd; if none ever did: kmsctl keygen {label}",
                fatal=False,
                about=About(setting="state.dir"),
            )
            log.error(self._withheld.message, hint=self._withheld.hint)
            return
        up = self._keyring.tokens[self._settings.write_place.called].connected
        gcm = keys.algorithm != "aes-cbc" and (up is None or "CKM_AES_GCM" in up.mechanisms)
        if self._keyring.inventory.write is None:
            usual: Wanted = "aes" if gcm or self._keyring.hmac_label else "pair"
            await self._create(label, "rsa" if keys.algorithm == "rsa-oaep" else usual)
        if self._keyring.hmac_label and not gcm:
            await self._create(self._keyring.hmac_label, "hmac")

    async def _create(self, label: str, wanted: Wanted) -> None:
        made = await self._lifecycle.generate(label, wanted, 0, "", if_not_exists=True)
        if made.created:
            log.info("key made by auto_create", label=made.key.label, key_id_sha256=made.key.key_id_sha256)

    async def round_trip(self) -> None:
        """Encrypt and decrypt with the write key, for health. Raises KmsdError if that cannot be done."""
        if not self._keyring.seen or self._keyring.inventory.write is None:
            await self._keyring.look_soon()
        try:
            await self._try_write_key()
        except WrongResult:
            raise
        except Unavailable:
            # The key may have been destroyed, or the token be away: a look tells which.
            await self._keyring.look_soon()
            await self._try_write_key()

    async def _try_write_key(self) -> None:
        key = self._keyring.write_key()
        if key.scheme is None:
            return
        if self._settings.keys.write_format == "k8s-kms-plugin":
            as_plugin(key.scheme)
        self._unproven.begin()
        await key.scheme.probe(self._keyring.hsm(key), key.cka_id, self._settings.kms.request_timeout)
        self._unproven.proven()
