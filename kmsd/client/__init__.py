"""The library that kmsctl and kmstui import: connect to a running kmsd, get frozen dataclasses, catch `ClientError`.

    with connect() as kmsd:
        print(kmsd.get_status().state)

Importing this package loads neither grpc nor protobuf, so that `--help` stays quick; the two functions that
connect do. What is used of `kmsd.client.model` is loaded then. It must not know pkcs11, the daemon's settings, or how
anything is shown.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from kmsd import __version__
from kmsd.client.errors import (
    ClientError,
    Conflict,
    Denied,
    InvalidRequest,
    NotFound,
    Outdated,
    Overloaded,
    Unhealthy,
    Unreachable,
)
from kmsd.client.lazy import names_of
from kmsd.client.text import escape

if TYPE_CHECKING:
    from kmsd.client.admin import AdminClient
    from kmsd.client.ciphertext_input import key_id_of
    from kmsd.client.clientconfig import Target
    from kmsd.client.jwt_signer import JwtSignerClient
    from kmsd.client.kms import KmsClient
    from kmsd.client.model import (
        Abilities,
        About,
        Acknowledgement,
        AuditChain,
        AuditRecord,
        AuditRecords,
        AuditVerdict,
        Ca,
        CaCertificate,
        CallCount,
        Certificate,
        Check,
        Config,
        Crl,
        DestroyedKey,
        Diagnosis,
        Encrypted,
        EnrolmentRequest,
        EnrolmentToken,
        Envelope,
        Filter,
        Following,
        GeneratedKey,
        ImportedJwtKey,
        Inspection,
        IssuedCertificate,
        JweReport,
        Jwt,
        JwtFetcher,
        JwtKey,
        Key,
        KeyDetail,
        KeyInEtcd,
        KeyState,
        KeyTest,
        KeyType,
        KeyUse,
        KmsStatus,
        Latency,
        Listener,
        LogLevel,
        MadeEnrolmentToken,
        Mechanism,
        ModuleProcess,
        NewCa,
        Outcome,
        Peer,
        Probe,
        Problem,
        PublishedJwtKey,
        RelabelledKey,
        Request,
        Requests,
        Reversion,
        RevokedCertificates,
        Rotation,
        RotationStep,
        ScanReport,
        Second,
        ServingState,
        Sessions,
        Setting,
        Slot,
        Speed,
        StatsFrame,
        Status,
        StoreCheck,
        SwitchedJwtKey,
        Tampering,
        TenantStatus,
        Timing,
        Token,
        TokenStatus,
        TrustedJwtKeys,
        UnlockedToken,
        Upstream,
        Verdict,
    )
    from kmsd.client.targets import default_kms_socket, default_target, options_of, parse_socket, parse_target

DEFAULT_TIMEOUT = 10.0
"""Seconds for one call. Making a key on a slow token takes some of them."""

Api = Literal["v2", "v1beta1"]


def connect(target: str | Target | None = None, *, timeout: float = DEFAULT_TIMEOUT) -> AdminClient:
    """Make a client of the admin API.

    target: `unix:///path`, `/path`, `tls://host:port`, or the name of a target in `clientconfig`, or such a target;
    None: `default_target()`. timeout: seconds for each call that names none of its own.
    Nothing is dialled until the first call. Raises InvalidRequest if the target is none of these, or files that TLS
    needs are missing or wrong; Denied if this process may not read them.
    """
    from kmsd.client.targets import default_target, parse_target

    place = parse_target(default_target() if target is None else target)
    from kmsd.client.admin import AdminClient

    return AdminClient(place, timeout)


def kms_connect(socket: str | None = None, api: Api = "v2", *, timeout: float = DEFAULT_TIMEOUT) -> KmsClient:
    """Make a client of the KMS API that kube-apiserver calls; arguments and errors as `connect`, but a KMS socket is a
    Unix socket, and has no name."""
    from kmsd.client.targets import default_kms_socket, parse_socket

    path = parse_socket(default_kms_socket() if socket is None else socket)
    from kmsd.client.kms import KmsClient

    return KmsClient(path, api, timeout)


def signer_connect(socket: str, *, timeout: float = DEFAULT_TIMEOUT) -> JwtSignerClient:
    """Make a client of the socket on which service account tokens are signed; arguments and errors as `kms_connect`."""
    from kmsd.client.jwt_signer import JwtSignerClient
    from kmsd.client.targets import parse_socket

    return JwtSignerClient(parse_socket(socket), timeout)


__all__ = [
    "DEFAULT_TIMEOUT",
    "Abilities",
    "About",
    "Acknowledgement",
    "Api",
    "AuditChain",
    "AuditRecord",
    "AuditRecords",
    "AuditVerdict",
    "Ca",
    "CaCertificate",
    "CallCount",
    "Certificate",
    "Check",
    "ClientError",
    "Config",
    "Conflict",
    "Crl",
    "Denied",
    "DestroyedKey",
    "Diagnosis",
    "Encrypted",
    "EnrolmentRequest",
    "EnrolmentToken",
    "Envelope",
    "Filter",
    "Following",
    "GeneratedKey",
    "ImportedJwtKey",
    "Inspection",
    "InvalidRequest",
    "IssuedCertificate",
    "JweReport",
    "Jwt",
    "JwtFetcher",
    "JwtKey",
    "Key",
    "KeyDetail",
    "KeyInEtcd",
    "KeyState",
    "KeyTest",
    "KeyType",
    "KeyUse",
    "KmsStatus",
    "Latency",
    "Listener",
    "LogLevel",
    "MadeEnrolmentToken",
    "Mechanism",
    "ModuleProcess",
    "NewCa",
    "NotFound",
    "Outcome",
    "Outdated",
    "Overloaded",
    "Peer",
    "Probe",
    "Problem",
    "PublishedJwtKey",
    "RelabelledKey",
    "Request",
    "Requests",
    "Reversion",
    "RevokedCertificates",
    "Rotation",
    "RotationStep",
    "ScanReport",
    "Second",
    "ServingState",
    "Sessions",
    "Setting",
    "Slot",
    "Speed",
    "StatsFrame",
    "Status",
    "StoreCheck",
    "SwitchedJwtKey",
    "Tampering",
    "TenantStatus",
    "Timing",
    "Token",
    "TokenStatus",
    "TrustedJwtKeys",
    "Unhealthy",
    "UnlockedToken",
    "Unreachable",
    "Upstream",
    "Verdict",
    "__version__",
    "connect",
    "default_kms_socket",
    "default_target",
    "escape",
    "key_id_of",
    "kms_connect",
    "options_of",
    "parse_socket",
    "parse_target",
    "signer_connect",
]

if not TYPE_CHECKING:
    __getattr__ = names_of(
        __name__, ("kmsd.client.targets", "kmsd.client.model", "kmsd.client.ciphertext_input"), __all__
    )
