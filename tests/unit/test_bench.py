"""The page of `make bench` says what was measured, and of each goal whether it was reached."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench import page, sizing
from tests.bench.goals import KMSD, goals
from tests.bench.results import Burst, Case, Results, Row, ratio
from tests.bench.servers import BARE


def _row(server: str, *rates: float, group: str = "side by side", keys: int = 2) -> Row:
    case = Case(server, "v2", "Encrypt", 16, keys=keys)
    return Row(group, case, [Burst(rate, 1.0, 2.0, 3.0, 4.0, 50.0) for rate in rates])


@pytest.fixture
def results() -> Results:
    rows = [_row(KMSD, 900, 1000, 800), _row(BARE[2], 1000, 1000, 1000)]
    rows += [_row(KMSD, 1000, 1000, 1000, group="keys"), _row(KMSD, 700, 990, 500, group="keys", keys=5000)]
    return Results("two cores", rows, {"h2corn idle": 0.4, "h2corn rss": 95.0}, ["a peer was not there"])


def test_a_ratio_is_taken_within_each_round(results: Results) -> None:
    told = ratio(results.rows[0], results.rows[1])
    assert told is not None
    assert (told.middle, told.low, told.high) == (0.9, 0.8, 1.0)
    assert ratio(results.rows[0], None) is None


def test_each_goal_says_whether_it_was_reached(results: Results) -> None:
    reached = {goal.what: goal.reached for goal in goals(results)}
    assert reached[f"Encrypt, 16 in flight, beside {BARE[2]} and nothing else"] is True
    assert reached["Encrypt with 5,000 keys, beside 2"] is False
    assert reached["CPU while nothing is asked, % of a core (h2corn)"] is True
    assert reached["RSS of all processes after that, MiB (h2corn)"] is False
    assert reached["Encrypt, 16 in flight, beside mock-kms"] is None


def test_the_page_is_the_same_after_its_results_were_kept(
    results: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "_DOCS", tmp_path)
    page.write(results)
    written = (tmp_path / "PERFORMANCE.md").read_text()
    assert "| v2 | Encrypt | 16 | h2corn and SoftHSM's calls | 2 | gcm | 1,000 | 0.90 (0.80 to 1.00) |" in written
    assert "a peer was not there." in written
    assert "## What was tried" in written
    assert ">900<" in (tmp_path / "performance.svg").read_text()
    results.save(tmp_path / "kept")
    page.write(Results.load(tmp_path / "kept"))
    assert (tmp_path / "PERFORMANCE.md").read_text() == written


def test_sizing_counts_on_from_what_was_measured_and_says_where_nothing_was(tmp_path: Path, results: Results) -> None:
    sizing.write(results, tmp_path)
    assert "(not measured)" in (tmp_path / "sizing.md").read_text()
    figures = {
        "idle proxies": 500.0,
        "idle rss before": 100.0,
        "idle rss": 150.0,
        "idle descriptors": 1500.0,
        "idle cpu before": 1.0,
        "idle cpu": 11.0,
        "proxy rss": 60.0,
        "proxy idle": 0.25,
        "handshakes": 300.0,
        "storm connections": 300.0,
        "storm calls": 60000.0,
        "storm v1beta1 answered": 60000.0,
        "storm v1beta1 seconds": 20.0,
        "storm v1beta1 errors": 7.0,
        "storm v1beta1 cpu": 250.0,
        **{f"honest {which} {part}": 1.5 for which in ("alone", "beside") for part in ("p50", "p99")},
        "greedy refused": 1000.0,
    }
    results.figures |= {f"remote {name}": value for name, value in figures.items()}
    sizing.write(results, tmp_path)
    text = (tmp_path / "sizing.md").read_text()
    assert "(not measured)" not in text
    # 50 MiB of 500 connections are 102 KiB each; 10 % of a core for 108 calls are 60 % for 650.
    assert "| memory | 102 KiB for each connection: 300 MiB, and 100 MiB without any |" in text
    assert "| CPU for these | 60 % of a core |" in text
    assert "300 in a second, so 10 s until all 3,000 are connected" in text
    # 3,000 nodes with 1,000 values at 3,000 a second are 17 minutes; an HSM of 20 ms allows 1,600.
    assert "| 1 ms | 32,000 | 3,000 | 17 | 20 |" in text
    assert "| 20 ms | 1,600 | 1,600 | 31 | 38 |" in text


def test_what_is_measured_apart_is_kept_beside_the_rest_and_replaced_as_a_whole(results: Results) -> None:
    other = Results(
        "two cores", [_row("kmsd proxy", 1, group="remote")], {"remote handshakes": 5.0, "h2corn idle": 9.0}
    )
    results.figures["remote old"] = 1.0
    results.take("remote", other)
    assert results.figures == {"h2corn idle": 0.4, "h2corn rss": 95.0, "remote handshakes": 5.0}
    assert [row.group for row in results.rows].count("remote") == 1
    assert len(results.rows) == 5
