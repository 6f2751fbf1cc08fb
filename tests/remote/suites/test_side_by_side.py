"""The tests of `tests/rpc/test_side_by_side.py` through a proxy."""

from __future__ import annotations

import pytest

from tests.daemons import Kmsd
from tests.rpc.test_side_by_side import *


@pytest.fixture
def served(known: Kmsd) -> Kmsd:
    return known
