"""The rewriting of what a rotation leaves under the old key: when a pass begins, and when no other one helps.

A scan of etcd says what there is; without one, all objects of the resources that were named are rewritten, once.
Knows nothing of how the rest of a rotation is shown.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from kmsctl import diagnostics, output
from kmsctl.output import OutputFormat
from kmsctl.rewrite.plan import RewritePlan, RewriteWay, Wanted
from kmsctl.stored import elsewhere, under
from kmsd.client import ClientError, Denied, InvalidRequest, Key
from kmsd.client.names import names_of
from kmsd.client.rotation import KeyTurnover, counted
from kmsd.client.timeline import FOLLOW

if TYPE_CHECKING:
    from kmsctl.rewrite.rewriting import Rewriting
    from kmsctl.rewrite.tally import ResourceTally
    from kmsd.etcd.scan import EtcdScan


class Rewrites:
    """The passes of rewriting that belong to one rotation. plan: None: nobody rewrites here. wake, over: as of
    RotationWatch. tallies: of all passes that have ended. trouble: why the last pass ended early. vain: whether it
    changed nothing in etcd."""

    def __init__(
        self, plan: RewritePlan | None, turn: KeyTurnover, wake: Callable[[], None], over: threading.Event
    ) -> None:
        self.tallies: list[ResourceTally] = []
        self.trouble = ""
        self.vain = False
        self._plan = plan
        self._turn = turn
        self._wake = wake
        self._over = over
        self._pass: Rewriting | None = None
        self._left: int | None = None
        self._by_migration = False
        self._begun = False
        self._told = 0

    @property
    def wanted(self) -> bool:
        """Whether stored objects are rewritten by this command itself."""
        return self._plan is not None

    @property
    def active(self) -> bool:
        """Whether objects are being rewritten now; the old key is not retired before that ends."""
        return self._pass is not None

    @property
    def note(self) -> str:
        """Return what goes on just now, with numbers; empty if nothing does."""
        return self._pass.text if self._pass is not None else ""

    @property
    def stage(self) -> str | None:
        """Return what the timeline says of it; None if somebody else is to rewrite."""
        if self._plan is None:
            return None
        if self._pass is not None:
            return self._pass.summary
        return self.trouble or ("rewritten" if self._begun else "")

    @property
    def over(self) -> bool:
        """Whether all objects have been rewritten once, as is done where etcd is not scanned."""
        return self._begun and self._pass is None

    def without_scan(self) -> None:
        """Rewrite the resources that were named, if that has not begun."""
        if self._plan is not None and not self._begun:
            self._begin(self._plan, dict.fromkeys(self._plan.resources))

    def after(self, scan: EtcdScan, keys: Sequence[Key]) -> None:
        """Rewrite what a scan has found under other keys than the new one, also under such that are gone. keys: all of
        kmsd's. Raises ClientError if that has not become less by the last pass, and keeps the old key."""
        from kmsd.etcd.resources import rewritable

        plan, old = self._plan, self._turn.old
        wanted = {name: ends for name, ends in scan.ends.items() if rewritable(name)}
        if plan is None or old is None or self._pass is not None or not wanted:
            return
        stale, is_old, known = elsewhere(self._turn.new), under(old), names_of(*keys)
        left = scan.sum(lambda row: stale(row) and rewritable(row.resource))
        if self._left is not None and left >= self._left and not self.trouble:
            keeps = scan.sum(
                lambda row: (stale(row) and rewritable(row.resource)) and (is_old(row) or not row.may_need(known))
            )
            if not keeps:
                return
            if not self._by_migration and not self._may_follow():
                raise self._stuck(keeps)
            plan = replace(plan, way=RewriteWay.UPDATES)
        self._left = left
        self._begin(plan, wanted)

    def collect(self) -> bool:
        """Take over what a pass has done, if one has ended. Return whether one has. Raises what no other pass can
        heal."""
        ended = self._pass
        if ended is None or ended.is_alive():
            return False
        self._pass = None
        self.tallies += ended.tallies
        self.vain = not any(each.moved for each in ended.tallies)
        self._by_migration = any(each.by == "migration" for each in ended.tallies)
        failure = ended.failure
        self.trouble = failure.message if isinstance(failure, ClientError) else ""
        if isinstance(failure, (Denied, InvalidRequest)) or (failure is not None and not self.trouble):
            raise failure
        return True

    def untold(self) -> list[ResourceTally]:
        """Return the counts that no call before has returned."""
        found = self.tallies[self._told :]
        self._told = len(self.tallies)
        return found

    def check(self) -> None:
        """Raise ClientError if the pass without scans left something as it was."""
        if self.trouble or any(each.refusals or each.trouble for each in self.tallies):
            raise ClientError(self.trouble or "not everything was rewritten", _AGAIN, retryable=bool(self.trouble))

    def _may_follow(self) -> bool:
        """Return whether objects were held to be current by what may be a kube-apiserver that has not followed yet: one
        of a node that was not named, behind the same address."""
        started = self._turn.started
        young = started is not None and datetime.now(UTC) < started + FOLLOW
        return young and any(each.unchanged for each in self.tallies)

    def _begin(self, plan: RewritePlan, wanted: Wanted) -> None:
        from kmsctl.rewrite.rewriting import Rewriting

        self._begun = True
        self._pass = Rewriting(plan, wanted, self._turn.new.key_id_sha256[:12], self._wake, self._over)
        self._pass.start()

    def _stuck(self, left: int) -> ClientError:
        last = {each.resource: each for each in self.tallies}.values()
        hints = []
        if any(each.refusals for each in last):
            hints.append("change what was refused, or what refuses it")
        if any(each.unserved for each in last):
            hints.append(
                "what is not served was left by an API that is gone: `etcdctl del KEY`, once nobody wants it back"
            )
        if any(each.unchanged for each in last):
            hints.append(
                "what is held to be current is under KMS v1, where an update that changes nothing writes nothing, or "
                "its kube-apiserver has not followed: docs/rotation.md"
            )
        if not any(each.moved for each in last):
            hints.append("is it this etcd's cluster that the context of the kubeconfig names?")
        return ClientError(
            f"{counted(left)} still under the old key or a name that no key has, and rewriting does not help",
            "; ".join([*hints, _AGAIN]),
            "FAILED_PRECONDITION",
        )


def tell(rewrites: Rewrites, form: OutputFormat) -> None:
    """Tell what the passes came to that have ended since the last call."""
    for tally in rewrites.untold():
        if form is OutputFormat.JSON:
            output.emit_line(tally.document())
            continue
        diagnostics.note(tally.sentence())
        for line in tally.named():
            diagnostics.note(f"not rewritten: {line}")


_AGAIN = "the same command then goes on"
