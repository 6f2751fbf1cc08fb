"""The keyring and the service on tokens in memory: which key writes, which reads, and what is said when none does."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable
from time import monotonic
from typing import Any

import pytest

from kmsd.crypto.gcm import TagMismatch
from kmsd.errors import InvalidRequest, KmsdError, Misconfigured, NotFound, Unavailable
from kmsd.formats.ciphertext import CiphertextFormat
from kmsd.hsm.ckr import CkrError
from kmsd.hsm.connection import Hsm
from kmsd.hsm.operation import Operation
from kmsd.keys.judging import Rules
from kmsd.keys.key import Inventory
from kmsd.keys.keyring import Keyring
from kmsd.keys.labels import new_key_id
from kmsd.keys.scanner import KeyScanner
from kmsd.observe.health import Health
from kmsd.observe.unproven import Unproven
from kmsd.service.following import Following
from kmsd.service.local import LocalService
from tests.memory_token import MemoryToken

OLD, NEW = (new_key_id().encode() for _ in range(2))
LABEL = "k8s-kek"


class _NoForeign:
    def __init__(self) -> None:
        self.read: Counter[CiphertextFormat] = Counter()

    async def decrypt(self, ciphertext: bytes, key_id: str | None, until: float) -> Any:
        raise InvalidRequest("foreign", "")


class _Setup:
    """A keyring and a service. changes: what the keyring told."""

    def __init__(self, *tokens: MemoryToken, fail_closed: bool = False, recalled: str = "") -> None:
        self.tokens = tokens
        self.changes: list[tuple[Inventory, Inventory]] = []
        self.uses: list[tuple[str, str]] = []
        self.keyring = Keyring(
            KeyScanner({token.label: token.as_hsm for token in tokens}, Rules()),
            write_label=LABEL,
            recalled=recalled,
            on_change=lambda before, after: self.changes.append((before, after)),
        )
        health = Health(self._check, interval=60.0, timeout=3.0, on_change=lambda _: None, on_wrong=lambda _: None)
        self.service = LocalService(
            self.keyring,
            health,
            Following(),
            write_legacy=False,
            fail_closed=fail_closed,
            remembered=recalled,
            used=lambda key_id, what: self.uses.append((key_id, what)),
            foreign=_NoForeign(),
            unproven=Unproven(),
        )

    async def _check(self) -> None:
        await self.keyring.look()
        self.keyring.write_key()

    async def encrypt(self, plaintext: bytes = b"seed") -> bytes:
        return (await self.service.encrypt(plaintext, monotonic() + 3)).ciphertext

    async def decrypt(self, ciphertext: bytes, key_id: bytes | None = None) -> bytes:
        named = key_id.decode() if key_id is not None else None
        return (await self.service.decrypt(ciphertext, named, monotonic() + 3)).plaintext


@pytest.fixture
def token() -> MemoryToken:
    made = MemoryToken()
    made.make(LABEL, OLD)
    return made


@pytest.mark.parametrize("name", [name for name in vars(Hsm) if hasattr(MemoryToken, name) and name[0] != "_"])
def test_the_double_is_called_as_the_real_one(name: str) -> None:
    real, double = getattr(Hsm, name), getattr(MemoryToken, name)
    assert isinstance(real, property) is isinstance(double, property)
    if isinstance(real, Callable):  # type: ignore[arg-type]  # it tells properties from functions
        assert list(inspect.signature(real).parameters) == list(inspect.signature(double).parameters)
        assert inspect.iscoroutinefunction(real) is inspect.iscoroutinefunction(double)


async def test_what_is_encrypted_is_read_back_and_both_are_counted(token: MemoryToken) -> None:
    setup = _Setup(token)
    sealed = await setup.encrypt()  # the first call looks at the token
    assert await setup.decrypt(sealed, OLD) == b"seed"
    assert setup.uses == [(OLD.decode(), "encrypt"), (OLD.decode(), "decrypt")]
    assert (await setup.service.status()).healthz == "ok"


async def test_a_moved_label_moves_the_writing_and_the_old_key_reads_on(token: MemoryToken) -> None:
    setup = _Setup(token)
    await setup.keyring.look()
    sealed = await setup.encrypt()
    token.relabel(LABEL, f"{LABEL}@20260101T000000Z")
    token.make(LABEL, NEW)
    await setup.keyring.look()
    assert setup.keyring.write_key().cka_id == NEW
    assert await setup.decrypt(sealed, OLD) == b"seed"
    assert await setup.decrypt(await setup.encrypt(), NEW) == b"seed"
    before, after = setup.changes[-1]
    assert (before.write and before.write.cka_id, after.write and after.write.cka_id) == (OLD, NEW)
    assert not token.reconnects


async def test_keys_that_vanish_are_doubted_before_that_is_believed(token: MemoryToken) -> None:
    setup = _Setup(token)
    await setup.keyring.look()
    token.stored.clear()
    await setup.keyring.look()
    assert token.reconnects == ["keys vanished"]
    with pytest.raises(Misconfigured, match="no key labelled 'k8s-kek'"):
        await setup.encrypt()
    assert token.forgotten == {OLD}


async def test_a_changed_ciphertext_is_refused_and_a_failing_token_is_not_blamed_on_it(token: MemoryToken) -> None:
    setup = _Setup(token)
    sealed = await setup.encrypt()
    changed = sealed[:-2] + (b"AA" if sealed[-2:] != b"AA" else b"BB")
    with pytest.raises(TagMismatch):
        await setup.decrypt(changed)
    token.failing[Operation.PROBE_GCM] = CkrError("CKR_DEVICE_REMOVED", "C_EncryptInit")
    token.failing[Operation.RANDOM] = token.failing[Operation.PROBE_GCM]
    with pytest.raises(Unavailable, match="CKR_DEVICE_REMOVED"):
        await setup.decrypt(changed)


async def test_a_key_id_beside_another_keys_ciphertext_is_refused(token: MemoryToken) -> None:
    token.make("other", NEW)
    setup = _Setup(token)
    with pytest.raises(InvalidRequest):
        await setup.decrypt(await setup.encrypt(), NEW)


async def test_two_keys_with_one_id_serve_neither(token: MemoryToken) -> None:
    token.make("twin", OLD)
    setup = _Setup(token)
    with pytest.raises(Misconfigured, match="2 keys have this key id"):
        await setup.encrypt()
    assert not token.done[Operation.ENCRYPT_GCM]


async def test_a_public_object_is_no_key_of_ours(token: MemoryToken) -> None:
    token.stored.clear()
    token.make(LABEL, OLD, private=False)
    setup = _Setup(token)
    with pytest.raises(KmsdError):
        await setup.encrypt()
    with pytest.raises(NotFound):
        setup.keyring.select("nobody")


async def test_a_key_on_a_token_that_is_away_is_not_called_missing(token: MemoryToken) -> None:
    other = MemoryToken("other")
    other.make("old", NEW)
    setup = _Setup(token, other)
    await setup.keyring.look()
    token.relabel(LABEL, "moved")
    other.relabel("old", LABEL)
    await setup.keyring.look()
    sealed = await setup.encrypt()
    other.unplug()
    with pytest.raises(Unavailable, match="was unplugged"):
        await setup.decrypt(sealed)
    with pytest.raises(Unavailable, match="may be on token 'other', which is away"):
        await setup.keyring.find(new_key_id())
    other.plug()
    assert await setup.decrypt(sealed) == b"seed"


@pytest.mark.parametrize("fail_closed", [False, True])
async def test_status_while_the_token_is_away(token: MemoryToken, fail_closed: bool) -> None:
    setup = _Setup(token, fail_closed=fail_closed, recalled=OLD.decode())
    token.unplug()
    if fail_closed:
        with pytest.raises(Unavailable, match="was unplugged"):
            await setup.service.status()
    else:
        status = await setup.service.status()
        assert status.key_id == OLD.decode()  # remembered, until the token has been seen
        assert "was unplugged" in status.healthz
