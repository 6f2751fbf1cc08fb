"""The tests of `tests/rpc/test_many_clients.py` through a proxy."""

from __future__ import annotations

import pytest

from tests.daemons import Kmsd
from tests.rpc.test_many_clients import *


@pytest.fixture
def served(known: Kmsd) -> Kmsd:
    return known
