"""Which keys this kmsd made and has watched all their life, across restarts and over gaps."""

from __future__ import annotations

from pathlib import Path

import pytest

from kmsd.daemon.uses import KeyUses
from kmsd.observe.stats import Stats
from tests.unit.test_inventory import aes, hmac, look

MADE = "made-elsewhere"
"""An id; the key is `aes("spare", b"made-elsewhere")`."""


def begun(directory: Path, write_label: str = "k8s-kek", *, shared: bool = False) -> KeyUses:
    uses = KeyUses(directory, Stats(), write_label, lambda: shared)
    uses.begin()
    return uses


def with_a_key(directory: Path) -> KeyUses:
    uses = begun(directory)
    uses.made(MADE)
    uses.seen(look(aes(), aes("spare", MADE.encode())))
    assert uses.unused(MADE)
    return uses


def test_a_key_that_was_made_here_is_known_over_a_restart_in_order(tmp_path: Path) -> None:
    first = with_a_key(tmp_path)
    first.keep_all()
    second = begun(tmp_path)
    assert second.unused(MADE)
    assert second.since == first.since


def test_where_tenants_are_served_no_key_counts_as_unused(tmp_path: Path) -> None:
    """Another key manager may have used it for one of them."""
    with_a_key(tmp_path).keep_all()
    assert not begun(tmp_path, shared=True).unused(MADE)


def test_after_a_gap_nothing_is_known(tmp_path: Path) -> None:
    """kmsd was killed: what it noted last is not in the file."""
    with_a_key(tmp_path).keep_all()
    killed = begun(tmp_path)
    assert killed.unused(MADE)
    after = begun(tmp_path)
    assert not after.unused(MADE)
    assert after.since > killed.since
    assert not begun(tmp_path / "fresh").unused(MADE)


def test_a_kmsd_that_never_began_leaves_the_record_alone(tmp_path: Path) -> None:
    """As one whose socket another one serves."""
    with_a_key(tmp_path).keep_all()
    other = KeyUses(tmp_path, Stats(), "k8s-kek", lambda: False)
    assert not other.unused(MADE)
    other.keep_all()
    assert begun(tmp_path).unused(MADE)


@pytest.mark.parametrize("op", ["encrypt", "decrypt"])
def test_one_use_is_enough_to_forget_it(tmp_path: Path, op: str) -> None:
    uses = with_a_key(tmp_path)
    uses.used(MADE, op)  # type: ignore[arg-type]
    assert not uses.unused(MADE)
    assert uses.last(MADE) > 0


@pytest.mark.parametrize(
    "labels", [("k8s-kek",), ("k8s-kek.pending",), ("k8s-kek@20200102T030405Z",), ("k8s-kek.retired@20200102T030405Z",)]
)
def test_a_key_that_had_the_write_label_is_forgotten_for_good(tmp_path: Path, labels: tuple[str, ...]) -> None:
    uses = with_a_key(tmp_path)
    for label in (*labels, "spare"):
        uses.seen(look(aes(label, MADE.encode())))
        assert not uses.unused(MADE)


def test_a_key_that_is_gone_is_forgotten_and_one_of_its_id_is_another(tmp_path: Path) -> None:
    uses = with_a_key(tmp_path)
    uses.seen(look(aes(), hmac("spare", MADE.encode())))
    uses.seen(look(aes(), aes("spare", MADE.encode())))
    assert not uses.unused(MADE)


def test_another_write_label_after_a_restart_counts(tmp_path: Path) -> None:
    with_a_key(tmp_path).keep_all()
    uses = begun(tmp_path, "spare")
    uses.seen(look(aes("spare", MADE.encode())))
    assert not uses.unused(MADE)


def test_what_is_known_is_bounded(tmp_path: Path) -> None:
    uses = begun(tmp_path)
    for number in range(1001):
        uses.made(f"id-{number}")
    assert (uses.unused("id-999"), uses.unused("id-1000")) == (True, False)
