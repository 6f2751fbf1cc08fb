"""The tests of `tests/rpc/test_many_clients.py` through a proxy."""

from __future__ import annotations

import pytest

from tests.daemons import Kmsd
from tests.rpc.test_many_clients import *

# The burst asks as much of a proxy, in a fraction of the time.
del test_eight_clients_with_five_hundred_mixed_calls_each_see_no_error  # noqa: F821


@pytest.fixture
def served(known: Kmsd) -> Kmsd:
    return known
