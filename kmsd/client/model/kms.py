"""The answers of the KMS API."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class KmsStatus:
    """An answer of Status (v2) or Version (v1beta1); what the API in question lacks is empty."""

    version: str
    healthz: str
    key_id: str
    runtime_name: str
    runtime_version: str


@dataclass(frozen=True)
class Encrypted:
    """A ciphertext with what v2 needs to decrypt it again; v1beta1 fills in the ciphertext alone."""

    ciphertext: bytes
    key_id: str = ""
    annotations: Mapping[str, bytes] = field(default_factory=dict)
