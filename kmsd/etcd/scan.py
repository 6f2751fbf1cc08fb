"""Counts what etcd holds: how many objects need which key. Holds one page at a time, and keeps no value.

The whole scan is read at one revision, so that an object that is rewritten meanwhile is counted once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final, NamedTuple, Protocol

from kmsd.client.errors import ClientError, InvalidRequest
from kmsd.client.model.scan import KeyInEtcd, ScanReport
from kmsd.etcd.client import Compacted, PageTooLarge, RangePage
from kmsd.etcd.envelope import Damaged, KmsValue, Need, Plain, Transformed, Value, need, parse
from kmsd.etcd.resources import resource, root
from kmsd.formats import keyid
from kmsd.formats.ciphertext import CiphertextFormat
from kmsd.formats.keyid import Names

PAGE_KEYS_FIRST: Final = 256
PAGE_KEYS_MAX: Final = 2000
ENDS_MAX: Final = 1_000_000
"""Objects whose keys are remembered to be rewritten."""
PAGE_BYTES_WANTED: Final = 2 << 20
"""Octets that a page should have: pages grow or shrink towards this."""
ROWS_MAX: Final = 10_000
"""Different rows that are counted apart; what comes after is counted as not understood."""
STARTS_MAX: Final = 5
KEY_MOST: Final = 1024

_TOO_MANY: Final = "too many different providers, resources and keys to count them apart"
_TOO_LARGE: Final = "the value is larger than a page may be"


class Storage(StrEnum):
    """The ways in which an object is stored."""

    KMS_V1 = "kms-v1"
    KMS_V2 = "kms-v2"
    AESCBC = "aescbc"
    AESGCM = "aesgcm"
    SECRETBOX = "secretbox"
    IDENTITY = "identity"
    PLAINTEXT = "plaintext"
    UNKNOWN = "unknown"
    """Looks encrypted and cannot be understood."""

    @property
    def needs_kms(self) -> bool:
        return self in (Storage.KMS_V1, Storage.KMS_V2)


class ScanRow(NamedTuple):
    """A kind of objects that are counted together. key: a key id, or a label if by_label; empty if none is needed, or
    none is named. format: of the encrypted data key; empty without one. reason: why it cannot be told which key is
    needed. label: what the ciphertext calls its key beside a key id; empty if it does not."""

    resource: str
    storage: Storage
    provider: str = ""
    key: str = ""
    by_label: bool = False
    format: str = ""
    reason: str = ""
    label: str = ""

    @property
    def needs_unknown_key(self) -> bool:
        """Whether these objects may need any key."""
        return bool(self.reason)

    def is_under(self, key_id: str) -> bool:
        """Return whether these objects name a key by its id, in whatever spelling. What looks like a label may be an
        id: a token that chooses its IVs itself makes kmsd's own format look like k8s-kms-plugin's."""
        return keyid.means(self.key, key_id)

    def may_need(self, names: Names) -> bool:
        """Return whether these objects may need a key with one of these names."""
        return names.include(self.key, self.label)


@dataclass(frozen=True)
class Count:
    """The number of objects in a row."""

    row: ScanRow
    objects: int


@dataclass(frozen=True)
class NamedObject:
    """An object by its key in etcd, at most KEY_MOST characters of it."""

    key: str
    row: ScanRow


@dataclass(frozen=True)
class ScanOptions:
    """A choice of objects to be shown by name, the first `most` of them. ends: of whose keys the ends are wanted; None:
    of none."""

    most: int
    which: Callable[[ScanRow], bool]
    ends: Callable[[ScanRow], bool] | None = None


_NOTHING: Final = ScanOptions(0, lambda _: False)


@dataclass(frozen=True)
class EtcdScan:
    """The result of a scan. prefix: without a slash at its end. counts: sorted by row. starts: how often it began, as
    etcd compacts. shown: the objects that were wanted by name. ends: resource -> the last two parts of its objects'
    keys, where they were wanted; None: they are too many to be remembered."""

    started: datetime
    finished: datetime
    cluster_id: int
    prefix: str
    revision: int
    objects: int
    counts: tuple[Count, ...]
    starts: int = 1
    shown: tuple[NamedObject, ...] = ()
    ends: Mapping[str, Collection[str] | None] = field(default_factory=dict)

    def sum(self, which: Callable[[ScanRow], bool]) -> int:
        """Count the objects in the rows that the function picks."""
        return sum(each.objects for each in self.counts if which(each.row))

    @property
    def plaintext(self) -> int:
        return self.sum(lambda row: row.storage is Storage.PLAINTEXT)

    @property
    def unknown(self) -> int:
        return self.sum(lambda row: row.needs_unknown_key)

    def under(self, key_id: str) -> int:
        """Return the number of objects that name this key by its id."""
        return self.sum(lambda row: row.is_under(key_id))

    def resources(self, which: Callable[[ScanRow], bool]) -> tuple[str, ...]:
        """Return the resources that the rows belong to, sorted, each once."""
        return tuple(sorted({each.row.resource for each in self.counts if which(each.row)}))

    def report(self) -> ScanReport:
        """Return what retiring a key asks for."""
        uses: Counter[tuple[str, bool, str]] = Counter()
        for each in self.counts:
            if each.row.key:
                uses[each.row.key, each.row.by_label, each.row.label] += each.objects
        return ScanReport(
            started=self.started,
            finished=self.finished,
            cluster_id=self.cluster_id,
            prefix=self.prefix,
            revision=self.revision,
            objects=self.objects,
            unknown=self.unknown,
            uses=tuple(
                KeyInEtcd(key, objects, by_label, label) for (key, by_label, label), objects in sorted(uses.items())
            ),
        )


@dataclass(frozen=True)
class ScanProgress:
    """The progress of a scan. objects: counted so far. expected: what etcd said there are; starts: 2 and more after a
    compaction."""

    objects: int
    expected: int
    starts: int


class Pages(Protocol):
    """An etcd as far as a scan needs it."""

    def page(self, start: bytes, end: bytes, *, limit: int, revision: int = 0, keys_only: bool = False) -> RangePage:
        """Read at most `limit` keys from `start` to before `end`."""


def scan(
    etcd: Pages,
    prefix: str = "/registry",
    on_page: Callable[[ScanProgress], None] = lambda _: None,
    wanted: ScanOptions = _NOTHING,
) -> EtcdScan:
    """Read everything below `prefix`. on_page: called after each page. wanted: objects to be shown by name.

    Raises ClientError; InvalidRequest if the prefix is none.
    """
    below = parse_prefix(prefix)
    started = datetime.now(UTC)
    for attempt in range(1, STARTS_MAX + 1):
        tally = _Tally(root(below), wanted)
        try:
            revision, cluster_id = _read(etcd, below.encode(), tally, on_page, attempt)
        except Compacted:
            continue
        return EtcdScan(
            started=started,
            finished=datetime.now(UTC),
            cluster_id=cluster_id,
            prefix=below.rstrip("/") or "/",
            revision=revision,
            objects=tally.objects,
            counts=tally.counts(),
            starts=attempt,
            shown=tuple(tally.shown),
            ends=tally.ends,
        )
    raise ClientError(
        f"etcd compacted what was being read, {STARTS_MAX} times",
        "scan smaller prefixes, or from a host nearer to etcd: kube-apiserver compacts every 5 minutes",
        "OUT_OF_RANGE",
        retryable=True,
    )


def parse_prefix(text: str) -> str:
    """Return the prefix with one slash at each end, as kube-apiserver uses it. Raises InvalidRequest."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidRequest(f"the prefix {text!r} is not UTF-8", "name it in UTF-8", "INVALID_ARGUMENT") from None
    if not text or len(text) > 1024:
        raise InvalidRequest(
            f"the prefix has {len(text)} characters, and 1 to 1024 are allowed",
            "it is kube-apiserver's --etcd-prefix, /registry unless told otherwise",
            "INVALID_ARGUMENT",
        )
    inner = text.strip("/")
    return f"/{inner}/" if inner else "/"


@dataclass(frozen=True)
class _Step:
    """The place to go on from after a page, None after the last, and what is known by then. left: objects still to
    come."""

    start: bytes | None
    limit: int
    revision: int
    cluster_id: int
    left: int


def _read(
    etcd: Pages, below: bytes, tally: _Tally, on_page: Callable[[ScanProgress], None], attempt: int
) -> tuple[int, int]:
    """Read all pages; return the revision and the cluster they were read from."""
    end = below[:-1] + b"0"  # the byte after the slash: every key that begins with the prefix is before it
    step = _Step(below, PAGE_KEYS_FIRST, 0, 0, 0)
    while step.start is not None:
        step = _page(etcd, step.start, end, step, tally)
        on_page(ScanProgress(tally.objects, tally.objects + step.left, attempt))
    return step.revision, step.cluster_id


def _page(etcd: Pages, start: bytes, end: bytes, step: _Step, tally: _Tally) -> _Step:
    """Read and count one page; it is gone before the next is asked for."""
    limit = step.limit
    try:
        page = etcd.page(start, end, limit=limit, revision=step.revision)
    except PageTooLarge:
        if limit > 1:
            return replace(step, limit=max(1, limit // 4))
        page = etcd.page(start, end, limit=1, revision=step.revision, keys_only=True)
        tally.add_unreadable(item.key for item in page.items)
    else:
        for item in page.items:
            tally.add(item.key, item.value)
        limit = _next_limit(limit, page)
    return _Step(
        start=page.items[-1].key + b"\0" if page.more and page.items else None,
        limit=limit,
        revision=step.revision or page.revision,
        cluster_id=page.cluster_id,
        left=page.count - len(page.items),
    )


def _next_limit(limit: int, page: RangePage) -> int:
    """Return how many keys to ask for next, so that the answer has about the octets that are wanted."""
    if not page.items:
        return limit
    fitting = PAGE_BYTES_WANTED * len(page.items) // max(page.octets, 1)
    return max(1, min(fitting, 4 * limit, PAGE_KEYS_MAX))


class _Tally:
    """The rows so far, bounded in number."""

    def __init__(self, root: str, wanted: ScanOptions = _NOTHING) -> None:
        self.objects = 0
        self.shown: list[NamedObject] = []
        self.ends: dict[str, set[str] | None] = {}
        self._remembered = 0
        self._wanted = wanted
        self._root = root.encode()
        self._rows: Counter[ScanRow] = Counter()

    def add(self, key: bytes, value: bytes) -> None:
        self._count(key, row_of(resource(key, self._root), parse(value)))

    def add_unreadable(self, keys: Iterable[bytes]) -> None:
        for key in keys:
            self._count(key, ScanRow(resource(key, self._root), Storage.UNKNOWN, reason=_TOO_LARGE))

    def counts(self) -> tuple[Count, ...]:
        return tuple(Count(row, objects) for row, objects in sorted(self._rows.items()))

    def _count(self, key: bytes, row: ScanRow) -> None:
        self.objects += 1
        if len(self.shown) < self._wanted.most and self._wanted.which(row):
            self.shown.append(NamedObject(key[:KEY_MOST].decode(errors="backslashreplace")[:KEY_MOST], row))
        if self._wanted.ends is not None and self._wanted.ends(row):
            self._remember(row.resource, key)
        if len(self._rows) >= ROWS_MAX and row not in self._rows:
            row = ScanRow("?", Storage.UNKNOWN, reason=_TOO_MANY)
        self._rows[row] += 1

    def _remember(self, resource: str, key: bytes) -> None:
        known = self.ends.setdefault(resource, set())
        if known is None:
            return
        if self._remembered >= ENDS_MAX:
            self.ends[resource] = None
            return
        self._remembered += 1
        known.add(b"/".join(key.rsplit(b"/", 2)[-2:]).decode(errors="backslashreplace"))


def row_of(resource: str, value: Value) -> ScanRow:
    """Return where an object is counted."""
    match value:
        case Plain():
            return ScanRow(resource, Storage.PLAINTEXT)
        case Transformed(transform):
            return ScanRow(resource, Storage(transform.value))
        case Damaged(reason, _, provider):
            return ScanRow(resource, Storage.UNKNOWN, provider, reason=reason)
        case KmsValue():
            return _kms_row(resource, value, need(value))


def _kms_row(resource: str, value: KmsValue, needs: Need) -> ScanRow:
    key = needs.key
    return ScanRow(
        resource,
        Storage.KMS_V1 if value.version == "v1" else Storage.KMS_V2,
        value.provider,
        key.text if key else "",
        by_label=key.by_label if key else False,
        format="" if needs.format is CiphertextFormat.UNKNOWN else needs.format.value,
        reason=needs.reason,
        label=needs.label,
    )
