"""The place that a trouble leads to: the requests that failed of it, its key, its setting, the audit, or the doctor.
Pure."""

from __future__ import annotations

from dataclasses import dataclass

from kmsd.client import About, Filter, Key, KeyState
from kmstui.problem_list import ShownProblem
from kmstui.screens.names import TENANTS, TOKENS
from kmstui.view import View

KEYS, AUDIT, CONFIG, DOCTOR = "Keys", "Audit", "Config and logs", "Doctor"


@dataclass(frozen=True)
class Lead:
    """The place that a trouble leads to. requests: that may have failed of it, looked for first; None: none can have.
    page: name of the screen that is gone to else. key: the one that it is about, if it is one. ident: of the row to
    look at there, as the name of a setting; empty if none."""

    page: str
    requests: Filter | None = None
    key: Key | None = None
    ident: str = ""


def lead(trouble: ShownProblem, view: View) -> Lead:
    """Return the place that a trouble leads to."""
    about = trouble.about
    if trouble.page:
        return Lead(trouble.page)
    if about.audit:
        return Lead(AUDIT)
    if about.setting == "proxy.upstreams":
        address = next((each.address for each in view.upstreams if each.reason == trouble.message), "")
        return Lead(TOKENS, about.requests, ident=address)
    tenant = _tenant(trouble, view)
    if tenant:
        return Lead(TENANTS, about.requests, ident=tenant)
    if about.setting:
        return Lead(CONFIG, about.requests, ident=about.setting)
    if about.key_id or about.key_label:
        return Lead(KEYS, about.requests, _key(about, view))
    return Lead(DOCTOR, about.requests)


def _tenant(trouble: ShownProblem, view: View) -> str:
    """Return the name of the tenant that has this problem: kmsd tells it of the tenant, too. Empty if none has."""
    status = view.status.value
    for each in status.tenants if status is not None else ():
        told = (each.healthz, *(problem.message for problem in each.problems))
        if trouble.message in {f"tenant {each.name}: {message}" for message in told}:
            return each.name
    return ""


def _key(about: About, view: View) -> Key | None:
    """Return the key that kmsd names; of several with its id, the one that is not well. None if it is not there."""
    named = [each for each in view.keys.value or () if each.key_id == about.key_id]
    labelled = [each for each in named if each.label == about.key_label]
    return min(labelled or (named if about.key_id else []), key=_well, default=None)


def _well(key: Key) -> bool:
    return key.state not in (KeyState.UNUSABLE, KeyState.PLANTED)
