"""What needs no screen: plots, widths, numbers, filters, commands, names of nodes, the folding of statistics."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

import kmstui.app  # noqa: F401 - makes every screen and dialog known
from kmsd.client import KeyState, KeyType
from kmstui import plots, shell, styles, text, traffic
from kmstui.dialogs.dialog import Dialog
from kmstui.plots import CellFill
from kmstui.rotation_view import node_names, sightings
from kmstui.screens.keys import key_facts, why_not
from kmstui.screens.page import Page
from kmstui.view import Moment, Peer, Reading, View
from kmstui.widgets.columns import Column, fit, natural_widths
from kmstui.widgets.plot import decade_ticks
from tests.tui.scenes import calls
from tests.tui.scenes.daemon import BUSY, OLD, WRITE
from tests.tui.scenes.when import NOW

LEVELS = st.one_of(st.none(), st.floats(0, 1e9))


@given(st.lists(LEVELS, max_size=200), st.integers(1, 20))
def test_an_area_has_its_rows_and_columns_and_nothing_where_nothing_is_known(
    values: list[float | None], rows: int
) -> None:
    lines = plots.area(values, rows, plots.ceiling(values, 1.0))
    assert [len(line) for line in lines] == [len(values)] * rows
    for at, value in enumerate(values):
        assert (lines[-1][at] == " ") is (value is None)


@given(st.lists(LEVELS, min_size=1, max_size=200), st.lists(LEVELS, max_size=200), st.integers(1, 12))
def test_braille_has_its_rows_and_columns(low: list[float | None], high: list[float | None], rows: int) -> None:
    top = plots.ceiling([*low, *high], 1.0)
    cells = plots.braille(((plots.linear(low, top), True), (plots.linear(high, top), False)), rows)
    columns = (max(len(low), len(high)) + 1) // 2
    assert [len(line) for line in cells] == [columns] * rows
    assert all((owner < 0) is (character == " ") for line in cells for character, owner in line)


@given(st.lists(LEVELS), st.floats(1e-6, 1e6))
def test_a_ceiling_is_above_all_values_and_not_far(values: list[float | None], least: float) -> None:
    top = plots.ceiling(values, least)
    highest = max([least, *(value for value in values if value is not None)])
    assert highest * 0.999 <= top <= highest * 2.01


def test_a_plot_moves_by_whole_columns() -> None:
    seconds = calls.seconds(calls.wave)
    before = plots.buckets(seconds[:-30], 60, 900, plots.mean_rate)
    after = plots.buckets(seconds, 60, 900, plots.mean_rate)
    assert after[10:57] == before[12:59]


@given(st.text(), st.integers(0, 40), st.booleans())
def test_padding_gives_exactly_the_columns(content: str, columns: int, right: bool) -> None:
    shown = "".join(each for each in content if each.isprintable())
    assert cell_len(text.pad(shown, columns, right=right)) == columns


def test_a_part_is_as_high_as_its_share_and_an_eighth_at_least() -> None:
    def column(value: float | None, part: float | None) -> list[tuple[str, plots.CellFill]]:
        return [row[0] for row in plots.parted([value], [part], 2, 100.0)]

    assert column(100, 0) == [("█", CellFill.WHOLE), ("█", CellFill.WHOLE)]
    assert column(100, 100) == [("█", CellFill.ALL), ("█", CellFill.ALL)]
    assert column(100, 50) == [("█", CellFill.WHOLE), ("█", CellFill.ALL)]
    assert column(100, 25) == [("█", CellFill.WHOLE), ("▄", CellFill.SOME)]
    assert column(100, 75) == [("▄", CellFill.SOME), ("█", CellFill.ALL)]
    assert column(100, 0.01) == [("█", CellFill.WHOLE), ("▁", CellFill.SOME)]
    assert column(25, 20) == [(" ", CellFill.NOTHING), ("▄", CellFill.ALL)]
    assert column(25, 5) == [(" ", CellFill.NOTHING), ("▄", CellFill.WHOLE)]


def test_nothing_is_a_thin_line_and_not_known_is_blank() -> None:
    assert plots.parted([0.0, None, 1.0], [0.0, None, 0.0], 1, 100.0) == [
        [("_", CellFill.ZERO), (" ", CellFill.NOTHING), ("▁", CellFill.WHOLE)]
    ]


@pytest.mark.parametrize(
    ("values", "axis"),
    [([], (-1, 1)), ([0.4, 3.0], (-1, 1)), ([0.04, 250.0], (-2, 3)), ([None, 0.0, 10.0], (-1, 1))],
)
def test_an_axis_of_decades_holds_every_value(values: list[float | None], axis: tuple[int, int]) -> None:
    assert plots.decades(values, (-1, 1)) == axis


def test_a_tenfold_is_the_same_distance_everywhere_on_a_logarithmic_axis() -> None:
    assert plots.logarithmic([0.1, 1.0, 10.0, 100.0, 0.0, None, 1e6], -1, 2) == pytest.approx(
        [0, 1 / 3, 2 / 3, 1, 0, None, 1], abs=1e-9
    )


@given(st.integers(1, 40), st.integers(-3, 0), st.integers(1, 6))
def test_ticks_stand_at_their_rows_with_both_ends(rows: int, low: int, high: int) -> None:
    ticks = decade_ticks(rows, low, high)
    assert all(0 <= row < rows for row in ticks)
    assert ticks[0] == (f"{10 ** (high - 3)} s" if high >= 3 else f"{10**high} ms")
    if rows > 1:
        assert ticks[rows - 1] == f"{10.0**low:g} ms"


def test_ticks_of_a_high_plot_are_all_the_decades() -> None:
    assert list(dict(sorted(decade_ticks(13, -1, 2).items())).values()) == ["100 ms", "10 ms", "1 ms", "0.1 ms"]


@pytest.mark.parametrize(
    ("span", "told"), [(60, ("-60 s", "-30 s")), (300, ("-5 min", "-1 min")), (900, ("-15 min", "-5 min"))]
)
def test_a_ruler_tells_the_times_of_its_span(span: int, told: tuple[str, ...]) -> None:
    for columns in (40, 70, 200):
        line = plots.ruler(columns, span)
        assert len(line) == columns
        assert line.endswith("now")
        assert all(text in line for text in told[:1])


def test_more_columns_than_seconds_are_all_filled() -> None:
    seconds = calls.seconds(calls.wave)
    wide = plots.buckets(seconds, 150, 60, plots.mean_rate)
    assert len(wide) == 150
    assert None not in wide
    assert wide[-1] == seconds[-1].requests
    assert wide[0] == seconds[-60].requests


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        (0, "0"),
        (999, "999"),
        (9_999, "9,999"),
        (12_000, "12 k"),
        (999_600, "1.0 M"),
        (2**32, "4.3 G"),
    ],
)
def test_large_numbers_are_short(number: int, shown: str) -> None:
    assert text.compact(number) == shown


def test_a_filter_inverts_and_knows_the_ends_of_each_field() -> None:
    fields = "k8s-kek\n0192\nwrite"
    assert text.parse_filter("^0192$").keeps(fields)
    assert not text.parse_filter("^k8s$").keeps(fields)
    assert text.parse_filter("!reads").keeps(fields)
    assert not text.parse_filter("!WRITE").keeps(fields)
    assert text.parse_filter("!").keeps(fields)
    with pytest.raises(ValueError, match="not a regular expression"):
        text.parse_filter("[")


@given(st.lists(st.integers(0, 60), min_size=4, max_size=4), st.integers(0, 200))
def test_columns_fit_into_the_room_or_are_the_least(natural: list[int], room: int) -> None:
    columns: list[Column[str]] = [
        Column("a", lambda item, _: item),
        Column("b", lambda item, _: item, least=8),
        Column("c", lambda item, _: item, least=8, optional=True),
        Column("d", lambda item, _: item, optional=True),
    ]
    widths = fit(columns, natural, room, 2)
    total = sum(width for _, width in widths) + 2 * max(0, len(widths) - 1)
    if total > room:
        assert all(not columns[index].optional for index, _ in widths)
    assert all(width <= natural[index] for index, width in widths)


def test_widths_count_what_is_shown_for_control_characters() -> None:
    column: Column[str] = Column("label", lambda item, _: item)
    assert natural_widths((column,), ["\x1b[31m"], Moment.now()) == (len(r"\x1b[31m"),)


def test_commands_can_be_pasted() -> None:
    odd = replace(OLD, label="-it's odd", key_id="")
    assert shell.destroy(odd, "", "-it's odd") == ("keys", "destroy", "--confirm=-it's odd", "--", "-it's odd")
    assert shell.destroy(WRITE, "a b.json", "") == ("keys", "destroy", WRITE.key_id, "--report", "a b.json")
    line = shell.kmsctl("/run/other.sock", *shell.keygen("a b", KeyType.PAIR, 256))
    assert line == "kmsctl --target /run/other.sock keygen 'a b' --type pair --bits 256"
    assert shell.address(WRITE) == WRITE.key_id
    companion = replace(WRITE, state=KeyState.COMPANION, label="x.hmac")
    assert shell.address(companion) == "x.hmac"


@pytest.mark.parametrize(
    ("targets", "names"),
    [
        (("unix:///run/cp-1.sock", "unix:///run/cp-2.sock"), ("cp-1", "cp-2")),
        (("/a/admin/admin.sock", "/b/admin/admin.sock"), ("a", "b")),
        (("unix:///run/kmsd/admin.sock",), ("admin",)),
    ],
)
def test_nodes_are_named_by_what_differs(targets: tuple[str, ...], names: tuple[str, ...]) -> None:
    assert tuple(node_names(targets).values()) == names


def test_a_node_is_its_host_unless_two_share_it_or_it_is_not_known() -> None:
    def names(*hosts: str | None) -> list[str]:
        targets = tuple(f"unix:///run/s{at}.sock" for at in range(len(hosts)))
        readings = [Reading(replace(BUSY, host=host)) if host is not None else Reading() for host in hosts]
        peers = tuple(Peer(target, reading) for target, reading in zip(targets[1:], readings[1:], strict=True))
        view = View(targets[0], 1.0, targets, status=readings[0], peers=peers)
        return [each.node for each in sightings(view)]

    assert names("cp-1", "cp-2", "cp-3") == ["cp-1", "cp-2", "cp-3"]
    assert names("cp-1", None) == ["cp-1", "s1"]
    assert names("cp-1", "", "cp-1") == ["s0", "s1", "s2"]


def test_statistics_fold_into_15_minutes_and_rates() -> None:
    known = traffic.Traffic()
    for back in range(20, -1, -1):
        frame = calls.frame(NOW - timedelta(seconds=back), 1 - back * 0.001, 0)
        part = tuple(second for second in calls.seconds(calls.wave) if second.time == frame.time)
        known = traffic.fold(known, replace(frame, seconds=part), 0.0)
    assert len(known.seconds) == 21
    assert traffic.SPAN <= traffic.elapsed(known) <= traffic.SPAN + 1
    assert traffic.call_rates(known)["v2", "Decrypt", "OK"] == pytest.approx(1_391.6, rel=0.01)
    again = traffic.fold(known, replace(calls.frame(NOW, 0.1, 0), started=NOW), 0.0)
    assert traffic.call_rates(again) == {}  # a kmsd that has restarted counts from nothing
    assert len(again.seconds) == 21


def _below(kind: type[Any]) -> Iterator[type[Any]]:
    for each in kind.__subclasses__():
        yield each
        yield from _below(each)


def test_every_help_says_in_whole_sentences_what_its_screen_or_dialog_does() -> None:
    found: list[Any] = [*_below(Page), *_below(Dialog)]
    said = [(each.__name__, each.HELP) for each in found if each.HELP]
    assert len(said) > 20
    assert [(name, text) for name, text in said if not re.fullmatch(r"[A-Z][a-z]+s .*\.", text)] == []
    commands = [command.help for each in found for command in getattr(each, "SCREEN_COMMANDS", ())]
    assert len(commands) > 20
    assert [text for text in commands if not re.fullmatch(r"[A-Z].*\.", text)] == []


def test_a_key_that_signs_is_shown_as_one_and_offers_nothing_that_is_for_keys_that_encrypt() -> None:
    key = replace(
        OLD, label="kmsd-ca", type=KeyType.EC, bits=384, state=KeyState.SIGNING, purpose="ca", key_id="ca.0199", enc=""
    )
    assert text.key_type(key) == "EC-P384"
    assert str(styles.key(key.state)) == "◦ signs"
    assert [bool(why_not(name, key)) for name in ("test", "retire", "relabel", "destroy")] == [True, True, True, False]
    facts = {fact.name: fact.text for fact in key_facts(key, View("t", 1.0), Moment(NOW, 0.0))}
    assert "EC-P384, signs for the purpose ca" in facts["is"]
    assert "kid" not in facts
    key = replace(key, label="sa-signer", purpose="jwt", key_id="jwt.0199")
    facts = {fact.name: fact.text for fact in key_facts(key, View("t", 1.0), Moment(NOW, 0.0))}
    assert facts["kid"].startswith("kmsctl jwt show sa-signer tells it")
    assert why_not("retire", key) == "it signs: kmsctl jwt rotate makes the next one"
