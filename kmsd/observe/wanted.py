"""Filter the calls and records that somebody wants to be told of. Standard library only."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from kmsd.errors import InvalidRequest, short

CODES: Final = (
    *("OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS"),
    *("PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED"),
    *("INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED", "BEGUN"),
)
"""The canonical status names, and BEGUN, which is an outcome in the audit."""
_NOT_FAILED: Final = ("OK", "BEGUN")
_NAME: Final = re.compile(r"[A-Za-z]{0,64}")
_HASH: Final = re.compile(r"|[0-9a-f]{4,64}")
_TENANT: Final = re.compile(r"[A-Za-z0-9._-]{0,64}")
_LATEST_MS: Final = 253_402_300_799_999
"""The last millisecond of the year 9999."""


@dataclass(frozen=True)
class Wanted:
    """A filter that lets everything through, less what each field that is set leaves out.

    failed: only what ended with anything but OK. method: as "Decrypt". code: canonical status name. key: the first
    digits of the hash of a key id, or all. since_ms: Unix milliseconds. tenant: name of one. Raises InvalidRequest for
    values that cannot be.
    """

    failed: bool = False
    method: str = ""
    code: str = ""
    key: str = ""
    since_ms: int = 0
    tenant: str = ""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.method):
            raise InvalidRequest(f"a method is named by at most 64 letters, got {short(self.method)}", "as in Decrypt")
        if self.code and self.code not in CODES:
            raise InvalidRequest(
                f"the code must be one of {', '.join(CODES)}, got {short(self.code)}", "leave it out for all"
            )
        if not _HASH.fullmatch(self.key):
            raise InvalidRequest(
                f"the hash of a key id must be 4 to 64 digits of lower case hexadecimal, got {short(self.key)}",
                "kmsctl keys list -o wide shows it",
            )
        if not 0 <= self.since_ms <= _LATEST_MS:
            raise InvalidRequest(
                f"the time must be in the years 1970 to 9999, got {self.since_ms} ms since 1970",
                "give Unix milliseconds",
            )
        if not _TENANT.fullmatch(self.tenant):
            raise InvalidRequest(
                "a tenant's name has at most 64 letters, digits, dots, dashes and underscores, got "
                f"{short(self.tenant)}",
                "kmsctl tenants lists them",
            )

    def __bool__(self) -> bool:
        return self != EVERYTHING

    @property
    def only_failures(self) -> bool:
        """Whether nothing is wanted that ended with OK."""
        return self.failed or self.code not in ("", "OK")

    def wants(self, method: str, code: str, key_id_sha256: str, unix_ms: float, tenant: str = "") -> bool:
        """Return whether something is wanted that ended so, at this time. method: empty for what is no call. tenant:
        empty for what concerns none."""
        return (
            not (self.failed and code in _NOT_FAILED)
            and (not self.method or method == self.method)
            and (not self.code or code == self.code)
            and key_id_sha256.startswith(self.key)
            and unix_ms >= self.since_ms
            and (not self.tenant or tenant == self.tenant)
        )

    def of_line(self) -> Callable[[bytes], bool]:
        """Return a quick test of a line of the audit. False: the line is not wanted. True: only its record can tell.

        A quotation mark within a text is escaped in a line, so what is looked for with two of them is no text of
        somebody's.
        """
        outcome, method = b'"outcome":"%s"' % self.code.encode(), b'%s","caller":' % self.method.encode()
        key = b'"key_id_sha256":"%s' % self.key.encode()
        tenant = b'"tenant":"%s"' % self.tenant.encode() if self.tenant else b""
        passed = [b'"outcome":"%s"' % each.encode() for each in _NOT_FAILED]
        since = datetime.fromtimestamp(self.since_ms / 1000, UTC).isoformat(timespec="milliseconds").encode()[:23]

        def may_be(line: bytes) -> bool:
            if self.failed and any(each in line for each in passed):
                return False
            if (self.code and outcome not in line) or (self.method and method not in line) or key not in line:
                return False
            if tenant not in line:
                return False
            time = line.find(b'"time":"') + len(b'"time":"')
            return line[time : time + len(since)] >= since

        return may_be


EVERYTHING: Final = Wanted()
