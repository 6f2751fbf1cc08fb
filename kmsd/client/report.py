"""A scan's result as a file: what `kmsctl etcd scan --report` writes and `kmsctl keys retire --report` and
`keys destroy --report` read.

JSON with these names, which are added to and never changed. Reading is strict, because the file is evidence that a
key may go. Pure.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

from kmsd.client.errors import InvalidRequest
from kmsd.client.model.scan import KeyInEtcd, ScanReport

KIND: Final = "kmsd-etcd-scan"
VERSION: Final = 1
REPORT_MAX: Final = 16 << 20
"""The most octets that a report may have."""
USES_MAX: Final = 10_000
COUNT_MAX: Final = 1 << 62

_TIME = re.compile(r"[0-9]{4}(-[0-9]{2}){2}T([0-9]{2}:){2}[0-9]{2}\.[0-9]{3}Z")
_FIELDS = {
    "kind",
    "version",
    "started_at",
    "finished_at",
    "cluster_id",
    "prefix",
    "revision",
    "objects",
    "unknown",
    "uses",
}
_USE_FIELDS = {"key", "by_label", "objects", "label"}
"""The names of the fields of one use; "label" may be left out."""


def write_report(report: ScanReport) -> bytes:
    """Return the file's content: JSON, ASCII."""
    document = {
        "kind": KIND,
        "version": VERSION,
        "started_at": _time_text(report.started),
        "finished_at": _time_text(report.finished),
        "cluster_id": f"{report.cluster_id:016x}",
        "prefix": report.prefix,
        "revision": report.revision,
        "objects": report.objects,
        "unknown": report.unknown,
        "uses": [
            {"key": each.key_id, "by_label": each.by_label, "objects": each.objects}
            | ({"label": each.label} if each.label else {})
            for each in report.uses
        ],
    }
    return json.dumps(document, indent=2).encode() + b"\n"


def read_report(data: bytes) -> ScanReport:
    """Read what `write_report` wrote. Raises InvalidRequest for anything else."""
    if len(data) > REPORT_MAX:
        raise _refused(f"it holds more than {REPORT_MAX} bytes")
    try:
        document = json.loads(data.decode(), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise _refused("it is not JSON") from error
    if not isinstance(document, dict) or document.get("kind") != KIND:
        raise _refused("it is not the report of a scan")
    if document.get("version") != VERSION:
        raise _refused("another version of kmsctl wrote it")
    _check_names(document, _FIELDS, "it")
    report = ScanReport(
        started=_time(document, "started_at"),
        finished=_time(document, "finished_at"),
        cluster_id=_cluster_id(document),
        prefix=_text(document, "prefix", 1024),
        revision=_number(document, "revision"),
        objects=_number(document, "objects"),
        unknown=_number(document, "unknown"),
        uses=_uses(document),
    )
    _check_sense(report)
    return report


def _uses(document: Mapping[str, object]) -> tuple[KeyInEtcd, ...]:
    found = document["uses"]
    if not isinstance(found, list) or len(found) > USES_MAX:
        raise _refused(f"uses is no list of at most {USES_MAX}")
    return tuple(map(_use, found))


def _use(found: object) -> KeyInEtcd:
    if not isinstance(found, dict):
        raise _refused("a use is no object")
    found = {"label": "", **found}
    _check_names(found, _USE_FIELDS, "a use")
    by_label = found["by_label"]
    if not isinstance(by_label, bool):
        raise _refused("by_label is neither true nor false")
    return KeyInEtcd(_text(found, "key", 1024), _number(found, "objects"), by_label, _text(found, "label", 1024))


def _check_sense(report: ScanReport) -> None:
    """Raise InvalidRequest for what no scan counts: it was changed afterwards, or cut."""
    names = [(use.key_id, use.by_label, use.label) for use in report.uses]
    if len(set(names)) != len(names):
        raise _refused("a key occurs twice")
    if not all(use.key_id and use.objects for use in report.uses):
        raise _refused("a use has no key or no objects")
    if sum(use.objects for use in report.uses) + report.unknown > report.objects:
        raise _refused("its parts are more than its objects")
    if report.finished < report.started:
        raise _refused("it ended before it began")
    if not report.prefix.startswith("/") or not report.revision:
        raise _refused("it names no prefix or no revision")


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name occurs twice")
    return found


def _check_names(found: Mapping[str, object], wanted: set[str], what: str) -> None:
    if missing := sorted(wanted - found.keys()):
        raise _refused(f"{what} lacks {', '.join(missing)}")
    if unknown := sorted(found.keys() - wanted):
        raise _refused(f"{what} has {unknown[0][:40]!r}, which is not known")


def _number(found: Mapping[str, object], name: str) -> int:
    number = found[name]
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number <= COUNT_MAX:
        raise _refused(f"{name} is no count")
    return number


def _text(found: Mapping[str, object], name: str, most: int) -> str:
    text = found[name]
    if not isinstance(text, str) or len(text) > most or any("\ud800" <= each <= "\udfff" for each in text):
        raise _refused(f"{name} is no text of at most {most} characters")
    return text


def _cluster_id(document: Mapping[str, object]) -> int:
    text = _text(document, "cluster_id", 16)
    if not re.fullmatch(r"[0-9a-f]{16}", text):
        raise _refused("cluster_id is not 16 hexadecimal digits")
    return int(text, 16)


def _time(document: Mapping[str, object], name: str) -> datetime:
    text = _text(document, name, 24)
    if not _TIME.fullmatch(text):
        raise _refused(f"{name} is no time in UTC with milliseconds")
    try:
        return datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)
    except ValueError:
        raise _refused(f"{name} is no time in UTC with milliseconds") from None


def _time_text(moment: datetime) -> str:
    milliseconds = moment.microsecond // 1000
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{milliseconds:03d}Z"


def _refused(why: str) -> InvalidRequest:
    return InvalidRequest(
        f"the report of the scan cannot be used: {why}",
        "make a new one: kmsctl etcd scan --report FILE",
        "INVALID_ARGUMENT",
    )
