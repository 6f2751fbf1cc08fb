"""The answers of kmsd as plain frozen data. Knows neither grpc nor protobuf, nor how anything is shown.

Each of its modules is loaded when it is used.

Text that kmsd did not give is empty; times are aware, in UTC, and None if unknown.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kmsd.client.lazy import names_of

if TYPE_CHECKING:
    from kmsd.client.model.audit import Acknowledgement, AuditChain, AuditRecord, AuditRecords, AuditVerdict, Tampering
    from kmsd.client.model.ca import Ca, CaCertificate, Crl, IssuedCertificate, NewCa, RevokedCertificates
    from kmsd.client.model.config import Config, LogLevel, Setting
    from kmsd.client.model.enrol import (
        EnrolledNode,
        EnrolmentRequest,
        EnrolmentToken,
        MadeEnrolmentToken,
        StoreCheck,
    )
    from kmsd.client.model.inspection import Envelope, Inspection, JweReport
    from kmsd.client.model.jwt import (
        ImportedJwtKey,
        Jwt,
        JwtFetcher,
        JwtKey,
        PublishedJwtKey,
        SwitchedJwtKey,
        TrustedJwtKeys,
    )
    from kmsd.client.model.keys import (
        DestroyedKey,
        GeneratedKey,
        Key,
        KeyDetail,
        KeyState,
        KeyTest,
        KeyType,
        RelabelledKey,
        Timing,
    )
    from kmsd.client.model.kms import Encrypted, KmsStatus
    from kmsd.client.model.rotation import Reversion, Rotation, RotationStep
    from kmsd.client.model.scan import KeyInEtcd, ScanReport
    from kmsd.client.model.stats import CallCount, Filter, KeyUse, Latency, Request, Requests, Second, StatsFrame
    from kmsd.client.model.status import (
        About,
        Certificate,
        Following,
        Listener,
        ModuleProcess,
        Peer,
        Probe,
        Problem,
        ServingState,
        Sessions,
        Status,
        TenantStatus,
        Token,
        TokenStatus,
        Upstream,
    )
    from kmsd.client.model.tokens import (
        Abilities,
        Check,
        Diagnosis,
        Mechanism,
        Outcome,
        Slot,
        Speed,
        UnlockedToken,
        Verdict,
    )

__all__ = [
    "Abilities",
    "About",
    "Acknowledgement",
    "AuditChain",
    "AuditRecord",
    "AuditRecords",
    "AuditVerdict",
    "Ca",
    "CaCertificate",
    "CallCount",
    "Certificate",
    "Check",
    "Config",
    "Crl",
    "DestroyedKey",
    "Diagnosis",
    "Encrypted",
    "EnrolledNode",
    "EnrolmentRequest",
    "EnrolmentToken",
    "Envelope",
    "Filter",
    "Following",
    "GeneratedKey",
    "ImportedJwtKey",
    "Inspection",
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
    "Outcome",
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
    "UnlockedToken",
    "Upstream",
    "Verdict",
]

_MODULES = (
    *(
        "keys",
        "status",
        "stats",
        "tokens",
        "audit",
        "config",
        "rotation",
        "inspection",
        "kms",
        "scan",
        "enrol",
        "ca",
        "jwt",
    ),
)

if not TYPE_CHECKING:
    __getattr__ = names_of(__name__, [f"{__name__}.{each}" for each in _MODULES], __all__)
