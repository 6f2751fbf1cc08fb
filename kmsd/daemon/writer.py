"""All that belongs to one write label: its keys, whether they work, how far its kube-apiservers have followed.

A kmsd has one for its own sockets, and one for each tenant.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path

from kmsd import state
from kmsd.audit.trail import Audit
from kmsd.config.settings import Settings
from kmsd.daemon import event_sinks
from kmsd.daemon.background_tasks import LabelUpkeep
from kmsd.daemon.followed import Followed
from kmsd.daemon.uses import KeyUses
from kmsd.errors import Misconfigured, WrongResult
from kmsd.hsm.connection import Hsm
from kmsd.keys.key import Inventory
from kmsd.keys.keyring import Keyring
from kmsd.keys.lifecycle import Lifecycle
from kmsd.keys.scanner import KeyScanner
from kmsd.observe import logs
from kmsd.observe.health import Health, HealthView
from kmsd.observe.unproven import Unproven
from kmsd.service.foreign import Foreign
from kmsd.service.local import LocalService

log = logs.get_logger("kmsd")


@dataclass(frozen=True)
class Shared:
    """The parts that all writers of one kmsd have in common. nudge: has the keys looked at soon."""

    settings: Settings
    tokens: Mapping[str, Hsm]
    scanner: KeyScanner
    uses: KeyUses
    audit: Audit
    nudge: Callable[[], None]


class Writer:
    """The keys of one write label and all that is done with them.

    tenant: its name; empty for this kmsd's own sockets. label: the one of its write key. directory: where it keeps what
    outlives a restart. told: called with the view when health came or went, or its reason changed.
    """

    def __init__(
        self, shared: Shared, *, tenant: str, label: str, directory: Path, told: Callable[[HealthView], None]
    ) -> None:
        settings = shared.settings
        self.tenant = tenant
        self.directory = directory
        self._shared = shared
        self._told = told
        recalled = state.recall(directory, label)
        self._wrote = set(state.wrote_here(directory))
        self.followed = Followed(directory)
        self.keyring = Keyring(
            shared.scanner, write_label=label, recalled=recalled, on_change=self._keys_changed, alone=bool(tenant)
        )
        self.foreign = Foreign(
            self.keyring,
            allowed=settings.legacy.allow_unauthenticated and not tenant,
            pinned=settings.legacy.key,
            hmac_label=settings.keys.hmac_label,
            wrote=lambda: self._wrote,
        )
        self.lifecycle = Lifecycle(self.keyring, write_token=settings.write_place.called, uses=shared.uses)
        unproven = Unproven()
        self.unproven = unproven
        self.upkeep = LabelUpkeep(
            settings,
            directory,
            self.keyring,
            self.lifecycle,
            unproven,
            lambda key: event_sinks.key_adopted(shared.audit, key),
        )
        self.health = Health(
            self.upkeep.round_trip,
            interval=settings.health.interval,
            timeout=settings.kms.request_timeout + 1,
            on_change=told,
            on_wrong=self._wrong_results,
        )
        self.service = LocalService(
            self.keyring,
            self.health,
            self.followed.following,
            write_legacy=settings.keys.write_format == "k8s-kms-plugin",
            fail_closed=settings.kms.on_hsm_loss == "fail-closed",
            remembered=recalled,
            used=shared.uses.used,
            foreign=self.foreign,
            unproven=unproven,
        )
        self.unfollowed = self.service.unfollowed()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def label(self) -> str:
        return self.keyring.write_label

    def begin(self) -> None:
        """Try the write key, and keep what outlives a restart, until `end`."""
        self.followed.begin()
        work: list[Coroutine[None, None, None]] = [self.health.run(), self.followed.keep()]
        self._tasks = [asyncio.create_task(each, name=f"writer-{self.tenant or 'own'}") for each in work]

    async def end(self) -> None:
        """Do nothing more for this label, and write down what outlives a restart."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._shared.scanner.forget(self.keyring)
        self.followed.keep_last()

    def _keys_changed(self, before: Inventory, after: Inventory) -> None:
        old, new = before.write, after.write
        shared = self._shared
        event_sinks.keys_changed(after, self.tenant)
        if not self.tenant:
            event_sinks.planted(shared.audit, before, after)
            shared.uses.seen(after)
        # A rotation that another kmsd began may be waiting to be finished.
        shared.nudge()
        if (old and old.key_id) != (new and new.key_id):
            self.health.poke()
            event_sinks.write_key_changed(shared.audit, before, after, self.tenant)
            if new is not None:
                self._remember(new.key_id)

    def _remember(self, key_id: str) -> None:
        self._wrote.add(key_id)
        try:
            state.remember(self.directory, self.label, key_id)
        except (OSError, Misconfigured) as error:
            reason = state.reason(error)
            log.warning("the state directory cannot be written", directory=str(self.directory), reason=reason)

    def _wrong_results(self, error: WrongResult) -> None:
        self.upkeep.in_doubt = event_sinks.wrong_results(self._shared.audit, error, self.unproven)
