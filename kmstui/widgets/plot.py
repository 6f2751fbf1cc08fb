"""Requests, latency and errors of the last 15 minutes, drawn from the daemon's own history."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from textual.content import Content

from kmstui import plots, traffic
from kmstui.looks import Colour
from kmstui.text import compact, count, milliseconds, pad, percent, rate
from kmstui.traffic import HISTORY, Traffic
from kmstui.view import Moment, View
from kmstui.widgets.panel import Panel

_AXIS = 8
"""Columns for the numbers at the left."""
_RULER_FROM = 5
"""Rows from which on there is room for the times underneath."""
LATELY = 10
"""Seconds that "now" is taken over."""


class Plot(Panel):
    """A drawing, maybe with a ruler under it, and one line that says it in numbers."""

    def lines(self, view: View, moment: Moment) -> Iterator[Content]:
        known, rows = view.traffic, self.content_size.height
        columns = self.columns - _AXIS
        if not known.seconds:
            yield Content.styled(self._nothing(view), "dim")
            return
        ruled = rows >= _RULER_FROM
        yield from self.drawing(known, rows - (2 if ruled else 1), columns)
        if ruled:
            yield Content.styled(" " * _AXIS + plots.ruler(columns, HISTORY), "dim")
        yield self.summary(known)

    def grounds(self, view: View, moment: Moment) -> tuple[object, ...] | None:
        return view.traffic, view.lost

    def drawing(self, known: Traffic, rows: int, columns: int) -> Iterator[Content]:
        raise NotImplementedError

    def summary(self, known: Traffic) -> Content:
        raise NotImplementedError

    def layered(self, layers: Sequence[plots.Layer], rows: int, top: float, highest: str) -> Iterator[Content]:
        """One series in the accent colour, and one over it."""
        colours = (Colour.ACCENT, Colour.WARN)
        for row, cells in enumerate(plots.braille(layers, rows, top)):
            styled = ((text, f"${colours[layer]}" if layer >= 0 else "") for text, layer in cells)
            drawn = Content("").join(Content.styled(text, colour) for text, colour in _runs(styled))
            yield Content.assemble(self.axis(row, rows, highest), drawn)

    def axis(self, row: int, rows: int, top: str) -> Content:
        """What stands at the left of a row: the highest value at the top, zero at the bottom."""
        text = top if row == 0 else "0" if row == rows - 1 and rows > 1 else ""
        return Content.styled(f"{pad(text, _AXIS - 1, right=True)} ", "dim")

    def _nothing(self, view: View) -> str:
        if view.traffic.error is not None and not view.lost:
            return f"no statistics: {view.traffic.error.message}"
        return "no statistics yet"


class RequestsPlot(Plot):
    def drawing(self, known: Traffic, rows: int, columns: int) -> Iterator[Content]:
        values = plots.buckets(known.seconds, columns, HISTORY, plots.mean_rate)
        wrong = plots.buckets(known.seconds, columns, HISTORY, plots.error_rate)
        top = plots.ceiling(values, 10.0)
        for row, line in enumerate(plots.area(values, rows, top)):
            cells = _with_errors(line, wrong, rows - 1 - row, top / rows)
            marked = Content("").join(Content.styled(text, colour) for text, colour in _runs(cells))
            yield Content.assemble(self.axis(row, rows, compact(round(top))), marked)

    def summary(self, known: Traffic) -> Content:
        now = traffic.now(known) or 0.0
        recent = traffic.lately(known, LATELY)
        p50, p99, _ = traffic.quantiles(recent)
        wrong, total = traffic.errors(known.seconds)
        parts = [
            _said("now", f"{rate(now)}/s"),
            _said("peak", f"{count(traffic.peak(known.seconds))}/s"),
            _said("p50", milliseconds(p50)),
            _said("p99", milliseconds(p99)),
            _said("errors", percent(wrong, total), Colour.BAD if wrong else Colour.PLAIN),
        ]
        while len(parts) > 2 and sum(part.cell_length + 3 for part in parts) - 3 > self.columns:
            del parts[1]  # the peak, then p50, then p99: what is now and what is wrong stay
        return Content("   ").join(parts)


class LatencyPlot(Plot):
    def drawing(self, known: Traffic, rows: int, columns: int) -> Iterator[Content]:
        middle = plots.buckets(known.seconds, columns * 2, HISTORY, plots.median)
        high = plots.buckets(known.seconds, columns * 2, HISTORY, plots.worst)
        top = plots.ceiling([*middle, *high], 1.0)
        yield from self.layered(((middle, True), (high, False)), rows, top, milliseconds(top))

    def summary(self, known: Traffic) -> Content:
        p50, p99, highest = traffic.quantiles(known.seconds)
        return Content("   ").join(
            [
                Content.assemble(("⣿", f"${Colour.ACCENT}"), " ", _said("p50", milliseconds(p50))),
                Content.assemble(("⠉", f"${Colour.WARN}"), " ", _said("p99", f"{milliseconds(p99)} at worst")),
                _said("slowest", milliseconds(highest)),
            ]
        )


class ErrorsPlot(Plot):
    def drawing(self, known: Traffic, rows: int, columns: int) -> Iterator[Content]:
        values = plots.buckets(known.seconds, columns, HISTORY, plots.error_rate)
        top = plots.ceiling(values, 1.0)
        for row, line in enumerate(plots.area(values, rows, top)):
            colour = f"${Colour.BAD}" if any(values) else "dim"
            yield Content.assemble(self.axis(row, rows, compact(round(top))), (line, colour))

    def summary(self, known: Traffic) -> Content:
        wrong, total = traffic.errors(known.seconds)
        recent, _ = traffic.errors(traffic.lately(known, LATELY))
        return Content("   ").join(
            [
                _said("now", f"{rate(recent / LATELY)}/s", Colour.BAD if recent else Colour.PLAIN),
                _said("in 15 min", f"{count(wrong)} of {count(total)}"),
                _said("that is", percent(wrong, total)),
            ]
        )


def _with_errors(line: str, wrong: plots.Values, row: int, step: float) -> Iterator[tuple[str, str]]:
    """A row of an area, counted from the bottom, with what failed of it. step: requests/s that a row stands for.

    Few errors are a red line at the foot of their column, so that they are seen and do not look like many.
    """
    for text, errors in zip(line, wrong, strict=True):
        if errors and errors > step * row and (errors >= step * (row + 0.5) or text != "█"):
            yield text, f"${Colour.BAD}"
        elif errors and row == 0:
            yield "▁", f"${Colour.BAD} on ${Colour.ACCENT}"
        else:
            yield text, f"${Colour.ACCENT}"


def _said(name: str, value: str, colour: Colour = Colour.PLAIN) -> Content:
    return Content.assemble((f"{name} ", "dim"), (value, f"bold ${colour}"))


def _runs(cells: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Neighbours of one style together."""
    text, style = "", ""
    for character, its in cells:
        if its != style and text:
            yield text, style
            text = ""
        text, style = text + character, its
    if text:
        yield text, style
