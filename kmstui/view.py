"""The knowledge of kmsd at one moment: plain frozen data, made by the store and shown by the screens. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from time import monotonic
from typing import TYPE_CHECKING, Generic, TypeVar

from kmsd.client import (
    AuditRecord,
    AuditVerdict,
    Ca,
    ClientError,
    Config,
    Diagnosis,
    EnrolmentRequest,
    EnrolmentToken,
    Filter,
    Inspection,
    Key,
    Mechanism,
    Request,
    ScanReport,
    Slot,
    Status,
    Upstream,
)
from kmsd.client import Peer as Caller
from kmsd.client.clientconfig import Thresholds
from kmsd.client.fleet import Member
from kmsd.client.rotation import KeyTurnover
from kmstui.traffic import HISTORY, Traffic

if TYPE_CHECKING:
    from kmsd.client.printed import PrintedValue as Value

T = TypeVar("T")


class Want(StrEnum):
    """A thing that a screen needs to be asked for while it is looked at; the status is always read, and so are
    statistics."""

    KEYS = "keys"
    SLOTS = "slots"
    MECHANISMS = "mechanisms"
    CONFIG = "config"
    REQUESTS = "requests"
    AUDIT = "audit"
    CALLERS = "callers"
    PEERS = "peers"
    FLEET = "fleet"
    CA = "ca"
    ENROLMENT_TOKENS = "enrolment_tokens"
    ENROLMENT_REQUESTS = "enrolment_requests"


@dataclass(frozen=True)
class Moment:
    """A moment on two clocks: the wall's, for what kmsd dates; the steady one (seconds), for our own reads."""

    wall: datetime
    steady: float

    @classmethod
    def now(cls) -> Moment:
        """Return the present moment."""
        return cls(datetime.now(UTC), monotonic())


@dataclass(frozen=True)
class Reading(Generic[T]):
    """The last answer to one question.

    value: None until there was one. taken: when, on the steady clock. error: why the latest attempt failed;
    the value is then an old one.
    """

    value: T | None = None
    taken: float = 0.0
    error: ClientError | None = None

    def failed(self, error: ClientError) -> Reading[T]:
        """Return the reading with the error that kept it from being read anew."""
        return replace(self, error=error)


@dataclass(frozen=True)
class Numbered(Generic[T]):
    """An item with a number. number: in the order of arrival; tells two equal items apart."""

    number: int
    item: T


@dataclass(frozen=True)
class Tail(Generic[T]):
    """The end of a stream, oldest first. dropped: items that kmsd could not send fast enough.
    error: why the stream is not open; what is here is then old. due: when it is opened again, on the steady clock."""

    items: tuple[Numbered[T], ...] = ()
    dropped: int = 0
    error: ClientError | None = None
    due: float | None = None
    following: bool = False


@dataclass(frozen=True)
class Peer:
    """A kmsd that was named as another target."""

    target: str
    status: Reading[Status] = field(default_factory=Reading)


@dataclass(frozen=True)
class ObservedChange:
    """A change that kmstui saw happen itself."""

    time: datetime
    action: str
    text: str
    bad: bool = False


@dataclass(frozen=True)
class Inspected:
    """A value that was explained. source: where it came from. value: as found in the input. words: of the kmsctl
    command. taken: when, on the steady clock. trial: the key that opened it, or why it does not open; None: not tried.
    """

    source: str
    value: Value
    found: Inspection
    words: tuple[str, ...]
    taken: float
    trial: Key | ClientError | None = None


@dataclass(frozen=True)
class View:
    """A view of everything that a screen shows.

    targets: all that were named. interval: seconds between reads. due: when the next one begins, on the steady
    clock; None while one is under way, or paused. working: actions under way, in words. level: the log level that
    was set from here; empty if none was. changed_token: what the token was before, while nobody has taken note.
    """

    target: str
    interval: float
    targets: tuple[str, ...] = ()
    read_only: bool = False
    paused: bool = False
    due: float | None = None
    status: Reading[Status] = field(default_factory=Reading)
    keys: Reading[tuple[Key, ...]] = field(default_factory=Reading)
    slots: Reading[tuple[Slot, ...]] = field(default_factory=Reading)
    mechanisms: Mapping[str, Reading[tuple[Mechanism, ...]]] = field(default_factory=dict)
    """The mechanisms by name of the token in kmsd's configuration."""
    callers: Mapping[str, Reading[tuple[Caller, ...]]] = field(default_factory=dict)
    """The callers from other machines, by name of the tenant that they call for."""
    config: Reading[Config] = field(default_factory=Reading)
    ca: Reading[Ca] = field(default_factory=Reading)
    enrolment_tokens: Reading[tuple[EnrolmentToken, ...]] = field(default_factory=Reading)
    enrolment_requests: Reading[tuple[EnrolmentRequest, ...]] = field(default_factory=Reading)
    traffic: Traffic = field(default_factory=Traffic)
    tenant_traffic: Traffic = field(default_factory=Traffic)
    """The traffic of the tenant that `wanted` names."""
    requests: Tail[Request] = field(default_factory=Tail)
    wanted: Filter = field(default_factory=Filter)
    """Which requests `chosen` holds."""
    chosen: Tail[Request] = field(default_factory=Tail)
    """Requests of one sort, of which kmsd tells no others: a busy one does not push them out."""
    audit: Tail[AuditRecord] = field(default_factory=Tail)
    verdict: Reading[AuditVerdict] = field(default_factory=Reading)
    peers: tuple[Peer, ...] = ()
    nodes: tuple[str, ...] = ()
    """Targets that share a write key, as far as is known: those that were named together."""
    fleet: Mapping[str, Reading[Member]] = field(default_factory=dict)
    """The answers of each target about itself, by its name in `targets`."""
    sightings: tuple[ObservedChange, ...] = ()
    working: tuple[str, ...] = ()
    turn: KeyTurnover | None = None
    """The rotation that was begun from here."""
    report: tuple[str, ScanReport] | None = None
    """The counts of a scan of etcd, and the file that they were read from."""
    span: int = HISTORY
    """Seconds that plots cover."""
    diagnosis: Reading[Diagnosis] = field(default_factory=Reading)
    """The diagnosis of a token, when it was last tried."""
    inspected: Inspected | None = None
    limits: Thresholds = field(default_factory=Thresholds)
    level: str = ""
    changed_token: str = ""

    @property
    def upstreams(self) -> tuple[Upstream, ...]:
        """The key managers of a proxy, which has no token; none of any other kmsd."""
        return self.status.value.upstreams if self.status.value is not None else ()

    @property
    def lost(self) -> bool:
        """Whether kmsd did not answer the latest question."""
        return self.status.error is not None
