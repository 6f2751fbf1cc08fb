"""The targets of `make fuzz`, on what they begin with and on a little beside it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kmsd.formats import jwe
from kmsd.transport.key_exchange import group_of
from tests.fuzz.targets import TARGETS

# The library warns of certificates with serial numbers that a later one will refuse.
pytestmark = pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")
NAMES = pytest.mark.parametrize("name", list(TARGETS))


@NAMES
def test_what_fuzzing_begins_with_is_right_and_can_be_cut_anywhere(name: str) -> None:
    target = TARGETS[name]
    for seed in target.seeds():
        assert len(seed) <= target.longest
        for end in range(0, len(seed) + 1, 1 + len(seed) // 200):
            target.run(seed[:end])


@NAMES
@settings(max_examples=50)
@given(data=st.data())
def test_a_few_bytes_that_are_wrong_are_refused_in_words(name: str, data: st.DataObject) -> None:
    target = TARGETS[name]
    seed = bytearray(data.draw(st.sampled_from(target.seeds())))
    for _ in range(data.draw(st.integers(1, 4))):
        seed[data.draw(st.integers(0, len(seed) - 1))] = data.draw(st.integers(0, 255))
    target.run(bytes(seed))


def test_seeds_reach_the_end_of_the_parsers() -> None:
    assert all(jwe.parse(each) for each in TARGETS["ciphertext"].seeds()[:5])
    assert [group_of(each) for each in TARGETS["server-hello"].seeds()] == ["x25519"]
