"""The look of the keys of service account tokens: tables, sheets, and how one of them is named."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from datetime import datetime

from kmsctl import diagnostics, output
from kmsctl.diagnostics import UsageError
from kmsctl.text import age, timestamp
from kmsd.client import Jwt, JwtFetcher, JwtKey, NotFound, escape

KID = 12
"""Characters of a kid that a table shows."""
_PREFIX_LEAST = 8


def short(key: JwtKey | None) -> str:
    """Return the name of a key in a sentence."""
    return "no key" if key is None else f"{key.kid[:KID]} ({key.alg})" if key.kid else repr(key.label)


def word(kid: str) -> str:
    """Return a kid as an argument of a command: one in 64 begins as an option does."""
    return f"-- {shlex.quote(kid)}" if kid.startswith("-") else shlex.quote(kid)


def find(keys: Sequence[JwtKey], name: str) -> JwtKey:
    """Return the key with a kid, the first characters of one, or a label. Raises NotFound, UsageError."""
    named = [key for key in keys if name and name in (key.kid, key.label)]
    found = named or [key for key in keys if len(name) >= _PREFIX_LEAST and key.kid.startswith(name)]
    if len({key.kid for key in found}) > 1:
        raise UsageError(f"{len(found)} keys are called {name!r}", "give the kid: kmsctl jwt keys -o wide")
    if found:
        return found[0]
    raise NotFound(
        f"no such key has the kid or label {name!r}",
        f"kmsctl jwt keys lists them; of a kid, give {_PREFIX_LEAST} characters at least",
        "NOT_FOUND",
    )


def source(key: JwtKey) -> str:
    """Return where a key comes from."""
    if key.state == "trusted":
        return "a file, public"
    return f"{key.token}, imported" if key.from_outside else key.token


def keys(keys: Sequence[JwtKey], now: datetime | None, *, wide: bool = False) -> str:
    """Return a list of keys. now: None for times rather than ages."""
    headers = ["KID", "STATE", "ALG", "LABEL", "FROM", "PUBLISHED", "NEEDED UNTIL", "SIGNED"]
    rows = [
        [
            key.kid if wide else key.kid[:KID],
            key.state,
            key.alg,
            key.label,
            source(key),
            _published(key, None if wide else now),
            timestamp(key.needed_until) or "",
            str(key.signed) if key.token else "",
        ]
        for key in keys
    ]
    if wide:
        headers += ["LAST SIGNED", "DISCOVERY", "KEY ID", "NOTE", "REASON"]
        for row, key in zip(rows, keys, strict=True):
            shown = "" if not key.published else "no" if key.excluded_from_discovery else "yes"
            row += [timestamp(key.last_signed) or "", shown, key.key_id, key.note, key.reason]
    return output.table(headers, rows)


def _published(key: JwtKey, now: datetime | None) -> str:
    if not key.published:
        return "no"
    since = key.published_since or key.trusted
    return (timestamp(since) if now is None else age(since, now)) or "yes"


def fetchers(found: Sequence[JwtFetcher], now: datetime) -> str:
    """Return a list of those who fetch the published keys."""
    rows = [[each.who, "as they are" if each.current else "older ones", age(each.last, now)] for each in found]
    return output.table(["FETCHED BY", "KNOWS", "LAST"], rows)


def sheet(key: JwtKey, asked: Jwt) -> list[tuple[str, str]]:
    """Return all that is known of one key. asked: the signer, for who has fetched."""
    rows = [
        ("KID", escape(key.kid) or "not known: the key is not proven"),
        ("STATE", escape(key.state)),
        ("ALG", escape(key.alg)),
        ("LABEL", escape(key.label)),
        ("KEY ID", escape(key.key_id)),
        ("FROM", escape(source(key))),
        ("PUBLISHED", str(timestamp(key.published_since or key.trusted) or "yes") if key.published else "no"),
        ("DISCOVERY", "left out" if key.excluded_from_discovery else "yes" if key.published else "no"),
        ("PROVEN", "yes" if key.proven else "no, and need not be" if key.state == "trusted" else "no"),
        ("STOPPED", str(timestamp(key.stopped) or "")),
        ("NEEDED UNTIL", str(timestamp(key.needed_until) or "")),
        ("SIGNED", f"{key.signed}" + (f", last {timestamp(key.last_signed)}" if key.last_signed else "")),
        ("NOTE", escape(key.note)),
        ("REASON", escape(key.reason)),
    ]
    if key.state == "trusted":
        rows = [each for each in rows if each[0] != "SIGNED"]
    if key.published:
        late = [each.who for each in asked.fetchers if not each.current]
        told = f"{len(asked.fetchers) - len(late)} of {len(asked.fetchers)} who fetch the keys know all of them"
        rows.append(("FETCHED", told + (f"; not {escape(', '.join(late))}" if late else "")))
    rows += [("" if number else "PEM", escape(line)) for number, line in enumerate(key.pem.splitlines())]
    return [(name, value) for name, value in rows if value or not name]


def complain(found: Jwt) -> None:
    """Say why no token is signed, and what is wrong with keys."""
    if found.state != "ready":
        diagnostics.warning(f"no service account token is signed: {found.reason or found.state}")
        if found.hint:
            diagnostics.hint(found.hint)
    for key in found.keys:
        if key.reason and key.state != "signing" and key.reason != found.reason:
            diagnostics.warning(f"{short(key)}: {key.reason}")
            if key.hint:
                diagnostics.hint(key.hint)
