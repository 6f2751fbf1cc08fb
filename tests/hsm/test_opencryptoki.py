"""What is known of openCryptoki (`kmsd.hsm.vendors.quirks.OPENCRYPTOKI`), and what a probe says of its troubles."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from kmsd.hsm.vendors.quirks import OPENCRYPTOKI
from tests import opencryptoki
from tests.hsm import asking, probing
from tests.opencryptoki import MODULE, PIN, OpenCryptokiToken


@pytest.fixture
def token(short_tmp: Path) -> Iterator[OpenCryptokiToken]:
    made = opencryptoki.make_opencryptoki(short_tmp / "hsm")
    yield made
    made.stop()


def _wrong_pin(token: OpenCryptokiToken) -> None:
    command = ("pkcs11-tool", "--module", MODULE, "--login", "--pin", "00000000", "--list-objects")
    done = subprocess.run([*token.enter, *command], env=token.environment, capture_output=True, check=False)
    assert done.returncode != 0


def test_wrong_pins_lock_the_token_and_each_step_is_a_warning(token: OpenCryptokiToken) -> None:
    assert OPENCRYPTOKI.pin_tries == 3
    seen = []
    for _ in range(OPENCRYPTOKI.pin_tries):
        _wrong_pin(token)
        report = probing.run(MODULE, token.label, PIN, token.environment, token.enter, login=False)
        seen.append(report["by_name"]["pin"]["seen"])
    assert "a wrong user PIN was given" in seen[0]
    assert "one more wrong user PIN locks it" in seen[1]
    assert "the user PIN is locked" in seen[2]
    assert report["worst"] == "failed"
    with pytest.raises(AssertionError, match="CKR_PIN_LOCKED"):
        asking.ask(MODULE, token.label, PIN, token.environment, enter=token.enter)


def test_a_login_with_the_right_pin_ends_the_warning(token: OpenCryptokiToken) -> None:
    _wrong_pin(token)
    for outcome in ("warning", "ok"):
        report = probing.run(MODULE, token.label, PIN, token.environment, token.enter)
        assert report["by_name"]["pin"]["outcome"] == outcome


def test_keys_serve_under_one_id(token: OpenCryptokiToken) -> None:
    token.import_aes("k", bytes(range(32)), b"id")
    token.import_hmac("k.hmac", bytes(range(64)), b"id")
    answers = asking.ask(
        *(MODULE, token.label, PIN, token.environment),
        *({"do": "encrypt", "id": "id"}, {"do": "sign", "id": "id"}),
        enter=token.enter,
    )
    assert answers == [{"bytes": 48}, {"bytes": 32}]
