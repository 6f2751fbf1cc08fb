"""The values of metrics at one moment. Data alone, so that they are gathered fast, and written by another thread."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

from kmsd.metrics.catalogue import Metric
from kmsd.metrics.keys import Uses
from kmsd.observe.histogram import HistogramView


class Totals(NamedTuple):
    """The value of a summary: how many there were, and the sum of their seconds."""

    number: int
    seconds: float


class KeyUses(NamedTuple):
    """The uses of all keys, of which few get series of their own. The fields are those of `KeySeries.look`."""

    counts: Mapping[str, Uses]
    forgotten: Uses
    write: Collection[str]


class Sample(NamedTuple):
    """A value. labels: of the names that the metric has, in their order."""

    metric: Metric
    value: float | HistogramView | Totals | KeyUses
    labels: tuple[str, ...] = ()
