"""The state of kmsd and its tokens."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING

from kmsd.client.model.keys import Key

if TYPE_CHECKING:
    from kmsd.client.model.stats import Filter


class ServingState(StrEnum):
    """The states of a kmsd."""

    SERVING = "serving"
    DEGRADED = "degraded"
    """Serving, with something an operator should look at."""
    DOWN = "down"
    UNKNOWN = "unknown"
    """A state that a newer kmsd has and this client does not know."""


@dataclass(frozen=True)
class About:
    """The places where there is more to see of a problem; what is empty has nothing to do with it. token: name in the
    configuration. tampered: others have changed the audit. requests: the failed calls that it accounts for; None if it
    makes none fail."""

    token: str = ""
    key_id: str = ""
    key_label: str = ""
    setting: str = ""
    audit: bool = False
    tampered: bool = False
    requests: Filter | None = None


@dataclass(frozen=True)
class Problem:
    """A problem of a kmsd, and what to do."""

    message: str
    hint: str
    fatal: bool
    """True if it keeps kmsd from serving; false for a warning."""
    about: About = About()


@dataclass(frozen=True)
class Token:
    """The token that kmsd uses."""

    module: str
    label: str
    serial: str
    model: str
    manufacturer: str
    slot_id: int
    up: bool


@dataclass(frozen=True)
class Sessions:
    """The sessions of all tokens together."""

    open: int
    configured: int
    busy: int
    stuck: int
    """Busy for longer than the stuck limit."""
    queued: int
    most: int = 0
    """The most that there may be, 0 from a kmsd that does not tell; above `configured` if the number is automatic."""

    @property
    def range(self) -> str:
        """The most that there may be, in words: " (auto, up to 32)"; empty if no more than there should be now."""
        return f" (auto, up to {self.most})" if self.most > self.configured else ""


@dataclass(frozen=True)
class Probe:
    """The background encrypt and decrypt that healthz is earned with."""

    last_success: datetime | None
    round_trip_ms: float


@dataclass(frozen=True)
class ModuleProcess:
    """The process that has the PKCS#11 module of a token loaded. pid: 0 while there is none. served: how many have,
    since kmsd started. reason: why this one took the place of another, since: when."""

    pid: int = 0
    served: int = 0
    reason: str = ""
    since: datetime | None = None


@dataclass(frozen=True)
class TokenStatus:
    """A configured token and how it is. name: in kmsd's configuration. write: new keys are made here. reason, hint: why
    it is not up."""

    name: str
    token: Token
    sessions: Sessions
    write: bool
    reason: str
    hint: str
    keys: int
    process: ModuleProcess = ModuleProcess()


@dataclass(frozen=True)
class Following:
    """The times at which kube-apiserver followed to the present write key; None for what has not happened."""

    since: datetime | None = None
    """The time at which kmsd began to answer this key id."""
    first_status: datetime | None = None
    last_status: datetime | None = None
    first_encrypt: datetime | None = None
    last_encrypt: datetime | None = None
    previous_key_id: str = ""
    """The key that kmsd wrote with before; empty if none since it started."""
    previous_key_id_sha256: str = ""


@dataclass(frozen=True)
class Listener:
    """A socket and the APIs on it."""

    socket: str
    apis: tuple[str, ...]


@dataclass(frozen=True)
class TenantStatus:
    """A tenant of a key manager and how it is. hint: what to do if its healthz is not "ok". in_flight: calls that are
    under way. requests_per_second, p99_ms: of the last 10 seconds, the latter of the worst of them. requests, errors:
    calls since kmsd began with the tenant. peers: names that called for it in the last day. first_end: when the first
    of their certificates ends. problems: those of this tenant alone."""

    name: str
    write_label: str
    state: ServingState
    healthz: str
    hint: str
    write_key: Key | None
    following: Following
    in_flight: int
    requests_per_second: float = 0.0
    p99_ms: float = 0.0
    requests: int = 0
    errors: int = 0
    peers: int = 0
    first_end: datetime | None = None
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True)
class Peer:
    """A caller from another machine, by the certificate that it showed. name: the first in it, as "DNS:name". tenant:
    empty for an admin. role: "tenant", "viewer", "operator" or "none". serial: in hexadecimal. group: of the key
    exchange, empty if it is not known. calls: since kmsd started."""

    name: str
    tenant: str
    role: str
    address: str
    serial: str
    not_before: datetime | None
    not_after: datetime | None
    tls_version: str
    cipher: str
    group: str
    last_seen: datetime | None
    connections: int
    calls: int


@dataclass(frozen=True)
class Upstream:
    """A key manager that a proxy asks. reason, hint: why calls do not go to it. since: since when they do, or do not.
    answered: when it answered last. healthz: its own. asked, failed: calls, and those that it did not answer. last:
    whether it answered the last Status."""

    address: str
    up: bool
    reason: str
    hint: str
    since: datetime | None
    answered: datetime | None
    key_id: str
    key_id_sha256: str
    healthz: str
    round_trip_ms: float
    asked: int
    failed: int
    in_flight: int
    last: bool


@dataclass(frozen=True)
class Certificate:
    """The certificate that callers from other machines are shown. names: as "DNS:name" and so on. serial: in
    hexadecimal. key_uri: where its private key is, if on a token (RFC 7512); else empty."""

    subject: str
    names: tuple[str, ...]
    serial: str
    not_before: datetime | None
    not_after: datetime | None
    key_uri: str = ""


@dataclass(frozen=True)
class Status:
    """The state of a kmsd and its tokens."""

    version: str
    state: ServingState
    healthz: str
    """Exactly what KMS v2 Status answers: "ok" or the reason why not."""
    hint: str
    started: datetime | None
    write_label: str
    write_key: Key | None
    token: Token
    sessions: Sessions
    probe: Probe
    listeners: tuple[Listener, ...]
    problems: tuple[Problem, ...]
    keys: int
    write_format: str
    tokens: tuple[TokenStatus, ...] = ()
    following: Following = Following()
    not_alive: str = ""
    """The reason why only a restart can help, after which kmsd ends by itself; empty while it is alive."""
    now: datetime | None = None
    """The clock of kmsd when it answered; None if it is too old to tell."""
    host: str = ""
    """The name of the machine that it runs on; empty if kmsd is too old to say."""
    outgoing_key: Key | None = None
    """The key that a rotation replaces: the write key, or where nothing writes a key that holds the write label and
    cannot serve; None if there is none, or kmsd is too old to say."""
    tenants: tuple[TenantStatus, ...] = ()
    """The tenants of a key manager."""
    upstreams: tuple[Upstream, ...] = ()
    """The key managers that a proxy asks; none where kmsd has tokens of its own."""
    certificate: Certificate | None = None
    """The certificate that callers from other machines are shown; None where none are served."""

    @property
    def replaceable(self) -> Key | None:
        """The key that a rotation replaces, as far as is known."""
        return self.write_key or self.outgoing_key

    @property
    def healthy(self) -> bool:
        return self.healthz == "ok"
