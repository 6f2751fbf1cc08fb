"""The form in which an operator is told what is wrong: a sentence, what to do, and where there is more to see. Imports
nothing."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Calls:
    """The failed calls that a problem accounts for. method: as "Decrypt"; empty: any. code: canonical status name."""

    method: str = ""
    code: str = ""


@dataclass(frozen=True)
class About:
    """The places where there is more to see of a problem; what is empty has nothing to do with it.

    token: name in the configuration. key_id, key_label: of a key, which may have no id, or be missing. setting: as
    "legacy.key". audit: the audit trail; tampered: others have changed it. calls: None if no call fails because of the
    problem.
    """

    token: str = ""
    key_id: str = ""
    key_label: str = ""
    setting: str = ""
    audit: bool = False
    tampered: bool = False
    calls: Calls | None = None


@dataclass(frozen=True)
class Problem:
    """A fact that an operator should know. fatal: it keeps kmsd from serving. passing: a rotation brings it about for a
    moment."""

    message: str
    hint: str
    fatal: bool
    passing: bool = False
    about: About = About()
