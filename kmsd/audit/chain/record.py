"""One record of the audit: its form in a line.

A line is ASCII, at most MAX_LINE bytes, without spaces, its members in this order (a later kmsd may add some before
`prev`):

    {"seq":57,"time":"2026-01-02T03:04:05.678Z","kind":"kms","action":"Decrypt","caller":"","key_id_sha256":"e408...",
     "outcome":"OK","latency_ms":1.204,"detail":"","prev":"<64 hex>","hash":"<64 hex>"}

A call that failed has `"reason":"<the sentence that its caller got>",` before `prev`, and what concerns a tenant of a
key manager has `"tenant":"<its name>",` after that; other lines have no such members.

`seq` counts from 1 and goes on over restarts and over files. `hash` is SHA-256 over the line without its hash member:
up to `,"hash"`, and a closing brace. `prev` is within: the hash of the record before, 64 zeros before the first.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Final, Literal, NoReturn

MAX_LINE: Final = 4096
"""The most bytes of a line, the newline included. What kmsd writes stays below 3000."""
MAX_ACTION: Final = 128
MAX_CALLER: Final = 256
MAX_DETAIL: Final = 1024
MAX_REASON: Final = 512
MAX_WORD: Final = 64
"""Bytes of a text as it stands in the line, escapes included; what is longer is cut and ends in three dots."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST_MS: Final = 253_402_300_799_999  # the last millisecond of the year 9999
_LONGEST_MS: Final = 1e12
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
_HASH: Final = re.compile(r"[0-9a-f]{64}")
_PLAIN: Final = re.compile(r"[ !#-\[\]-~]*")  # printable ASCII that JSON does not escape
_ENCODE: Final = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
_HASH_MEMBER: Final = len(',"hash":""}') + 64

Kind = Literal["admin", "kms", "event"]


@dataclass(frozen=True, slots=True)
class Head:
    """The last record of a chain: its seq and its hash, lower hex."""

    seq: int
    hash: str


START: Final = Head(0, "0" * 64)
"""The head that the first record follows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """An event to be recorded. kind: "admin" (an action of the admin API), "kms" (a call of a KMS API), "event" (of
    kmsd itself). outcome: canonical status name. reason: why a call failed, as its caller was told; else empty.
    tenant: name of the one that it concerns; else empty. Texts may hold anything: they are cut and escaped on their way
    into a line."""

    unix_ms: int
    kind: Kind
    action: str
    caller: str = ""
    key_id_sha256: str = ""
    outcome: str = "OK"
    latency_ms: float = 0.0
    detail: str = ""
    reason: str = ""
    tenant: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record(Entry):
    """An entry in its place in the chain. line: as in the file, without its newline. digest: what `hash` should be."""

    seq: int
    prev: str
    hash: str
    line: str

    @property
    def head(self) -> Head:
        return Head(self.seq, self.hash)

    @property
    def digest(self) -> str:
        """Return the hash that the record should have."""
        return _digest(self.line[:-_HASH_MEMBER] + "}")

    @property
    def intact(self) -> bool:
        """Return whether the record has the hash that it should have."""
        return self.hash == self.digest


class NotARecord(ValueError):
    """Raised for bytes that are no line that kmsd writes; the text says why."""


def make(entry: Entry, after: Head) -> Record:
    """Make the record of an entry, to follow `after`. Takes any entry: one that cannot be written would stop the
    rest."""
    unix_ms = min(max(entry.unix_ms, 0), _LATEST_MS)
    time = (_EPOCH + timedelta(milliseconds=unix_ms)).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    action, caller = bounded(entry.action, MAX_ACTION), bounded(entry.caller, MAX_CALLER)
    key_id_sha256, outcome = bounded(entry.key_id_sha256, MAX_WORD), bounded(entry.outcome, MAX_WORD)
    latency_ms = round(min(max(0.0, float(entry.latency_ms)), _LONGEST_MS), 3)
    detail, reason = bounded(entry.detail, MAX_DETAIL), bounded(entry.reason, MAX_REASON)
    tenant = bounded(entry.tenant, MAX_WORD)
    seq = after.seq + 1
    body = _ENCODE(
        {
            "seq": seq,
            "time": time,
            "kind": entry.kind,
            "action": action,
            "caller": caller,
            "key_id_sha256": key_id_sha256,
            "outcome": outcome,
            "latency_ms": latency_ms,
            "detail": detail,
            **({"reason": reason} if reason else {}),
            **({"tenant": tenant} if tenant else {}),
            "prev": after.hash,
        }
    )
    digest = _digest(body)
    return Record(
        unix_ms=unix_ms,
        kind=entry.kind,
        action=action,
        caller=caller,
        key_id_sha256=key_id_sha256,
        outcome=outcome,
        latency_ms=latency_ms,
        detail=detail,
        reason=reason,
        tenant=tenant,
        seq=seq,
        prev=after.hash,
        hash=digest,
        line=f'{body[:-1]},"hash":"{digest}"}}',
    )


def bounded(text: str, most: int) -> str:
    """Return the text, or its beginning and three dots if it takes more than `most` bytes in a line, escapes
    included."""
    if len(text) <= most and (_PLAIN.fullmatch(text) or len(json.dumps(text)) - 2 <= most):
        return text
    room = most - 3
    for index, character in enumerate(text):
        room -= len(json.dumps(character)) - 2
        if room < 0:
            return text[:index] + "..."
    return text


def parse(raw: bytes) -> Record:
    """Parse a line, with or without its newline. Raises NotARecord. Whether its hash is right, `Record.intact`
    tells."""
    if len(raw) > MAX_LINE:
        raise NotARecord(f"it has more than {MAX_LINE} bytes")
    try:
        line = raw.removesuffix(b"\n").decode("ascii")
        members = json.loads(line, parse_constant=_no_constant)
    except UnicodeDecodeError:
        raise NotARecord("it is not ASCII") from None
    except (ValueError, RecursionError):
        raise NotARecord("it is not JSON") from None
    if not isinstance(members, dict):
        raise NotARecord("it is not a JSON object")
    seq, prev, digest = members.get("seq"), _text(members, "prev"), _text(members, "hash")
    if not isinstance(seq, int) or isinstance(seq, bool) or not 0 < seq < 2**63:
        raise NotARecord("its seq is no count")
    if not (_HASH.fullmatch(prev) and _HASH.fullmatch(digest)):
        raise NotARecord("its prev or its hash is no SHA-256")
    if not (line.startswith(f'{{"seq":{seq},') and line.endswith(f',"prev":"{prev}","hash":"{digest}"}}')):
        raise NotARecord("it is not in the form that kmsd writes")
    kind, latency = members.get("kind"), members.get("latency_ms")
    if kind not in ("admin", "kms", "event"):
        raise NotARecord("its kind is unknown")
    if not isinstance(latency, int | float) or isinstance(latency, bool):
        raise NotARecord("its latency_ms is no number")
    return Record(
        unix_ms=_unix_ms(_text(members, "time")),
        kind=kind,
        action=_text(members, "action"),
        caller=_text(members, "caller"),
        key_id_sha256=_text(members, "key_id_sha256"),
        outcome=_text(members, "outcome"),
        latency_ms=float(latency),
        detail=_text(members, "detail"),
        reason=_text(members, "reason") if "reason" in members else "",
        tenant=_text(members, "tenant") if "tenant" in members else "",
        seq=seq,
        prev=prev,
        hash=digest,
        line=line,
    )


def _digest(body: str) -> str:
    return sha256(body.encode("ascii")).hexdigest()


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)


def _text(members: dict[str, object], name: str) -> str:
    value = members.get(name)
    if not isinstance(value, str):
        raise NotARecord(f"its {name} is no text")
    return value


def _unix_ms(text: str) -> int:
    if not _TIME.fullmatch(text):
        raise NotARecord("its time is not RFC 3339 in UTC with milliseconds")
    try:
        return (datetime.fromisoformat(text) - _EPOCH) // timedelta(milliseconds=1)
    except ValueError:
        raise NotARecord("its time is none") from None
