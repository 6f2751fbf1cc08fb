"""Requests, latency and errors of the last minutes, drawn from the daemon's own history."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from textual.content import Content

from kmstui import plots, traffic
from kmstui.plots import CellFill
from kmstui.styles import Colour
from kmstui.text import compact, count, milliseconds, pad, percent, rate
from kmstui.traffic import Traffic
from kmstui.view import Moment, View
from kmstui.widgets.panel import Panel
from kmstui.widgets.steady import set_title

_AXIS = 8
"""Columns for the numbers at the left, and the line beside them."""
_RULER_FROM = 4
"""Rows from which on there is room for the times underneath."""
LATELY = 10
"""Seconds that "now" is taken over."""
_DECADES = (-1, 1)
"""Latencies from 0.1 to 10 ms are always on the axis, as exponents."""
_PARTS = {
    CellFill.NOTHING: "",
    CellFill.ZERO: "dim",
    CellFill.WHOLE: f"${Colour.ACCENT}",
    CellFill.SOME: f"${Colour.BAD} on ${Colour.ACCENT}",
    CellFill.ALL: f"${Colour.BAD}",
}


class Plot(Panel):
    """A drawing, with a ruler under it where there is room, and one line that says it in numbers. title: to which the
    time that it covers is added."""

    def __init__(self, title: str, *, id: str | None = None) -> None:  # noqa: A002 - Textual's name
        super().__init__(title, id=id)
        self._title = title

    def show(self, view: View, moment: Moment) -> None:
        set_title(self, Content(f"{self._title}{view.traffic.of}, last {minutes(view.span)}"))
        super().show(view, moment)

    def lines(self, view: View, moment: Moment) -> Iterator[Content]:
        known, rows = view.traffic, self.content_size.height
        columns = self.columns - _AXIS
        if not known.seconds:
            yield Content.styled(self._nothing(view), "dim")
            return
        ruled = rows >= _RULER_FROM
        yield from self.drawing(known, view.span, rows - (2 if ruled else 1), columns)
        if ruled:
            yield Content.styled(" " * _AXIS + plots.ruler(columns, view.span), "dim")
        yield self.summary(known, view.span)

    def grounds(self, view: View, moment: Moment) -> tuple[object, ...] | None:
        return view.traffic, view.lost, view.span

    def drawing(self, known: Traffic, span: int, rows: int, columns: int) -> Iterator[Content]:
        """Draw the plot. span: seconds that it covers."""
        raise NotImplementedError

    def summary(self, known: Traffic, span: int) -> Content:
        """Return the line under the plot."""
        raise NotImplementedError

    def layered(self, layers: Sequence[plots.Layer], rows: int, ticks: Mapping[int, str]) -> Iterator[Content]:
        """Yield one series in the accent colour, and one over it. ticks: what stands at the left, by row from the
        top."""
        colours = (Colour.ACCENT, Colour.WARN)
        for row, cells in enumerate(plots.braille(layers, rows)):
            styled = ((text, f"${colours[layer]}" if layer >= 0 else "") for text, layer in cells)
            yield _line(row, ticks, styled)

    def parted(self, values: plots.Values, parts: plots.Values, rows: int, top: float) -> Iterator[Content]:
        """Yield an area, and what failed of it in red."""
        ticks = whole_ticks(rows, top)
        for row, cells in enumerate(plots.parted(values, parts, rows, top)):
            yield _line(row, ticks, ((text, _PARTS[part]) for text, part in cells))

    def _nothing(self, view: View) -> str:
        if view.traffic.error is not None and not view.lost:
            return f"no statistics: {view.traffic.error.message}"
        return "no statistics yet"


class RequestsPlot(Plot):
    """A plot of requests per second."""

    def drawing(self, known: Traffic, span: int, rows: int, columns: int) -> Iterator[Content]:
        values = plots.buckets(known.seconds, columns, span, plots.mean_rate)
        wrong = plots.buckets(known.seconds, columns, span, plots.error_rate)
        yield from self.parted(values, wrong, rows, plots.ceiling(values, 10.0))

    def summary(self, known: Traffic, span: int) -> Content:
        """Return the line under the plot."""
        now = traffic.now(known) or 0.0
        seconds = traffic.lately(known, span)
        p50, p99, _ = traffic.quantiles(traffic.lately(known, LATELY))
        wrong, total = traffic.errors(seconds)
        parts = [
            _said("now", f"{rate(now)}/s"),
            _said("peak", f"{count(traffic.peak(seconds))}/s"),
            _said("p50", milliseconds(p50)),
            _said("p99", milliseconds(p99)),
            _said("errors", percent(wrong, total), Colour.BAD if wrong else Colour.PLAIN),
        ]
        while len(parts) > 2 and sum(part.cell_length + 3 for part in parts) - 3 > self.columns:
            del parts[1]  # the peak, then p50, then p99: what is now and what is wrong stay
        return Content("   ").join(parts)


class LatencyPlot(Plot):
    """A plot of latency on a logarithmic axis: what is slow is a hundred times slower, and not twice."""

    def drawing(self, known: Traffic, span: int, rows: int, columns: int) -> Iterator[Content]:
        middle = plots.buckets(known.seconds, columns * 2, span, plots.median)
        high = plots.buckets(known.seconds, columns * 2, span, plots.worst)
        bottom, top = plots.decades([*middle, *high], _DECADES)
        layers = tuple((plots.logarithmic(values, bottom, top), False) for values in (middle, high))
        yield from self.layered(layers, rows, decade_ticks(rows, bottom, top))

    def summary(self, known: Traffic, span: int) -> Content:
        """Return the line under the plot."""
        p50, p99, highest = traffic.quantiles(traffic.lately(known, span))
        return Content("   ").join(
            [
                Content.assemble(("⠒", f"${Colour.ACCENT}"), " ", _said("p50", milliseconds(p50))),
                Content.assemble(("⠒", f"${Colour.WARN}"), " ", _said("p99", f"{milliseconds(p99)} at worst")),
                _said("slowest", milliseconds(highest)),
            ]
        )


class ErrorsPlot(Plot):
    """A plot of errors per second."""

    def drawing(self, known: Traffic, span: int, rows: int, columns: int) -> Iterator[Content]:
        values = plots.buckets(known.seconds, columns, span, plots.error_rate)
        yield from self.parted(values, values, rows, plots.ceiling(values, 1.0))

    def summary(self, known: Traffic, span: int) -> Content:
        """Return the line under the plot."""
        wrong, total = traffic.errors(traffic.lately(known, span))
        recent, _ = traffic.errors(traffic.lately(known, LATELY))
        return Content("   ").join(
            [
                _said("now", f"{rate(recent / LATELY)}/s", Colour.BAD if recent else Colour.PLAIN),
                _said(f"in {minutes(span)}", f"{count(wrong)} of {count(total)}"),
                _said("that is", percent(wrong, total)),
            ]
        )


def minutes(span: int) -> str:
    """Return seconds in minutes, in words."""
    return "minute" if span == 60 else f"{span // 60} minutes"


def whole_ticks(rows: int, top: float) -> dict[int, str]:
    """Return the highest value at the top, zero at the bottom."""
    return {rows - 1: "0", 0: compact(round(top))}


def decade_ticks(rows: int, low: int, high: int) -> dict[int, str]:
    """Return the powers of ten, in ms, each at the row that it is in; where two share one, the ends of the axis
    stand."""
    ticks = dict[int, str]()
    for exponent in (high, low, *range(high - 1, low, -1)):
        ticks.setdefault(plots.row_of((exponent - low) / (high - low), rows), _power(exponent))
    return ticks


def _power(exponent: int) -> str:
    return f"{10 ** (exponent - 3)} s" if exponent >= 3 else f"{10.0**exponent:g} ms"


def _line(row: int, ticks: Mapping[int, str], cells: Iterable[tuple[str, str]]) -> Content:
    """Return a row of a drawing, its tick before it."""
    tick = ticks.get(row, "")
    axis = f"{pad(tick, _AXIS - 1, right=True)}{'┤' if tick else '│'}"
    drawn = Content("").join(Content.styled(text, style) for text, style in _runs(cells))
    return Content.assemble((axis, "dim"), drawn)


def _said(name: str, value: str, colour: Colour = Colour.PLAIN) -> Content:
    return Content.assemble((f"{name} ", "dim"), (value, f"bold ${colour}"))


def _runs(cells: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Yield neighbours of one style together."""
    text, style = "", ""
    for character, its in cells:
        if its != style and text:
            yield text, style
            text = ""
        text, style = text + character, its
    if text:
        yield text, style
