"""One kmsd for all tests of the admin API that leave its write key as it is, and the way to others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.admin.calls import state
from tests.daemons import Kmsd
from tests.tokens import SoftToken, make_token

AMBIGUOUS = "twice"
BARE = "bare"
BINARY_ID = b"\x00\xff\x10"
READ_ONLY = "read-only"
SPARE = "spare"
"""A token beside, that kmsd does not use."""


@pytest.fixture(scope="package")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kmsd]:
    """Records everything, at debug, and has keys of every kind."""
    folder = tmp_path_factory.mktemp("k")
    token = make_token(folder / "hsm")
    token.init_token(SPARE)
    token.objects(
        _aes(AMBIGUOUS, b"01900000-0000-7000-8000-000000000001"),
        _aes(AMBIGUOUS, b"01900000-0000-7000-8000-000000000002"),
        _aes(BARE, b""),
        _aes("binary", BINARY_ID),
        {**_aes(READ_ONLY, b"01900000-0000-7000-8000-000000000003"), "encrypt": "no"},
    )
    (folder / "d").mkdir()
    environment = {"KMSD_AUDIT__KMS": "all", "KMSD_KEYS__REFRESH": "3600"}
    with Kmsd(folder / "d", token, ("--auto-create",), environment).start() as kmsd:
        yield kmsd.wait_ok()


def _aes(label: str, cka_id: bytes) -> dict[str, str]:
    return {"do": "import", "type": "aes", "label": label, "value": bytes(32).hex(), "id": cka_id.hex()}


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Kmsd]]:
    """Starts a kmsd of a module's own, each on a token of its own unless one is given."""
    running: list[Kmsd] = []

    def begin(*flags: str, token: SoftToken | None = None, **fields: Any) -> Kmsd:
        folder = tmp_path_factory.mktemp("k")
        kmsd = Kmsd(folder, token or make_token(folder / "hsm"), flags, **fields)
        running.append(kmsd)
        return kmsd.start()

    yield begin
    for kmsd in running:
        if kmsd.process is not None and kmsd.process.poll() is None:
            kmsd.stop()


@pytest.fixture
def unchanged(served: Kmsd) -> Iterator[None]:
    """The keys are the same after the test."""
    before = state(served)
    yield
    assert state(served) == before
