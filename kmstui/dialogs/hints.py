"""Puts what kmsd says to whoever has a command line in the words of a dialog. Pure."""

from __future__ import annotations

import re

_WORDS = (
    (re.compile(r"give the (label|key id) once more: --confirm .*", re.DOTALL), r"type the \1 into confirm above"),
    (re.compile(r"then kmsctl keys (?:retire|destroy) .+ --report FILE"), "then name that file as the report above"),
    (re.compile(r", or --if-not-exists"), ""),
    (re.compile(r"; without --if-not-exists a key is made all the same"), ""),
)


def in_a_dialog(hint: str) -> str:
    """Return the hint without flags that a dialog does not have. Whole kmsctl commands stay: they are run elsewhere."""
    for pattern, words in _WORDS:
        hint = pattern.sub(words, hint)
    return hint
