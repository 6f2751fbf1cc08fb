"""Labels that people take for one another, and those that only look alike to a program."""

from __future__ import annotations

import pytest

from kmsd.near import near


@pytest.mark.parametrize(
    "other",
    [
        "k8s-kek ",
        " k8s-kek",
        "k8s-kek\0",
        "K8S-KEK",
        "\ufeffk8s-kek",
        "k8s-keg",
        "k8s-ke",
        "k8s-kekk",
        "k8s-kke",
        "k8skek",
    ],
)
def test_a_slip_is_near_both_ways(other: str) -> None:
    assert near("k8s-kek", ["unlike", other]) == (other,)
    assert near(other, ["k8s-kek"]) == ("k8s-kek",)


@pytest.mark.parametrize(
    "other", ["k8s-kek", "kek-k8s", "k9s-kek", "k8s-kek-2", "k8s-kek@20261123T150339Z", "k8s-key-x"]
)
def test_what_is_the_same_or_meant_to_differ_is_not_near(other: str) -> None:
    assert near("k8s-kek", [other]) == ()


def test_what_differs_least_comes_first_and_three_are_enough() -> None:
    assert near("kek", ["kez", "kex", "KEK", "key", "kex"]) == ("KEK", "kex", "key")
