"""A token over a socket: p11-kit's client is a module that exports one function, and loses its server at times."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC

from kmsd.hsm.host import cryptoki, info
from kmsd.hsm.host.function_list import NAMES, FunctionTable
from kmsd.hsm.host.session import TokenSession
from tests import p11kit
from tests.hsm import asking
from tests.hsm.inside import Inside
from tests.p11kit import P11KitToken
from tests.tokens import PIN


@pytest.fixture
def token(short_tmp: Path) -> Iterator[P11KitToken]:
    made = p11kit.make_p11kit(short_tmp / "hsm")
    yield made
    made.stop()


def test_a_module_that_exports_its_table_alone_is_called_through_it(token: P11KitToken) -> None:
    token.import_aes("k", bytes(range(32)), b"id")
    token.import_hmac("k.hmac", bytes(range(64)), b"id")
    listed, signed, random = asking.ask(
        *(p11kit.MODULE, token.label, PIN, token.environment),
        *({"do": "list"}, {"do": "sign", "id": "id"}, {"do": "random"}),
    )
    assert sorted(key["label"] for key in listed) == ["k", "k.hmac"]
    assert (signed, random) == ({"bytes": 32}, {"bytes": 16})


@pytest.mark.parametrize("size", [16, 48, 4096])
def test_cbc_is_aes_cbc_whether_the_relay_lets_it_through_or_not(token: P11KitToken, size: int) -> None:
    """With version 0.24 it is built of single blocks."""
    value, iv, data = bytes(range(32)), bytes(range(100, 116)), bytes(number % 251 for number in range(size))
    token.import_aes("k", value, b"id")
    cipher = Cipher(AES(value), CBC(iv)).encryptor()
    expected = cipher.update(data) + cipher.finalize()
    with Inside(token, p11kit.MODULE) as inside:
        assert inside.run(_through_session, iv, data) == (expected, data)


def _through_session(session: TokenSession, iv: bytes, data: bytes) -> tuple[bytes, bytes]:
    listed = info.mechanisms(session.cryptoki.table, info.slot_ids(session.cryptoki.table)[0])
    session._cbc_from_ecb = cryptoki.CKM_AES_CBC not in listed
    sealed = session.encrypt_cbc(b"id", iv, data)
    return sealed, session.decrypt_cbc(b"id", iv, sealed)


def test_the_server_may_go_and_come_back(token: P11KitToken) -> None:
    """With the server away there are no slots: that is no proof that the token is gone for good."""
    random, wait, anew = {"do": "random"}, {"do": "wait"}, {"do": "anew"}
    steps = [random, wait, random, anew, random]
    with asking.holding(p11kit.MODULE, token.label, PIN, token.environment, *steps) as held, token.away():
        pass
    first, _, lost, begun, again = held.answers
    assert first == again == {"bytes": 16}
    assert lost == {"error": "C_OpenSession: CKR_DEVICE_ERROR"}
    assert begun == {}


def test_while_the_server_is_away_there_are_no_slots(token: P11KitToken) -> None:
    environment = token.environment
    with token.away():
        done = asking.slots(p11kit.MODULE, environment)
    assert done == []
    assert token.label in asking.slots(p11kit.MODULE, environment)


def test_a_library_that_is_no_module_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AttributeError, match="C_GetFunctionList"):
        FunctionTable("libc.so.6")
    nothing = tmp_path / "empty.so"
    nothing.write_bytes(b"")
    with pytest.raises(OSError, match=os.fspath(nothing.name)):
        FunctionTable(str(nothing))


def test_the_table_names_every_function_once() -> None:
    assert len(NAMES) == len(set(NAMES)) == 68
