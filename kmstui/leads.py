"""Where a trouble leads: to its key, its setting, the token to be tried, or another screen. Pure.

kmsd says in a sentence what is wrong; what it is about is found by the names in it, which kmsd quotes.
"""

from __future__ import annotations

from dataclasses import dataclass

from kmsd.client import Key, KeyState
from kmstui import styles
from kmstui.problem_list import Trouble
from kmstui.view import View

KEYS, AUDIT, CONFIG, DOCTOR = "Keys", "Audit", "Config and logs", "Doctor"


@dataclass(frozen=True)
class Lead:
    """page: name of the screen. key: the one that it is about, if it is one. setting: name of the one to look at; empty
    if it is none."""

    page: str
    key: Key | None = None
    setting: str = ""


def lead(trouble: Trouble, view: View) -> Lead:
    if trouble.page:
        return Lead(trouble.page)
    text = trouble.message
    if text.startswith((styles.TAMPERED, "the audit")):
        return Lead(AUDIT)
    settings = view.config.value.settings if view.config.value is not None else ()
    for setting in settings:
        if setting.name in text:
            return Lead(CONFIG, setting=setting.name)
    key = _key(text, view)
    status = view.status.value
    if key is not None or (status is not None and repr(status.write_label) in text):
        return Lead(KEYS, key)
    return Lead(DOCTOR)


def _key(text: str, view: View) -> Key | None:
    """The key that the text names by its id or label; one that is not well before others of the same name."""
    status = view.status.value
    write = status.write_key if status is not None else None
    if write is not None and "the write key" in text:
        return write
    known = [*(view.keys.value or ()), *([write] if write is not None else [])]
    named = [key for key in known if key.key_id and key.key_id in text]
    named += sorted((key for key in known if key.label and repr(key.label) in text), key=_well)
    return named[0] if named else None


def _well(key: Key) -> bool:
    return key.state not in (KeyState.UNUSABLE, KeyState.PLANTED)
