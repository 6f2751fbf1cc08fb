"""What a keyring makes of the looks at a token: judged once while nothing changes, anew when anything does."""

from __future__ import annotations

from kmsd.keys.judging import Rules
from kmsd.keys.key import Inventory, KeyState
from kmsd.keys.keyring import Keyring
from kmsd.keys.scanner import KeyScanner
from tests.memory_token import MemoryToken

_ID = b"0192c3a1-0000-7000-8000-00000000000%d"


def _keyring(token: MemoryToken, seen: list[Inventory]) -> Keyring:
    scanner = KeyScanner({"t": token.as_hsm}, Rules())
    return Keyring(scanner, write_label="kek", recalled="", on_change=lambda _, after: seen.append(after))


async def test_a_look_that_shows_the_same_is_not_judged_again() -> None:
    token, seen = MemoryToken(), list[Inventory]()
    token.make("kek", _ID % 1)
    token.make("other", _ID % 2)
    keyring = _keyring(token, seen)
    await keyring.look()
    first = keyring.inventory
    for _ in range(3):
        await keyring.look()
    assert keyring.inventory is first
    assert len(seen) == 1


async def test_whatever_changes_is_judged_anew() -> None:
    token, seen = MemoryToken(), list[Inventory]()
    token.make("kek", _ID % 1)
    keyring = _keyring(token, seen)
    await keyring.look()
    token.make("kek.pending", _ID % 2)
    await keyring.look()
    assert [key.state for key in keyring.inventory.keys] == [KeyState.WRITE, KeyState.PENDING]
    token.relabel("kek", "kek@1")
    token.relabel("kek.pending", "kek")
    await keyring.look()
    assert keyring.write_key().cka_id == _ID % 2
    token.stored = [each for each in token.stored if each.key.cka_id == _ID % 2]
    await keyring.look()
    assert [key.cka_id for key in keyring.inventory.keys] == [_ID % 2]
    assert len(seen) == 4


async def test_another_label_that_is_served_is_judged_anew() -> None:
    token = MemoryToken()
    token.make("kek", _ID % 1)
    token.make("other", _ID % 2)
    keyring = _keyring(token, [])
    await keyring.look()
    Keyring(keyring._scanner, write_label="other", recalled="", on_change=lambda _, __: None)
    await keyring.look()
    assert [key.state for key in keyring.inventory.keys] == [KeyState.WRITE, KeyState.WRITE]
