"""Objects of several resources rewritten through one kube-apiserver, one resource after the other.

By StorageVersionMigrations where they are served and acted on, else by updates. Runs in a thread of its own, so that
whoever shows the progress is never kept waiting; what it has done when it is killed need not be done again.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Collection
from typing import Final

from kmsctl.kubeapi.connection import KubeApi
from kmsctl.kubeapi.discovery import ApiResource, Discovery, checked
from kmsctl.rewrite.migrations import Migration, version_of
from kmsctl.rewrite.pace import Pace
from kmsctl.rewrite.plan import RewritePlan, RewriteWay, Wanted
from kmsctl.rewrite.tally import ResourceTally
from kmsctl.rewrite.updates import Updates
from kmsd.client import ClientError, Unreachable

REQUEST_SECONDS: Final = 40.0
"""Seconds for one request; kube-apiserver ends its own after 34 (a patch) to 60."""

TELL_EVERY: Final = 0.5
"""Seconds between two tidings of progress."""


def check(plan: RewritePlan) -> None:
    """Find out whether kube-apiserver answers with these credentials, before anything is changed. Raises
    ClientError, UsageError."""

    async def ask() -> None:
        async with KubeApi(plan.access, timeout=REQUEST_SECONDS) as api:
            checked(await api.ask("GET", "/apis"), "the list of API groups")

    asyncio.run(ask())


class Rewriting(threading.Thread):
    """A rewriting under way. wanted: what is to be rewritten. turn: names what is made in the cluster for it. wake:
    called from the thread when there may be something new; over: ends it. tallies and failure: what came of it."""

    def __init__(
        self, plan: RewritePlan, wanted: Wanted, turn: str, wake: Callable[[], None], over: threading.Event
    ) -> None:
        super().__init__(daemon=True, name="rewriting of stored objects")
        self.tallies: list[ResourceTally] = []
        self.failure: Exception | None = None
        self._plan = plan
        self._wanted = wanted
        self._turn = turn
        self._wake = wake
        self._woken = 0.0
        self._over = over
        self._doing = "asking kube-apiserver what it serves"

    @property
    def text(self) -> str:
        """Return what goes on just now."""
        if not self.tallies:
            return self._doing
        tally = self.tallies[-1]
        if tally.by == "migration":
            return f"rewriting {tally.resource}: {self._doing}"
        of = "" if tally.wanted is None else f" of {tally.wanted:,}"
        return f"rewriting {tally.resource}: {tally.done:,}{of} objects"

    @property
    def summary(self) -> str:
        """Return what goes on, without numbers that change all the time."""
        return f"rewriting {', '.join(sorted(self._wanted))}"

    def run(self) -> None:
        """Rewrite all that is wanted, and wake who waits for it."""
        try:
            asyncio.run(self._run())
        except Exception as error:  # noqa: BLE001 - whoever started it raises it, unless a later try may do better
            self.failure = error
        self._wake()

    def _tell(self) -> None:
        """Wake who shows the progress, now and then."""
        if time.monotonic() - self._woken >= TELL_EVERY:
            self._woken = time.monotonic()
            self._wake()

    async def _run(self) -> None:
        work = asyncio.ensure_future(self._rewrite_all())
        while not work.done():
            await asyncio.wait([work], timeout=0.2)
            if self._over.is_set():
                work.cancel()
        await work

    async def _rewrite_all(self) -> None:
        pace = Pace(self._plan.rate)
        async with KubeApi(self._plan.access, timeout=REQUEST_SECONDS) as api:
            discovery = Discovery(api)
            version = "" if self._plan.way is RewriteWay.UPDATES else await version_of(discovery)
            for name, ends in sorted(self._wanted.items()):
                tally = ResourceTally(name, None if ends is None else len(ends))
                self.tallies.append(tally)
                try:
                    await self._rewrite(api, discovery, version, tally, ends, pace)
                except Unreachable:
                    raise
                except ClientError as error:
                    tally.trouble = error.message
                self._wake()

    async def _rewrite(
        self,
        api: KubeApi,
        discovery: Discovery,
        version: str,
        tally: ResourceTally,
        ends: Collection[str] | None,
        pace: Pace,
    ) -> None:
        resource = await discovery.find(tally.resource)
        if resource is None:
            tally.unserved = tuple(sorted(ends or ()))
            tally.trouble = "kube-apiserver does not serve it"
            return
        if missing := {"list", "patch"} - resource.verbs:
            tally.trouble = f"kube-apiserver has no {' and no '.join(sorted(missing))} for it"
            return
        if version:
            tally.by = "migration"
            tally.instead = await self._migrate(api, version, tally, resource)
            if not tally.instead:
                return
        if self._plan.way is RewriteWay.MIGRATIONS:
            tally.trouble = "" if version else "kube-apiserver serves no StorageVersionMigration"
            return
        tally.by = "updates"
        await Updates(api, resource, tally, pace, self._tell, ends).run()

    async def _migrate(self, api: KubeApi, version: str, tally: ResourceTally, resource: ApiResource) -> str:
        """Return why no migration did it; empty after one that did."""

        def tell(text: str) -> None:
            self._doing = text
            self._tell()

        try:
            return await Migration(api, version, resource, self._turn).run(tell)
        except Unreachable:
            raise
        except ClientError as error:
            return error.message
