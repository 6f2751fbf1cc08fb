"""The names of the screens and their keys, and which of them there are for the kmsd that is looked at. Pure."""

from __future__ import annotations

from kmstui import enrolment
from kmstui.view import View

NAMES = (
    *("Overview", "Tokens", "Keys", "Traffic", "Rotation", "Audit", "Config and logs", "Fleet", "Doctor", "Inspect"),
    *("Tenants", "Enrolment"),
)
"""The names of the screens, in the order of their keys."""
NUMBERS = dict(zip(NAMES, "1234567890mE", strict=True))
"""The key of each screen."""
ALWAYS = NAMES[:-2]
"""The names of the screens that there are for any kmsd."""
TOKENS, TENANTS, ENROLMENT = "Tokens", "Tenants", "Enrolment"
_AT_PROXY = {TOKENS: "Managers"}


def titled(name: str, view: View | None) -> str:
    """Return what a screen is called: at a proxy it is the key managers that stand where the tokens are else."""
    return _AT_PROXY.get(name, name) if view is not None and view.upstreams else name


def tabs(here: str, view: View) -> dict[str, str]:
    """Return the titles of the screens that there are, by name. here: the one that is looked at, which always is."""
    there = (name for name in NAMES if name == here or (_is_known(name, view) and not absent(name, view)))
    return {name: titled(name, view) for name in there}


def _is_known(name: str, view: View) -> bool:
    """Return whether it is known if a screen is there."""
    if name == ENROLMENT:
        return view.config.value is not None
    return name != TENANTS or view.status.value is not None


def absent(name: str, view: View | None) -> str:
    """Return why a screen is not there; empty if it is, or if that is not known yet."""
    status = view.status.value if view is not None else None
    if view is None or status is None:
        return ""
    if name == TENANTS and not status.tenants:
        if status.upstreams:
            return "this kmsd is a proxy: its key managers have the tenants"
        return "this kmsd has no tenants: it serves no other machines (docs/remote.md)"
    if name == ENROLMENT:
        if status.upstreams:
            return "this kmsd is a proxy: its key managers enrol nodes"
        if view.config.value is not None and not (enrolment.enrols(view) or enrolment.has_ca(view)):
            return "this kmsd enrols no nodes: it has neither est.listen nor ca.enabled (docs/enrolment.md)"
    return ""
