"""No handshake is signed but by the key that the address of a token names."""

from __future__ import annotations

from math import inf
from pathlib import Path

import pytest

from kmsd.errors import Conflict
from kmsd.hsm.connection import Hsm
from kmsd.hsm.host import signing
from kmsd.hsm.host.tls_signing import sign_tls
from tests.hsm.inside import Inside
from tests.tokens import MODULE, make_token

pytestmark = pytest.mark.processes


async def made_and_asked(hsm: Hsm) -> bytes:
    cka_id = b"ca.019abcde-0000-7000-8000-000000000001"
    await hsm.run(signing.generate, inf, "ca", cka_id, "ec", 256)
    return await hsm.run(sign_tls, "ec", "sha256", bytes(32), hsm.name)


def test_a_token_whose_address_names_no_key_signs_no_handshake(tmp_path: Path) -> None:
    with (
        Inside(make_token(tmp_path / "hsm"), MODULE) as inside,
        pytest.raises(Conflict, match="token 'kmsd-test' signs no TLS handshakes"),
    ):
        inside.served(made_and_asked)
