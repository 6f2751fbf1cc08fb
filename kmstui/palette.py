"""The entries of the command palette: everything that the keys do, and everything that has a name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, cast

from textual.binding import Binding
from textual.command import DiscoveryHit, Hit, Hits, Provider
from textual.content import Content

from kmsd.client import escape
from kmstui import styles, themes
from kmstui.screens.names import ENROLMENT, NUMBERS, TENANTS, TOKENS, absent, titled
from kmstui.screens.tokens import SLOTS
from kmstui.text import short_hash
from kmstui.upstreams import look as look_of_upstream

if TYPE_CHECKING:
    from kmstui.app import Kmstui

MOST = 50
"""Hits that are shown: of ten thousand keys nobody reads more."""


@dataclass(frozen=True)
class PaletteEntry:
    """An entry of the palette. text: one line. help: what it does, or why not."""

    text: str
    help: str
    run: Callable[[], object]


class _Entries(Provider):
    """A provider of entries as Textual's palette wants them."""

    def entries(self) -> Iterator[PaletteEntry]:
        raise NotImplementedError

    @property
    def kmstui(self) -> Kmstui:
        return cast("Kmstui", self.app)

    async def discover(self) -> Hits:
        for at, entry in enumerate(self.entries()):
            if at >= MOST:
                break
            yield DiscoveryHit(Content(entry.text), entry.run, entry.text, entry.help)

    async def search(self, query: str) -> Hits:
        matcher = self.matcher(query)
        found = 0
        for entry in self.entries():
            score = matcher.match(entry.text)
            if score > 0:
                yield Hit(score, matcher.highlight(entry.text), entry.run, entry.text, entry.help)
                found += 1
            if found >= MOST:
                break


class Commands(_Entries):
    """A list of every action of every screen, of the program, and of what has the focus."""

    def entries(self) -> Iterator[PaletteEntry]:
        """Yield what can be chosen."""
        yield from self._commands()
        yield from self._bindings()
        for name in themes.THEMES:
            yield PaletteEntry(f"Theme: {name}", "Colours", partial(self.kmstui.set_theme, name))

    def _commands(self) -> Iterator[PaletteEntry]:
        here = self.kmstui.page
        view = self.kmstui.store.view
        pages = [page for page in self.kmstui.pages if here is None or page.NAME != here.NAME]
        if here is not None:
            for command in here.SCREEN_COMMANDS:
                if not here.offers(command, view):
                    continue
                why = here.why_not(command.name)
                said = f"not now: {escape(why)}" if why else command.help
                yield PaletteEntry(
                    f"{here.NAME}: {command.title}  ({command.key})", said, partial(here.action_do, command.name)
                )
        for page in pages:
            if absent(page.NAME, view):
                continue
            for command in page.SCREEN_COMMANDS:
                if not page.offers(command, view):
                    continue
                yield PaletteEntry(
                    f"{page.NAME}: {command.title}", command.help, partial(self._elsewhere, page.NAME, command.name)
                )

    async def _elsewhere(self, page: str, command: str) -> None:
        await self.kmstui.action_page(page)
        found = self.kmstui.page
        if found is not None:
            found.call_after_refresh(found.action_do, command)

    def _bindings(self) -> Iterator[PaletteEntry]:
        view = self.kmstui.store.view
        for name, number in NUMBERS.items():
            if not absent(name, view):
                said = f"Screen {number}: {titled(name, view)}"
                yield PaletteEntry(said, "Go there", partial(self.kmstui.action_page, name))
        for binding in self.kmstui.BINDINGS:
            if isinstance(binding, Binding) and not binding.action.startswith("page("):
                shown = binding.key_display or binding.key
                yield PaletteEntry(f"{binding.description}  ({shown})", "", partial(self._do, binding.action))

    async def _do(self, action: str) -> None:
        await self.kmstui.run_action(action)


class Places(_Entries):
    """A list of what can be jumped to by name: screens, targets, and whatever the tables hold."""

    def entries(self) -> Iterator[PaletteEntry]:
        """Yield what can be chosen."""
        view = self.kmstui.store.view
        for name, number in NUMBERS.items():
            if not absent(name, view):
                yield PaletteEntry(titled(name, view), f"Screen {number}", partial(self.kmstui.action_page, name))
        for target in view.targets:
            if target != view.target:
                yield PaletteEntry(escape(target), "Target", partial(self.kmstui.store.switch, target))
        for key in view.keys.value or ():
            look = styles.key(key.state)
            digest = short_hash(key.key_id_sha256)
            said = f"Key {look}, hash {digest}, {escape(key.key_id)}"
            yield PaletteEntry(escape(key.label), said, partial(self.kmstui.jump_to_key, key))
        for slot in view.slots.value or ():
            if slot.token_present:
                said = f"Token in slot {slot.slot_id}"
                jump = partial(self.kmstui.jump_to, TOKENS, SLOTS.ident(slot))
                yield PaletteEntry(escape(slot.token_label), said, jump)
        for tenant in view.status.value.tenants if view.status.value is not None else ():
            jump = partial(self.kmstui.jump_to, TENANTS, tenant.name)
            yield PaletteEntry(escape(tenant.name), f"Tenant, {styles.serving(tenant.state)}", jump)
        for issued in view.ca.value.issued if view.ca.value is not None else ():
            jump = partial(self.kmstui.jump_to, ENROLMENT, issued.serial)
            said = f"Certificate {escape(issued.serial)}, of tenant {escape(issued.tenant)}"
            yield PaletteEntry(escape(issued.node), said, jump)
        for each in view.upstreams:
            jump = partial(self.kmstui.jump_to, TOKENS, each.address)
            yield PaletteEntry(escape(each.address), f"Key manager, {look_of_upstream(each)}", jump)
        if view.config.value is not None:
            for setting in view.config.value.settings:
                said = f"Setting, {escape(setting.value)}"
                yield PaletteEntry(setting.name, said, partial(self.kmstui.jump_to, "Config and logs", setting.name))
