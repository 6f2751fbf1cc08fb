"""The explanation of a ciphertext."""

from __future__ import annotations

from dataclasses import dataclass

from kmsd.client.model.keys import Key
from kmsd.client.model.status import Problem


@dataclass(frozen=True)
class Envelope:
    """The envelope that kube-apiserver put around a ciphertext. prefix: as "k8s:enc:kms:v2:"."""

    prefix: str
    provider: str
    key_id: str
    key_id_sha256: str
    source_type: str
    encrypted_dek_bytes: int
    encrypted_data_bytes: int
    annotations: tuple[str, ...]


@dataclass(frozen=True)
class JweReport:
    """The parts of a JWE as far as they can be read."""

    alg: str
    enc: str
    kid: str
    kid_sha256: str
    iv_bytes: int
    ciphertext_bytes: int
    tag_bytes: int
    header: str
    """The protected header as it is, in JSON."""


@dataclass(frozen=True)
class Inspection:
    """An explanation of a value. format: for example "native" or "k8s-kms-plugin aes-gcm". keys: those that may open
    it, best first. readable: whether kmsd would decrypt it, as far as can be told without trying."""

    format: str
    summary: str
    envelope: Envelope | None
    jwe: JweReport | None
    keys: tuple[Key, ...]
    findings: tuple[Problem, ...]
    readable: bool
