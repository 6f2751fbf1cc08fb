"""Watches a rotation: asks every node, scans etcd when it is time, and makes the timeline of what it sees.

Everything slow runs on threads of its own, so that whoever shows the timeline is never kept waiting. Knows nothing
of how it is shown.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from kmsctl.etcdplace import EtcdPlace
from kmsctl.rewrite.plan import RewritePlan
from kmsctl.rotate.rewrites import Rewrites
from kmsctl.stored import elsewhere, keeping, own, progress_text, still_under
from kmsd.client import ClientError, Conflict, Denied, InvalidRequest, Key, KeyState, NotFound, RelabelledKey
from kmsd.client.rotation import KeyTurnover, NodeSighting, StageName, StageProgress, Stored, Timeline
from kmsd.client.timeline import timeline

if TYPE_CHECKING:
    from kmsd.client.admin import AdminClient
    from kmsd.etcd.scan import EtcdScan, ScanOptions

POLL = 1.0
"""Seconds between two looks at a node."""
LOOK_TIMEOUT = 5.0
"""Seconds for one look."""
PAUSES = 10
"""A scan is followed by a pause of so many times its length, if that is more than was asked for."""


@dataclass(frozen=True)
class Node:
    """A kmsd of the cluster. client: of its admin socket. tenant: whose key is watched; empty: that of its own
    sockets."""

    name: str
    client: AdminClient
    tenant: str = ""


class _Looker(threading.Thread):
    """A thread that asks one node again and again. sighting: what it said last; None before its first answer."""

    def __init__(self, node: Node, old_key_sha256: str, wake: Callable[[], None], over: threading.Event) -> None:
        super().__init__(daemon=True, name=f"look at {node.name}")
        self.sighting: NodeSighting | None = None
        self.retired = False
        self._node = node
        self._old = old_key_sha256
        self._wake = wake
        self._over = over

    def run(self) -> None:
        while True:
            self.sighting = self._look()
            self._wake()
            if self._over.wait(POLL):
                return

    def _look(self) -> NodeSighting:
        try:
            status = self._node.client.get_status(tenant=self._node.tenant, timeout=LOOK_TIMEOUT)
            self.retired = self.retired or self._is_retired()
        except ClientError as error:
            return NodeSighting(self._node.name, None, error.message)
        return NodeSighting(self._node.name, status)

    def _is_retired(self) -> bool:
        """Return whether the old key is archived, or destroyed."""
        if not self._old:
            return False
        try:
            return self._node.client.get_key(f"sha256:{self._old}", timeout=LOOK_TIMEOUT).key.state is KeyState.ARCHIVED
        except NotFound:
            return True


class _Stopped(Exception):
    pass


class _Scanner(threading.Thread):
    """A scan, and the keys that its counts are held against. scan or failure: its end; text: how far it is until
    then."""

    def __init__(
        self,
        place: EtcdPlace,
        client: AdminClient,
        timeout: float,
        wake: Callable[[], None],
        over: threading.Event,
        wanted: ScanOptions,
    ) -> None:
        super().__init__(daemon=True, name="scan of etcd")
        self.text = "reading etcd"
        self.scan: EtcdScan | None = None
        self.keys: tuple[Key, ...] = ()
        self.failure: Exception | None = None
        self._client = client
        self._place = place
        self._timeout = timeout
        self._wake = wake
        self._over = over
        self._wanted = wanted

    def run(self) -> None:
        from kmsd.etcd.scan import ScanProgress, scan

        def tell(progress: ScanProgress) -> None:
            if self._over.is_set():
                raise _Stopped
            self.text = progress_text(progress)
            self._wake()

        try:
            with self._place.connect(self._timeout) as etcd:
                found = scan(etcd, self._place.prefix, tell, self._wanted)
            self.keys = self._client.list_keys(timeout=self._timeout)
            self.scan = found
        except Exception as error:  # noqa: BLE001 - Watch.step raises it, unless another scan may do better
            self.failure = error
        self._wake()


class RotationWatch:
    """The rotation of `turn`, watched on `nodes`, the first of which is asked to retire the old key.

    place: where to scan, None not to. timeout: seconds for each call. scan_every: seconds between two scans, at least.
    show: how many of the objects that keep the old key are wanted by name. rewrite: how objects are rewritten; None:
    somebody else does.
    wake: called from other threads when there may be something new. Use it as a context: it ends its threads.
    """

    def __init__(
        self,
        turn: KeyTurnover,
        nodes: Sequence[Node],
        place: EtcdPlace | None,
        *,
        timeout: float,
        scan_every: float,
        show: int = 0,
        rewrite: RewritePlan | None = None,
        wake: Callable[[], None],
    ) -> None:
        self.turn = turn
        self.scan: EtcdScan | None = None
        self._stored: Stored | None = None
        self.trouble = ""
        """The reason why the last scan, or the last try to retire the old key, failed."""
        self._first = nodes[0]
        self._place = place
        self._timeout = timeout
        self._scan_every = scan_every
        self._show = show
        self._wake = wake
        self._over = threading.Event()
        self.rewrites = Rewrites(rewrite, turn, wake, self._over)
        self._old = turn.old.key_id_sha256 if turn.old is not None else ""
        self._lookers = [_Looker(each, self._old, wake, self._over) for each in nodes]
        self._scanner: _Scanner | None = None
        self._next_scan = 0.0
        self._retired = False

    def __enter__(self) -> RotationWatch:
        for each in self._lookers:
            each.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()

    @property
    def complete(self) -> bool:
        """Whether every node has been asked once."""
        return all(each.sighting is not None for each in self._lookers)

    @property
    def note(self) -> str:
        """Return what goes on just now, or went wrong."""
        return self._scanner.text if self._scanner is not None else self.rewrites.note or self.trouble

    def scan_now(self) -> None:
        """Have the next step begin a scan, if that makes sense by then."""
        self._next_scan = 0.0

    def step(self, now: datetime) -> Timeline:
        """Return what is seen by now; begin a scan if it is time for one. Raises what no other try can heal."""
        self._collect()
        if self.rewrites.collect():
            self._next_scan = time.monotonic() + (self._scan_every if self.rewrites.vain else 0.0)
        found = self._timeline(now)
        if self._begin_scan(found) or self._rewrite_blindly(found):
            found = self._timeline(now)
        return found

    def retire(self) -> RelabelledKey:
        """Have the old key retired, on the strength of the last scan. Raises ClientError."""
        report = self.scan.report() if self.scan is not None else None
        done = self._first.client.retire_key(f"sha256:{self._old}", scan=report, timeout=self._timeout)
        self._retired = True
        return done

    def try_to_retire(self) -> None:
        """Have the old key retired as `retire` does, but only note what may heal with the next scan. Raises ClientError
        for the rest."""
        try:
            self.retire()
        except ClientError as error:
            if not error.retryable and not isinstance(error, Conflict):
                raise
            self.trouble = f"not retired yet: {error.message}"
            # What was counted has not convinced kmsd: only another count can.
            self.scan = self._stored = None
            self._next_scan = time.monotonic() + self._scan_every

    def _timeline(self, now: datetime) -> Timeline:
        sightings = [each.sighting for each in self._lookers if each.sighting is not None]
        return timeline(
            self.turn,
            sightings,
            now,
            stored=self._stored,
            scanning=self._scanner is not None,
            scans=self._place is not None,
            rewrites=self.rewrites.stage,
            retired=self._retired or self._lookers[0].retired,
        )

    def _begin_scan(self, found: Timeline) -> bool:
        """Start a scan if it is time for one. Return whether it was."""
        place, old = self._place, self.turn.old
        if place is None or old is None or self._scanner is not None or not self._is_due(found):
            return False
        from kmsd.etcd.scan import ScanOptions

        wanted = ScanOptions(self._show, keeping(old), elsewhere(self.turn.new) if self.rewrites.wanted else None)
        self._scanner = _Scanner(place, self._first.client, self._timeout, self._wake, self._over, wanted)
        self._scanner.start()
        return True

    def _rewrite_blindly(self, found: Timeline) -> bool:
        """Start the rewriting of what was named, where nothing is scanned and it is time. Return whether it is under
        way."""
        if self._place is None and found[StageName.APISERVERS].progress is StageProgress.DONE:
            self.rewrites.without_scan()
        return self.rewrites.active

    def _is_due(self, found: Timeline) -> bool:
        if found.finished or self.rewrites.active or time.monotonic() < self._next_scan:
            return False
        return (
            found[StageName.APISERVERS].progress is StageProgress.DONE
            and found[StageName.RETIRE].progress is not StageProgress.ACTIVE
        )

    def _collect(self) -> None:
        """Take over what a scan has found, and say when the next may be."""
        scanner = self._scanner
        if scanner is None or scanner.is_alive():
            return
        self._scanner = None
        if scanner.scan is None:
            self._failed(scanner.failure)
            return
        self.scan, self.trouble = scanner.scan, ""
        if self.turn.old is not None:
            self.trouble = own(self.scan.resources(keeping(self.turn.old)))
            self._stored = Stored(self.scan.report(), still_under(self.scan, self.turn.old), scanner.keys)
            self.rewrites.after(self.scan, scanner.keys)
        took = (scanner.scan.finished - scanner.scan.started).total_seconds()
        self._next_scan = time.monotonic() + self._pause(took)

    def _failed(self, failure: Exception | None) -> None:
        if isinstance(failure, (Denied, InvalidRequest)) or not isinstance(failure, ClientError):
            raise failure or _Stopped
        self.trouble = failure.message
        self._next_scan = time.monotonic() + self._scan_every

    def _pause(self, took: float) -> float:
        """Return seconds until the next scan: at once when one becomes a proof, else so that etcd has time for
        others."""
        pause = max(self._scan_every, PAUSES * took)
        due = self._timeline(datetime.now(UTC))[StageName.SCAN].due
        if due is not None:
            pause = min(pause, max(0.0, (due - datetime.now(UTC)).total_seconds()) + 0.1)
        return pause
