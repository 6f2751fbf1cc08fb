"""Note which entry of the configuration has which token: one that is named twice is used once.

Served twice, each of its keys would seem to be two with one id, and a wrong PIN would be tried twice. Pure but for
waiting: knows nothing of logins.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Final

from kmsd.errors import Misconfigured
from kmsd.hsm.host.info import TokenView

_PATIENCE: Final = 5.0
"""Seconds for the entries above to find their tokens, so that the first of two is the one that counts."""


class SameToken(Misconfigured):
    """Raised if another entry of the configuration names this token, too."""


class Claims:
    """The entries of the configuration and which token each has. names: the entries, in the order of the
    configuration."""

    def __init__(self, names: Sequence[str]) -> None:
        self._looked = {name: asyncio.Event() for name in names}
        self._owners: dict[tuple[object, ...], str] = {}

    def looked(self, name: str) -> None:
        """Note that an entry has looked for its token, whether it has found one or not."""
        self._looked[name].set()

    async def claim(self, name: str, module: str, slot: int, token: TokenView) -> None:
        """Claim a token for an entry. module: path, resolved. Raises SameToken if another entry has it."""
        names = list(self._looked)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE):
                for earlier in names[: names.index(name)]:
                    await self._looked[earlier].wait()
        marks: list[tuple[object, ...]] = [(module, slot)]
        # There are modules that give all tokens one serial number, of zeros.
        if token.serial.strip("0 "):
            marks.append((token.manufacturer, token.model, token.serial, token.label))
        other = next((self._owners[mark] for mark in marks if self._owners.get(mark, name) != name), None)
        if other is not None:
            raise SameToken(
                f"{name!r} and {other!r} of the configuration are one token: {token.label!r}, serial number "
                f"{token.serial}, in slot {slot} of {module}",
                f"remove one of the two from [[tokens]], then restart kmsd; until then {other!r} is used",
            )
        self._owners = {mark: owner for mark, owner in self._owners.items() if owner != name}
        self._owners.update(dict.fromkeys(marks, name))
        self.looked(name)
