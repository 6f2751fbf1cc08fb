"""Write the metrics in the formats of Prometheus. Loads prometheus-client, which nothing else of kmsd needs."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterable, Iterator
from time import monotonic
from typing import Any, Final

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, SummaryMetricFamily
from prometheus_client.core import Metric as Family
from prometheus_client.openmetrics import exposition as openmetrics

from kmsd.metrics.catalogue import KEY_OPERATIONS, METRICS, Metric
from kmsd.metrics.keys import KeySeries
from kmsd.metrics.samples import KeyUses, Sample, Totals
from kmsd.observe.histogram import BOUNDS, HistogramView

TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS: Final = openmetrics.CONTENT_TYPE_LATEST
_REST: Final = 20
"""Whoever asks is given what was gathered last for so many times as long as gathering and writing took: asking without
end costs a twentieth of a core."""
_REST_MOST: Final = 5.0
"""Seconds for which that is so at the most."""
_FAMILIES: Final = {
    "counter": CounterMetricFamily,
    "gauge": GaugeMetricFamily,
    "histogram": HistogramMetricFamily,
    "summary": SummaryMetricFamily,
}
_LES: Final = (*map(str, BOUNDS), "+Inf")


class Exposition:
    """The metrics as text. gather: returns their values now; called on the event loop, which it must not keep for long.

    What takes long is done by another thread, for one caller at a time.
    """

    def __init__(self, gather: Callable[[], Iterable[Sample]]) -> None:
        self._gather = gather
        self._keys = KeySeries()
        self._one = asyncio.Lock()
        self._fresh_until = 0.0
        self._samples: list[Sample] = []
        self._texts: dict[str, bytes] = {}
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        ProcessCollector(namespace="kmsd", registry=self._registry)

    async def text(self, form: str = TEXT) -> bytes:
        """Return all metrics. form: TEXT or OPENMETRICS."""
        async with self._one:
            began = monotonic()
            if began >= self._fresh_until:
                self._samples = await asyncio.to_thread(self._complete, list(self._gather()))
                self._texts.clear()
            if form not in self._texts:
                self._texts[form] = await asyncio.to_thread(self._write, form)
                ended = monotonic()
                self._fresh_until = max(self._fresh_until, ended + min(_REST * (ended - began), _REST_MOST))
            return self._texts[form]

    def collect(self) -> Iterator[Family]:
        """Yield what prometheus-client writes: the families of metrics that have values."""
        values: dict[Metric, list[Sample]] = {}
        for sample in self._samples:
            values.setdefault(sample.metric, []).append(sample)
        for metric in METRICS:
            if metric in values:
                yield _family(metric, values[metric])

    def _write(self, form: str) -> bytes:
        write = openmetrics.generate_latest if form == OPENMETRICS else generate_latest
        return write(self._registry)

    def _complete(self, samples: Iterable[Sample]) -> list[Sample]:
        """Return the samples with the uses of keys counted into series."""
        found: list[Sample] = []
        for sample in samples:
            if not isinstance(sample.value, KeyUses):
                found.append(sample)
                continue
            own, others = self._keys.look(*sample.value)
            series = [(key_hash(key_id), uses) for key_id, uses in own.items()]
            for name, uses in (*series, ("other", others)):
                for op, number in zip(("encrypt", "decrypt"), uses, strict=True):
                    found.append(Sample(KEY_OPERATIONS, number, (name, op)))
        return found


def key_hash(key_id: str) -> str:
    """Return the hash of a key id as a label, in the form that kube-apiserver's own metrics have."""
    return f"sha256:{hashlib.sha256(key_id.encode()).hexdigest()}"


def _family(metric: Metric, samples: Iterable[Sample]) -> Family:
    family: Any = _FAMILIES[metric.kind](metric.name, metric.help, labels=metric.labels)
    for each in samples:
        match each.value:
            case HistogramView() as view:
                buckets = list(zip(_LES, view.cumulative(), strict=True))
                family.add_metric(each.labels, buckets, view.seconds)
            case Totals(count, seconds):
                family.add_metric(each.labels, count, seconds)
            case number:
                family.add_metric(each.labels, number)
    made: Family = family
    return made
