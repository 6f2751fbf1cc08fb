"""Rows found piece by piece, and results that are worked out once. No screen."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from kmstui.memoize import once
from kmstui.text import parse_filter
from kmstui.widgets.search import Search, Texts


@dataclass(frozen=True)
class Row:
    text: str


PATTERNS = st.sampled_from(["a", "!a", "^b", "c$", "a.*b", "(", ""])


@given(st.lists(st.text("abc", max_size=4), max_size=500), PATTERNS)
def test_a_search_in_pieces_finds_what_one_at_once_does(words: list[str], pattern: str) -> None:
    try:
        wanted = parse_filter(pattern)
    except ValueError:
        return
    rows = [Row(word) for word in words]
    search = Search(rows, Texts(lambda row: (row.text,)), wanted)
    pieces = 0
    while not search.done:
        search.go_on(1e-9)  # one piece
        pieces += 1
    assert search.kept == [row for row in rows if wanted.keeps(row.text)]
    assert pieces == -(-len(rows) // 100)


def test_what_a_filter_looks_in_is_made_once_and_forgotten_with_its_row() -> None:
    made = list[str]()

    def sought(row: Row) -> tuple[str, ...]:
        made.append(row.text)
        return row.text, "more"

    texts, rows = Texts(sought), [Row(str(number)) for number in range(300)]
    assert [texts.of(row) for row in rows + rows] == [f"{row.text}\nmore" for row in rows + rows]
    assert len(made) == 300
    texts.forget(rows[:5])
    assert [texts.of(row) for row in rows[:5]] == [f"{row.text}\nmore" for row in rows[:5]]
    assert len(made) == 300
    texts.of(rows[10])
    assert len(made) == 301


def test_once_works_out_the_same_again_only_for_other_objects() -> None:
    asked = list[tuple[object, ...]]()

    @once
    def work(one: list[int], label: str) -> int:
        asked.append((one, label))
        return len(asked)

    first, alike = [1], [1]
    assert [work(first, "k8s-kek"), work(first, "".join(["k8s", "-kek"])), work(alike, "k8s-kek")] == [1, 1, 2]
    assert work(first, "k8s-kek") == 3
