"""What is measured, as values: rows of bursts, and figures with a name. Kept as JSON, which the page is made of."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

FILE = Path(__file__).parents[2] / "docs" / "performance.json"


@dataclass(frozen=True)
class Case:
    """One kind of load. server: by its name in `tests.bench.servers`. keys: on the token. latency: seconds that the
    token takes for C_Encrypt and C_Decrypt beside its own."""

    server: str
    api: str
    method: str
    in_flight: int
    keys: int = 2
    latency: float = 0.0
    scheme: str = "gcm"


@dataclass(frozen=True)
class Burst:
    """One round. rate: requests a second. p50 to most: milliseconds. cpu: of all its processes, microseconds each."""

    rate: float
    p50: float
    p95: float
    p99: float
    most: float
    cpu: float


@dataclass
class Row:
    """The rounds of a case. group: cases whose rounds took turns, so that their ratios mean something."""

    group: str
    case: Case
    bursts: list[Burst] = field(default_factory=list)

    def median(self, what: str) -> float:
        middle: float = statistics.median(getattr(burst, what) for burst in self.bursts)
        return middle


@dataclass(frozen=True)
class Spread:
    """Of ratios, one a round: the median, and the quarters below and above which the others lie."""

    middle: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.middle:.2f} ({self.low:.2f} to {self.high:.2f})"


@dataclass
class Results:
    """machine: what it was measured on. figures: what is one number. notes: what was left out, in sentences."""

    machine: str
    rows: list[Row] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")

    def take(self, group: str, other: Results) -> None:
        """Take the rows of a group, and the figures whose names begin with it, from another run, in their place."""
        others = [each for each in other.rows if each.group == group]
        self.rows = [*(each for each in self.rows if each.group != group), *others]
        self.figures = {
            **{name: value for name, value in self.figures.items() if not name.startswith(f"{group} ")},
            **{name: value for name, value in other.figures.items() if name.startswith(f"{group} ")},
        }

    @classmethod
    def load(cls, path: Path) -> Results:
        told = json.loads(path.read_text())
        rows = [
            Row(row["group"], Case(**row["case"]), [Burst(**burst) for burst in row["bursts"]]) for row in told["rows"]
        ]
        return cls(told["machine"], rows, told["figures"], told["notes"])

    def find(self, **wanted: object) -> Row | None:
        """Return the one row whose group and case are so; None if it was not measured."""
        for row in self.rows:
            told = {"group": row.group, **asdict(row.case)}
            if row.bursts and all(told[name] == value for name, value in wanted.items()):
                return row
        return None


def ratio(one: Row | None, other: Row | None) -> Spread | None:
    """Requests a second of one, of those of the other, round by round; None if either is not there."""
    if one is None or other is None:
        return None
    return spread([mine.rate / its.rate for mine, its in zip(one.bursts, other.bursts, strict=False)])


def spread(values: Sequence[float]) -> Spread:
    ordered = sorted(values)
    quarter = len(ordered) // 4
    return Spread(statistics.median(ordered), ordered[quarter], ordered[-1 - quarter])
