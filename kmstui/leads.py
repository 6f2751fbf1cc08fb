"""The place that a trouble leads to: the requests that failed of it, its key, its setting, the audit, or the doctor.
Pure."""

from __future__ import annotations

from dataclasses import dataclass

from kmsd.client import About, Filter, Key, KeyState
from kmstui.problem_list import ShownProblem
from kmstui.view import View

KEYS, AUDIT, CONFIG, DOCTOR = "Keys", "Audit", "Config and logs", "Doctor"


@dataclass(frozen=True)
class Lead:
    """The place that a trouble leads to. requests: that may have failed of it, looked for first; None: none can have.
    page: name of the screen that is gone to else. key: the one that it is about, if it is one. setting: name of the one
    to look at; empty if none."""

    page: str
    requests: Filter | None = None
    key: Key | None = None
    setting: str = ""


def lead(trouble: ShownProblem, view: View) -> Lead:
    """Return the place that a trouble leads to."""
    about = trouble.about
    if trouble.page:
        return Lead(trouble.page)
    if about.audit:
        return Lead(AUDIT)
    if about.setting:
        return Lead(CONFIG, about.requests, setting=about.setting)
    if about.key_id or about.key_label:
        return Lead(KEYS, about.requests, _key(about, view))
    return Lead(DOCTOR, about.requests)


def _key(about: About, view: View) -> Key | None:
    """Return the key that kmsd names; of several with its id, the one that is not well. None if it is not there."""
    named = [each for each in view.keys.value or () if each.key_id == about.key_id]
    labelled = [each for each in named if each.label == about.key_label]
    return min(labelled or (named if about.key_id else []), key=_well, default=None)


def _well(key: Key) -> bool:
    return key.state not in (KeyState.UNUSABLE, KeyState.PLANTED)
