"""The metrics of a kmsd, by the admin API, and over HTTP with its probes if [observe] asks for that.

What only these need, aiohttp and prometheus-client, is loaded when it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from kmsd.apis.admin_metrics import MetricsAdmin
from kmsd.audit.trail import Audit
from kmsd.config.settings import Observe
from kmsd.errors import KmsdError
from kmsd.metrics.samples import Sample
from kmsd.observe import logs
from kmsd.problem import About, Problem
from kmsd.transport.call import Table

if TYPE_CHECKING:
    from kmsd.metrics.exposition import Exposition
    from kmsd.metrics.listener import HttpListener

log = logs.get_logger("kmsd.metrics")

Checks = Sequence[tuple[str, KmsdError | str | None]]
"""Names of checks, each with what is wrong; nothing if it is well."""


class Observed:
    """The metrics and probes. samples: returns the values of all metrics now. live, ready: return the checks of the
    probes. Nothing of that may wait."""

    def __init__(
        self,
        settings: Observe,
        audit: Audit,
        samples: Callable[[], Iterable[Sample]],
        live: Callable[[], Checks],
        ready: Callable[[], Checks],
    ) -> None:
        self._settings = settings
        self._audit = audit
        self._samples = samples
        self._live = live
        self._ready = ready
        self._listener: HttpListener | None = None

    def table(self) -> Table:
        """Return the methods of the admin API."""
        return MetricsAdmin(lambda: self._exposition.text()).table()

    @cached_property
    def _exposition(self) -> Exposition:
        from kmsd.metrics.exposition import Exposition

        return Exposition(self._samples)

    async def start(self) -> None:
        """Answer over HTTP, if that is asked for and the place can be had; else try again until it can."""
        if not self._settings.listen:
            return
        from kmsd.metrics.listener import HttpListener
        from kmsd.metrics.server import Check, Probes, application

        def told(checks: Checks) -> Sequence[Check]:
            return [Check(name, why.message if isinstance(why, KmsdError) else why or "") for name, why in checks]

        probes = Probes(
            lambda: told(self._live()), lambda: told(self._ready()), lambda form: self._exposition.text(form)
        )
        self._listener = HttpListener(
            self._settings.listen, self._settings.group, application(probes), self._changed
        )  # fmt: skip
        await self._listener.start()

    async def stop(self) -> None:
        """Answer nobody any more."""
        if self._listener is not None:
            await self._listener.stop()

    @property
    def listening(self) -> Iterator[tuple[str, Sequence[str]]]:
        """The place if it is open, with what is there."""
        if self._listener is not None and self._listener.is_open:
            yield self._listener.where, ("metrics", "probes")

    def problems(self) -> Iterator[Problem]:
        """Yield why nothing answers, if so."""
        if self._listener is not None and (error := self._listener.problem) is not None:
            yield Problem(error.message, error.hint, fatal=False, about=About(setting="observe.listen"))

    def _changed(self, error: KmsdError | None) -> None:
        if error is None:
            log.info("serving metrics and probes", address=self._settings.listen)
            self._audit.event("metrics serving", detail=self._settings.listen)
        else:
            log.warning(error.message, hint=error.hint)
            self._audit.event("metrics not serving", outcome=error.code, detail=error.message)
