"""The settings of serving other machines, and of being served by one: TCP, the proxy, tenants, admins."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from kmsd.config.kinds import Host, Issuers, KeyFile, Label, ProxyKey, Section, as_tuple

MAX_TENANTS = 1024
MAX_ADMINS = 256
SAN = r"DNS:(\*|[a-z0-9_-]+)(\.[a-z0-9_-]+)+|DNS:[a-z0-9_-]+|URI:[a-z][a-z0-9+.-]*://[^\s*/]+(/(\*|[^\s*/]+))*/?"
"""What `kmsd.transport.peers.NamePattern` takes."""


class Server(Section):
    """The KMS and admin APIs for other machines, by TCP with TLS 1.3, for callers with certificates. The files are
    read anew when they change."""

    enabled: bool = False
    """Listen on TCP: with client certificates, and nothing without them."""
    host: Host = "0.0.0.0"  # noqa: S104 - k8s-kms-plugin's default; nothing is served there without TLS
    """Name or address to listen on."""
    port: int = Field(default=31400, ge=1, le=65535)
    """Port to listen on."""
    tls_ca: Path | None = None
    """PEM file with the CA certificates that callers' certificates are checked against."""
    tls_certificate: Path | None = None
    """PEM file with kmsd's certificate and its chain."""
    tls_key: KeyFile = None
    """PEM file with the private key of that certificate."""
    tls_revoked: Path | None = None
    """File of certificates that are not taken: CRLs as PEM, or serial numbers in hexadecimal, one a line."""
    max_connections: int = Field(default=4096, ge=8, le=65536)
    """Connections at once, of all callers together."""


def _upstreams(texts: tuple[str, ...]) -> tuple[str, ...]:
    for text in texts:
        if not re.fullmatch(r"([A-Za-z0-9._-]{1,253}|\[[0-9a-fA-F:.%]+\]):[0-9]{1,5}", text):
            raise ValueError(f"an upstream must be host:port, and an IPv6 address in brackets, got {text!r}")
    if len(set(texts)) != len(texts):
        raise ValueError("an upstream is named twice")
    return texts


Upstreams = Annotated[
    tuple[Annotated[str, Field(max_length=300)], ...],
    BeforeValidator(as_tuple),
    AfterValidator(_upstreams),
    Field(max_length=16),
]


def _est_server(text: str) -> str:
    if text and not re.fullmatch(
        r"https://([A-Za-z0-9._-]{1,253}|\[[0-9a-fA-F:.%]+\])(:[0-9]{1,5})?(/[^\s@?#]*)?", text
    ):
        raise ValueError("an EST server must be https://host[:port][/label]")
    return text


class Proxy(Section):
    """The key managers that `kmsd proxy` asks, by TLS 1.3 and with a certificate of its own. The files are read anew
    when they change."""

    upstreams: Upstreams = ()
    """Host and port of each key manager."""
    prefer: Literal["order", "spread"] = "order"
    """Which of the key managers that are well is asked. order: the first; spread: one after the other."""
    hedge: float = Field(default=0.0, ge=0, le=5)
    """Seconds after which the next key manager is asked beside one that has not answered yet; 0: only when it has
    failed, or half of the time is up."""
    server_name: str = Field(default="", max_length=253)
    """Name that the certificates of key managers must have; empty: the host of each."""
    tls_ca: Path | None = None
    """PEM file with the CA certificates that those of key managers are checked against."""
    tls_certificate: Path | None = None
    """PEM file with the proxy's certificate and its chain."""
    tls_key: ProxyKey = None
    """PEM file with the private key of that certificate; or, experimental, a key on a token of this machine:
    pkcs11:token=LABEL;object=NAME?module-path=/path/of/module.so&pin-source=file:/path (RFC 7512)."""
    est_server: Annotated[str, Field(max_length=512), AfterValidator(_est_server)] = ""
    """EST server that renews this certificate, https://host[:port][/label]; empty: whoever put it there does."""


def _sans(texts: tuple[str, ...]) -> tuple[str, ...]:
    for text in texts:
        if not re.fullmatch(SAN, text, re.IGNORECASE):
            raise ValueError(
                "a name must be DNS:name, with * for the first label, or URI:uri, with * for segments of the path, "
                f"got {text!r}"
            )
    return texts


Sans = Annotated[
    tuple[Annotated[str, Field(max_length=512)], ...],
    BeforeValidator(as_tuple),
    AfterValidator(_sans),
    Field(min_length=1, max_length=64),
]


class Tenant(Section):
    """A cluster that this key manager serves, `[[tenants]]` in the file."""

    name: str = Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")
    """Name of the tenant in commands, logs and statistics."""
    san: Sans
    """Names in its certificates: exact, or with * for one part of the name."""
    key_label: Label
    """Its write key is the one with this CKA_LABEL. It reads what keys wrote that have or had this label, and nothing
    else."""
    max_rate: float = Field(default=0.0, ge=0, le=1_000_000)
    """Calls in a second; 0: any number."""
    max_in_flight: int = Field(default=0, ge=0, le=100_000)
    """Calls at once; 0: any number."""
    jwt_label: str = Field(default="", max_length=255)
    """CKA_LABEL of the key that signs its service account tokens; empty: none are signed."""
    jwt_issuers: Issuers = ()
    """As jwt.issuers, for this tenant."""


class AdminEntry(Section):
    """A caller that may use the admin API from other machines, `[[admins]]` in the file."""

    san: Sans
    """Names in the caller's certificates, in the form of a tenant's."""
    role: Literal["viewer", "operator"] = "viewer"
    """viewer: looks at everything. operator: changes keys, too."""


def tenants_apart(tenants: tuple[Tenant, ...]) -> tuple[Tenant, ...]:
    """Return the tenants. Raises ValueError if two could be taken for one another, or there are too many."""
    for what, each in (("name", [t.name for t in tenants]), ("key_label", [t.key_label for t in tenants])):
        twice = sorted({text for text in each if each.count(text) > 1})
        if twice:
            raise ValueError(f"two tenants have the {what} {twice[0]!r}: give each its own")
    if len(tenants) > MAX_TENANTS:
        raise ValueError(f"there must be {MAX_TENANTS} tenants at most, found {len(tenants)}")
    labels = [t.jwt_label for t in tenants if t.jwt_label]
    shared = sorted({text for text in labels if labels.count(text) > 1})
    if shared:
        raise ValueError(f"two tenants have the jwt_label {shared[0]!r}: give each its own")
    named = [*(t.key_label for t in tenants), *labels]
    derived = next((text for text in named if _DERIVED.search(text)), None)
    if derived is not None:
        raise ValueError(f"a tenant has the label {derived!r}, which is what a rotation makes of another label")
    return tenants


def few_admins(admins: tuple[AdminEntry, ...]) -> tuple[AdminEntry, ...]:
    """Return the entries of admins. Raises ValueError if there are too many."""
    if len(admins) > MAX_ADMINS:
        raise ValueError(f"there must be {MAX_ADMINS} admins at most, found {len(admins)}")
    return admins


_DERIVED = re.compile(r"@[0-9]{8}T[0-9]{6}Z$|\.pending$|\.hmac$")
