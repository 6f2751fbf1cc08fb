"""The colours: dark, light, and one whose states are told apart by any eye. One accent in each. Pure.

The last is after Okabe and Ito, "Color Universal Design" (2008): blue, yellow and vermilion.
"""

from __future__ import annotations

from textual.theme import Theme

DARK = Theme(
    name="dark",
    primary="#4ea8c9",
    secondary="#4ea8c9",
    accent="#56b6d6",
    foreground="#d5dde3",
    background="#0f1419",
    surface="#151b22",
    panel="#1b232c",
    boost="#1b232c",
    success="#7cc47f",
    warning="#e3b04b",
    error="#ee7777",
    dark=True,
    variables={
        "block-cursor-background": "#24455a",
        "block-cursor-foreground": "#ffffff",
        "input-cursor-text-style": "reverse",
    },
)
LIGHT = Theme(
    name="light",
    primary="#0b6a92",
    secondary="#0b6a92",
    accent="#0b6a92",
    foreground="#1f272e",
    background="#fbfbf8",
    surface="#f2f3f1",
    panel="#e7eaeb",
    boost="#e7eaeb",
    success="#2a7a32",
    warning="#8f5f00",
    error="#b3261e",
    dark=False,
    variables={
        "block-cursor-background": "#cfe5ef",
        "block-cursor-foreground": "#000000",
        "input-cursor-text-style": "reverse",
    },
)
SAFE = Theme(
    name="colour-blind",
    primary="#c5ced6",
    secondary="#c5ced6",
    accent="#c9a0dc",
    foreground="#dfe5ea",
    background="#0e1216",
    surface="#151a20",
    panel="#1c232a",
    boost="#1c232a",
    success="#56b4e9",
    warning="#f0e442",
    error="#e8702a",
    dark=True,
    variables={
        "block-cursor-background": "#463a55",
        "block-cursor-foreground": "#ffffff",
        "input-cursor-text-style": "reverse",
    },
)
THEMES = {theme.name: theme for theme in (DARK, LIGHT, SAFE)}


def following(name: str) -> str:
    """Return the theme after this one, in a ring."""
    names = list(THEMES)
    return names[(names.index(name) + 1) % len(names)] if name in names else names[0]
