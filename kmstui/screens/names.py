"""The names of the screens and their keys, and which of them there are for the kmsd that is looked at. Pure."""

from __future__ import annotations

from kmstui.view import View

NAMES = (
    *("Overview", "Tokens", "Keys", "Traffic", "Rotation", "Audit", "Config and logs", "Fleet", "Doctor", "Inspect"),
    "Tenants",
)
"""The names of the screens, in the order of their keys."""
NUMBERS = dict(zip(NAMES, "1234567890m", strict=True))
"""The key of each screen."""
ALWAYS = NAMES[:-1]
"""The names of the screens that there are for any kmsd."""
TOKENS, TENANTS = "Tokens", "Tenants"
_AT_PROXY = {TOKENS: "Managers"}


def titled(name: str, view: View | None) -> str:
    """Return what a screen is called: at a proxy it is the key managers that stand where the tokens are else."""
    return _AT_PROXY.get(name, name) if view is not None and view.upstreams else name


def tabs(here: str, view: View) -> dict[str, str]:
    """Return the titles of the screens that there are, by name. here: the one that is looked at, which always is."""
    known = view.status.value is not None
    there = (name for name in NAMES if name == here or not (absent(name, view) or (name == TENANTS and not known)))
    return {name: titled(name, view) for name in there}


def absent(name: str, view: View | None) -> str:
    """Return why a screen is not there; empty if it is, or if that is not known yet."""
    status = view.status.value if view is not None else None
    if name != TENANTS or status is None or status.tenants:
        return ""
    if status.upstreams:
        return "this kmsd is a proxy: its key managers have the tenants"
    return "this kmsd has no tenants: it serves no other machines (docs/remote.md)"
