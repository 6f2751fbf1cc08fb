"""The tests of `tests/serving/test_serving.py` through a proxy, on SoftHSM and on a TPM."""

from __future__ import annotations

import pytest

from tests.daemons import Kmsd
from tests.serving.conftest import Served
from tests.serving.test_serving import *


@pytest.fixture
def served(kind: Served) -> Served:
    return kind


@pytest.fixture
def kmsd(through: Kmsd) -> Kmsd:
    return through
