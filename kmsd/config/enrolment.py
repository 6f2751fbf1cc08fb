"""The settings of certificates for nodes: the authority, the server with which they enrol, and the store."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from kmsd.config.kinds import KeyFile, Label, Section, as_tuple, check_listen
from kmsd.config.remote import SAN


def _names(texts: tuple[str, ...]) -> tuple[str, ...]:
    for text in texts:
        if not re.fullmatch(SAN, re.sub(r"\{(node|tenant)\}", "x", text), re.IGNORECASE) or "*" in text:
            raise ValueError(
                "a name must be DNS:name or URI:uri, with {node} and {tenant} for parts of it and without *, got "
                f"{text!r}"
            )
        if "{node}" not in text:
            raise ValueError(f"a name must have {{node}} in it, or all nodes would share it, got {text!r}")
    return texts


CertificateNames = Annotated[
    tuple[Annotated[str, Field(max_length=512)], ...],
    BeforeValidator(as_tuple),
    AfterValidator(_names),
    Field(max_length=16),
]
_CERTIFIED_KEYS = ("ec-p256", "ec-p384", "ec-p521", "rsa-2048", "rsa-3072", "rsa-4096")


def _key_types(texts: tuple[str, ...]) -> tuple[str, ...]:
    for text in texts:
        if text not in _CERTIFIED_KEYS:
            raise ValueError(f"a type of key must be one of {', '.join(_CERTIFIED_KEYS)}, got {text!r}")
    return texts


KeyTypes = Annotated[
    tuple[Annotated[str, Field(max_length=16)], ...],
    BeforeValidator(as_tuple),
    AfterValidator(_key_types),
    Field(min_length=1, max_length=len(_CERTIFIED_KEYS)),
]


def _crl_url(text: str) -> str:
    if text and not re.fullmatch(r"https?://[!-~]+", text):
        raise ValueError(f"the address of a list of revocations must be an http or https URL, got {text!r}")
    return text


class Ca(Section):
    """The certificate authority of nodes, whose key is on the token."""

    enabled: bool = False
    """Issue certificates for nodes."""
    token: str = Field(default="", pattern=r"^[A-Za-z0-9._-]{0,64}$")
    """Name of the token where its keys are made; empty: the token that gets the new keys."""
    key_label: Label = "kmsd-ca"
    """The key that signs is the one with this CKA_LABEL, among those that were made for it."""
    lifetime: float = Field(default=30 * 86400.0, ge=60, le=825 * 86400)
    """Seconds that a node's certificate is in force."""
    backdate: float = Field(default=300.0, ge=0, le=86400)
    """Seconds that it is in force before it is made, for clocks that are behind; no longer than its lifetime."""
    key_types: KeyTypes = ("ec-p256", "ec-p384", "rsa-3072", "rsa-4096")
    """Types of keys that nodes may have."""
    names: CertificateNames = ()
    """Names in the certificates: "DNS:name" and "URI:uri" with {node} and {tenant} in them. Empty: the tenant's san,
    with the node in the place of the *."""
    crl_lifetime: float = Field(default=7 * 86400.0, ge=600, le=90 * 86400)
    """Seconds until a list of revocations must be had anew; it is made anew at half of them."""
    crl_url: Annotated[str, Field(max_length=512), AfterValidator(_crl_url)] = ""
    """Address of that list, which certificates name; empty: they name none."""


def _store_url(text: str) -> str:
    if text and not text.startswith("postgresql+psycopg://"):
        raise ValueError("a store must be postgresql+psycopg://user@host/name, or empty for SQLite in state.dir")
    # Of whatever form: what stands before an @ in the authority may have a colon only in front of a password.
    if re.match(r"[^/]*//[^/?#]*:[^/?#]*@", text) or re.search(r"[?&](password|passfile)=", text):
        raise ValueError("the URL of the store must have no password: put it in a file that store.password_file names")
    return text


class Store(Section):
    """The database of what key managers share: enrolment tokens, certificates, revocations. Opened with [est] or [ca]
    alone; keys and their rotation never depend on it."""

    url: Annotated[str, Field(max_length=1024), AfterValidator(_store_url)] = ""
    """PostgreSQL, for several key managers; empty: SQLite in the state directory."""
    password_file: Path | None = None
    """A file with the password on its first line. A relative path is looked up in $CREDENTIALS_DIRECTORY first."""


class Est(Section):
    """The server with which nodes enrol (EST, RFC 7030), by TLS 1.3. The files are read anew when they change."""

    listen: Annotated[str, Field(max_length=300), AfterValidator(check_listen)] = ""
    """Host and port; empty: no such server."""
    tls_certificate: Path | None = None
    """PEM file with the server's certificate and its chain; None: one that the CA issues, and without [ca]
    server.tls_certificate."""
    tls_key: KeyFile = None
    """PEM file with the private key of that certificate; None: as with the certificate."""
    names: Annotated[
        tuple[Annotated[str, Field(pattern=r"^[A-Za-z0-9.:-]{1,253}$")], ...], BeforeValidator(as_tuple)
    ] = Field(default=(), max_length=32)
    """Names and IP addresses in the certificate that the CA issues for this server; empty: those of this machine."""
    approval: Literal["token", "manual"] = "token"
    """How a node gets its first certificate. token: with an enrolment token alone. manual: one without a token waits
    for an operator."""
    max_connections: int = Field(default=256, ge=8, le=65536)
    """Connections at once, of all nodes together."""
