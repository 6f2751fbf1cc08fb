"""One picture of the results: bars, one for each server, of the requests that it answers in a second."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from tests.bench.results import Row, spread

_WIDTH, _LEFT, _RIGHT, _BAR, _GAP = 760, 220, 90, 18, 8
_STYLE = (
    "text{font:13px sans-serif;fill:#666}.b{fill:#9ab}.k{fill:#2a7}.w{stroke:#666;stroke-width:1.5}"
    "@media(prefers-color-scheme:dark){text{fill:#bbb}.w{stroke:#bbb}}"
)


def bars(title: str, rows: Sequence[Row]) -> str:
    """An SVG. rows: from the top; the longest gives the scale. What kmsd does has another colour; a line says where the
    middle half of the rounds lies."""
    return "\n".join(_lines(title, rows)) + "\n"


def _lines(title: str, rows: Sequence[Row]) -> Iterator[str]:
    height = 40 + len(rows) * (_BAR + _GAP)
    scale = (_WIDTH - _LEFT - _RIGHT) / max(spread([burst.rate for burst in row.bursts]).high for row in rows)
    box = f'viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(title)}"'
    yield f'<svg xmlns="http://www.w3.org/2000/svg" {box}>'
    yield f'<style>{_STYLE}</style><text x="8" y="20">{escape(title)}</text>'
    for number, row in enumerate(rows):
        rate = spread([burst.rate for burst in row.bursts])
        y = 32 + number * (_BAR + _GAP)
        middle, kind = y + _BAR / 2, "k" if row.case.server.startswith("kmsd") else "b"
        yield f'<text x="{_LEFT - 8}" y="{middle + 4:.0f}" text-anchor="end">{escape(row.case.server)}</text>'
        yield f'<rect class="{kind}" x="{_LEFT}" y="{y}" width="{rate.middle * scale:.1f}" height="{_BAR}" rx="2"/>'
        low, high = _LEFT + rate.low * scale, _LEFT + rate.high * scale
        yield f'<line class="w" x1="{low:.1f}" x2="{high:.1f}" y1="{middle}" y2="{middle}"/>'
        yield f'<text x="{high + 8:.1f}" y="{middle + 4:.0f}">{rate.middle:,.0f}</text>'
    yield "</svg>"
