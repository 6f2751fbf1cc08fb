"""The tests of `tests/rpc/test_bad_ciphertexts.py` through a proxy."""

from __future__ import annotations

import pytest

from tests.daemons import Kmsd
from tests.rpc.test_bad_ciphertexts import *

# The key that is meant has had the tenant's label alone, so it has no other here.
del test_a_ciphertext_that_names_a_label_opens_only_if_the_tag_fits  # noqa: F821


@pytest.fixture
def served(known: Kmsd) -> Kmsd:
    return known
