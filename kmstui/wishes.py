"""The wishes that widgets send to the program as messages: actions, other targets, and ways to what lies behind a
trouble."""

from __future__ import annotations

from functools import partial
from typing import Literal

from kmsd.client import Key, escape
from kmstui import actions
from kmstui.action import Done
from kmstui.frame import Frame
from kmstui.leads import Lead, lead
from kmstui.messages import (
    Act,
    CallersWanted,
    Choose,
    Finished,
    LookInto,
    MechanismsWanted,
    Open,
    ShowKey,
    ShowRequests,
    ShowRotation,
)
from kmstui.screens.names import NAMES
from kmstui.screens.page import Page
from kmstui.screens.rotation import RotationScreen
from kmstui.screens.traffic import TrafficScreen
from kmstui.store import Store


class Wishes(Frame):
    """A subclass has the store and the ways through the screens."""

    store: Store

    @property
    def page(self) -> Page | None:
        """The screen with data that is on top, or under a dialog."""
        return next((screen for screen in reversed(self.screen_stack) if isinstance(screen, Page)), None)

    async def action_page(self, name: str) -> None:
        """Show a screen."""
        raise NotImplementedError

    async def jump_to(self, page: str, ident: str) -> None:
        """Show a thing on a screen."""
        raise NotImplementedError

    async def jump_to_key(self, key: Key) -> None:
        """Show a key in the table of keys."""
        raise NotImplementedError

    def on_act(self, message: Act) -> None:
        self.store.act(message.action, message.reply or self._said)

    def on_finished(self, message: Finished) -> None:
        self._said(message.done)

    def _said(self, done: Done) -> None:
        if done.outcome is not None:
            severity: Literal["error", "information"] = "error" if done.outcome.bad else "information"
            self.notify(done.outcome.message, severity=severity, markup=False, timeout=8)
        elif done.error is not None:
            hint = f"\n→ {escape(done.error.hint)}" if done.error.hint else ""
            again = "\ntrying again may help" if done.error.retryable else ""
            self.notify(
                f"{escape(done.error.message)}{hint}{again}",
                title=f"{done.action.name} failed",
                severity="error",
                markup=False,
                timeout=12,
            )

    async def on_open(self, message: Open) -> None:
        self.store.switch(message.target)
        await self.action_page(NAMES[0])

    async def on_look_into(self, message: LookInto) -> None:
        found = lead(message.trouble, self.store.view)
        if found.requests is None:
            await self._follow(found)
        else:
            self.store.act(actions.failures(found.requests), partial(self._looked, found))

    def _looked(self, found: Lead, done: Done) -> None:
        """Show the requests first, where any failed of it."""
        if done.outcome is not None and done.outcome.requests is not None:
            self.post_message(ShowRequests(done.outcome.requests))
        else:
            self.call_later(self._follow, found)

    async def _follow(self, found: Lead) -> None:
        if found.key is not None:
            await self.jump_to_key(found.key)
        elif found.ident:
            await self.jump_to(found.page, found.ident)
        else:
            await self.action_page(found.page)

    async def on_show_requests(self, message: ShowRequests) -> None:
        await self.action_page(TrafficScreen.NAME)
        page = self.page
        if isinstance(page, TrafficScreen):
            page.choose(message.wanted)

    async def on_show_key(self, message: ShowKey) -> None:
        await self.jump_to_key(message.key)

    async def on_show_rotation(self, message: ShowRotation) -> None:
        await self.action_page(RotationScreen.NAME)
        page = self.page
        if isinstance(page, RotationScreen):
            page.choose(message.tenant)

    def on_callers_wanted(self, message: CallersWanted) -> None:
        self.store.want_callers(message.tenant)

    def on_choose(self, message: Choose) -> None:
        self.store.choose(message.wanted)

    def on_mechanisms_wanted(self, message: MechanismsWanted) -> None:
        self.store.want_mechanisms(message.token)
