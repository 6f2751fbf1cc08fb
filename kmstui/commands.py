"""The commands of a screen: one place from which keys, footer, help and palette are made. Knows no widget."""

from __future__ import annotations

from dataclasses import dataclass

from textual.binding import Binding


@dataclass(frozen=True)
class ScreenCommand:
    """A command of a screen. name: within its screen. key: as Textual names keys. title: in the footer. help: a
    sentence. changes: whether it can change anything on kmsd or its token. token: whether it wants a token, which a
    proxy has none of."""

    name: str
    key: str
    title: str
    help: str
    changes: bool = True
    shown: bool = True
    token: bool = False

    @property
    def binding(self) -> Binding:
        return Binding(self.key, f"do('{self.name}')", self.title, show=self.shown)


def name_of(action: str) -> str:
    """Return the command that an action of a binding stands for; empty if none."""
    return action.removeprefix("do('").removesuffix("')") if action.startswith("do('") else ""
