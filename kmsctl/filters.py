"""The options that choose calls and audit records, as `--failed`, and what they come to. kmsd does the choosing."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from hashlib import sha256
from typing import TYPE_CHECKING, Annotated

import typer

from kmsctl.diagnostics import UsageError
from kmsd.client import Filter, NotFound, Unhealthy
from kmsd.client.durations import parse_duration

if TYPE_CHECKING:
    from kmsd.client.admin import AdminClient

_HASH = re.compile(r"(sha256:)?([0-9a-f]{8,64})")
_KEY_ID = re.compile(r"0x([0-9a-f]{2})+|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
"""A key id in a form that kmsd makes or writes."""


class Code(StrEnum):
    """The canonical status names that kmsd answers with or records, and BEGUN, which is an outcome in the audit."""

    OK = "OK"
    CANCELLED = "CANCELLED"
    UNKNOWN = "UNKNOWN"
    INVALID_ARGUMENT = "INVALID_ARGUMENT"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    NOT_FOUND = "NOT_FOUND"
    ALREADY_EXISTS = "ALREADY_EXISTS"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    RESOURCE_EXHAUSTED = "RESOURCE_EXHAUSTED"
    FAILED_PRECONDITION = "FAILED_PRECONDITION"
    ABORTED = "ABORTED"
    OUT_OF_RANGE = "OUT_OF_RANGE"
    UNIMPLEMENTED = "UNIMPLEMENTED"
    INTERNAL = "INTERNAL"
    UNAVAILABLE = "UNAVAILABLE"
    DATA_LOSS = "DATA_LOSS"
    UNAUTHENTICATED = "UNAUTHENTICATED"
    BEGUN = "BEGUN"


class Method(StrEnum):
    """The methods of the APIs that Kubernetes calls, and of the admin API, that answer once."""

    ENCRYPT = "Encrypt"
    DECRYPT = "Decrypt"
    STATUS = "Status"
    VERSION = "Version"
    SIGN = "Sign"
    FETCH_KEYS = "FetchKeys"
    METADATA = "Metadata"
    GET_STATUS = "GetStatus"
    GET_CONFIG = "GetConfig"
    SET_LOG_LEVEL = "SetLogLevel"
    LIST_SLOTS = "ListSlots"
    LIST_MECHANISMS = "ListMechanisms"
    UNLOCK_TOKEN = "UnlockToken"  # noqa: S105 - a method
    DIAGNOSE = "Diagnose"
    LIST_KEYS = "ListKeys"
    GET_KEY = "GetKey"
    GENERATE_KEY = "GenerateKey"
    RELABEL_KEY = "RelabelKey"
    ADOPT_KEY = "AdoptKey"
    DESTROY_KEY = "DestroyKey"
    TEST_KEY = "TestKey"
    ROTATE_KEY = "RotateKey"
    RETIRE_KEY = "RetireKey"
    REVERT_KEY = "RevertKey"
    LIST_PEERS = "ListPeers"
    INSPECT_CIPHERTEXT = "InspectCiphertext"
    TRY_CIPHERTEXT = "TryCiphertext"
    GET_CA = "GetCa"
    INIT_CA = "InitCa"
    IMPORT_CA_CERTIFICATE = "ImportCaCertificate"
    ISSUE_CERTIFICATE = "IssueCertificate"
    REVOKE_CERTIFICATE = "RevokeCertificate"
    GET_CRL = "GetCrl"
    ROLL_CA = "RollCa"
    GET_JWT = "GetJwt"
    PUBLISH_JWT_KEY = "PublishJwtKey"
    SWITCH_JWT_KEY = "SwitchJwtKey"
    RETIRE_JWT_KEY = "RetireJwtKey"
    IMPORT_JWT_KEY = "ImportJwtKey"
    TRUST_JWT_KEY = "TrustJwtKey"
    UNTRUST_JWT_KEY = "UntrustJwtKey"
    CREATE_ENROLMENT_TOKEN = "CreateEnrolmentToken"  # noqa: S105 - a method
    LIST_ENROLMENT_TOKENS = "ListEnrolmentTokens"
    REVOKE_ENROLMENT_TOKEN = "RevokeEnrolmentToken"  # noqa: S105 - a method
    LIST_ENROLMENT_REQUESTS = "ListEnrolmentRequests"
    DECIDE_ENROLMENT_REQUEST = "DecideEnrolmentRequest"
    CHECK_STORE = "CheckStore"
    VERIFY_AUDIT = "VerifyAudit"
    ACKNOWLEDGE_AUDIT = "AcknowledgeAudit"


def _since(text: str) -> datetime:
    try:
        return datetime.now(UTC) - timedelta(seconds=parse_duration(text))
    except ValueError:
        pass
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        when = None
    if when is None or when.tzinfo is None or when.year < 1971:
        raise typer.BadParameter(
            "it must be a time that has passed since, as 30s, 10m or 24h (at most that), or a time with its zone, as "
            f"2026-01-02T03:04:05Z, got {text!r}"
        )
    return when


Failed = Annotated[bool, typer.Option("--failed", help="Show only what failed: any code but OK.")]
MethodName = Annotated[
    Method | None,
    typer.Option("--method", metavar="METHOD", help="Show only this method, as Decrypt or RotateKey."),
]
CodeName = Annotated[
    Code | None,
    typer.Option("--code", metavar="CODE", help="Show only what ended with this code, as NOT_FOUND."),
]
WithKey = Annotated[
    str,
    typer.Option(
        "--key",
        metavar="KEY",
        help="Show only what used this key, which may be gone: its label, key id or sha256: hash.",
        show_default=False,
    ),
]
Since = Annotated[
    datetime | None,
    typer.Option(
        "--since",
        metavar="TIME",
        parser=_since,
        help="Show only what is no older than 10m, or than 2026-01-02T03:04:05Z.",
    ),
]


def gather(
    kmsd: AdminClient,
    failed: bool,
    method: Method | None,
    code: Code | None,
    key: str,
    since: datetime | None,
    tenant: str,
) -> Filter:
    """Return what kmsd is to choose. Asks it which key is meant. Raises UsageError and ClientError."""
    return Filter(failed, method or "", code or "", _hash(kmsd, key) if key else "", since, tenant)


def _hash(kmsd: AdminClient, key: str) -> str:
    """Return the hash of the id of a key, or its first digits. A key that is gone, or a token, has a hash all the
    same."""
    match = _HASH.fullmatch(key.lower())
    if key.lower().startswith("sha256:"):
        if match is None:
            raise UsageError(f"--key {key!r}: sha256: is followed by 8 to 64 hexadecimal digits")
        return match[2]
    try:
        return kmsd.get_key(key).key.key_id_sha256
    except (NotFound, Unhealthy):
        if match is not None:
            return match[2]
        if _KEY_ID.fullmatch(key):
            return sha256(key.encode()).hexdigest()
        raise
