"""The screens that nobody has looked at yet, made while nothing happens: making one takes longer than a key may."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from textual.app import App

from kmstui.textual_compat import make_screen

REST = 0.15
"""Seconds without a key before the next screen is made."""


async def make(app: App[Any], names: Iterable[str], quiet: Callable[[], float], making: asyncio.Lock) -> None:
    """Make the screens that nobody has looked at yet. names: of modes of the app. quiet: seconds since the last key.
    making: held meanwhile; who holds it finds each screen made, or not begun."""
    for name in names:
        left = REST
        while left > 0:
            await asyncio.sleep(left)
            left = REST - quiet()
        async with making:
            await make_screen(app, name)
