"""What k8s-kms-plugin and KeySealer wrote with AES-CBC, on a token in memory: what is read, and what is refused."""

from __future__ import annotations

from time import monotonic

import pytest

from kmsd.crypto.gcm import TagMismatch
from kmsd.errors import Conflict, InvalidRequest, KmsdError, Misconfigured, Overloaded
from kmsd.formats.ciphertext import CiphertextFormat
from kmsd.keys.judging import Rules
from kmsd.keys.keyring import Keyring
from kmsd.keys.labels import new_key_id
from kmsd.keys.scanner import KeyScanner
from kmsd.service import foreign
from kmsd.service.foreign import Foreign
from tests import keysealer
from tests.memory_token import MemoryToken
from tests.rpc.vectors import CBC, K8S_KMS_PLUGIN_KEYS, Vector

PINNED = CBC[0].key_label
HMAC = next(key.label for key in K8S_KMS_PLUGIN_KEYS if key.type == "hmac")


class _Setup:
    """A reader on a token with the keys of both programs, and a write key of kmsd's own."""

    def __init__(
        self, *, allowed: bool = True, pinned: str = PINNED, hmac_label: str = "", wrote: tuple[str, ...] = ()
    ) -> None:
        self.token = MemoryToken()
        self.token.make("k8s-kek", new_key_id().encode())
        for key in K8S_KMS_PLUGIN_KEYS:
            self.token.put(key.label, key.key_id.encode(), key.value, kind="aes" if key.type == "aes" else "hmac")
        for sealer in keysealer.KEYS.values():
            self.token.put(sealer.label, sealer.cka_id, sealer.value, kind=sealer.type)
        self.keyring = Keyring(
            KeyScanner({self.token.label: self.token.as_hsm}, Rules()),
            write_label="k8s-kek",
            recalled="",
            on_change=lambda before, after: None,
        )
        self.reader = Foreign(self.keyring, allowed=allowed, pinned=pinned, hmac_label=hmac_label, wrote=lambda: wrote)

    async def decrypt(self, ciphertext: bytes, key_id: str | None = None, seconds: float = 3.0) -> bytes:
        return (await self.reader.decrypt(ciphertext, key_id, monotonic() + seconds)).plaintext


def bent(ciphertext: bytes) -> bytes:
    """The value with another last block, so that zeros do not end it."""
    head, key, iv, body, tag = ciphertext.split(b".")
    return b".".join((head, key, iv[:-4] + (b"AAAA" if iv[-4:] != b"AAAA" else b"BBBB"), body, tag))


@pytest.mark.parametrize("vector", CBC, ids=lambda vector: len(vector.plaintext))
@pytest.mark.parametrize("hmac_label", ["", HMAC], ids=["without-hmac", "with-hmac"])
async def test_what_is_allowed_and_pinned_is_read_and_counted(vector: Vector, hmac_label: str) -> None:
    setup = _Setup(pinned=vector.key_label, hmac_label=hmac_label)
    assert await setup.decrypt(vector.ciphertext) == vector.plaintext
    (problem,) = setup.reader.problems
    assert "1 values that nothing protects were read" in problem.message


@pytest.mark.parametrize("vector", keysealer.VECTORS, ids=lambda vector: len(vector.plaintext))
async def test_what_keysealer_authenticated_is_read_without_leave(vector: keysealer.ForeignVector) -> None:
    setup = _Setup(allowed=False, hmac_label=vector.hmac.label)
    assert await setup.decrypt(vector.ciphertext) == vector.plaintext
    assert setup.reader.read == {CiphertextFormat.KEYSEALER: 1}
    with pytest.raises(TagMismatch):
        await setup.decrypt(bent(vector.ciphertext))


async def test_what_is_not_allowed_is_not_read_and_asks_no_token() -> None:
    setup = _Setup(allowed=False)
    with pytest.raises(Conflict, match="authenticates nothing: it is not read"):
        await setup.decrypt(CBC[0].ciphertext)
    assert setup.reader.problems == []
    assert not setup.token.done


@pytest.mark.parametrize(
    ("pinned", "wrote", "kind", "words"),
    [
        ("", (), Misconfigured, "legacy.key does not say"),
        ("nobody", (), Misconfigured, "must name exactly one key, got 'nobody'"),
        (HMAC, (), Misconfigured, "it is no AES key"),
        ("k8s-kek", (), Conflict, "that is, or was, a write key of kmsd"),
        (
            PINNED,
            (next(key.key_id for key in K8S_KMS_PLUGIN_KEYS if key.label == PINNED),),
            Conflict,
            "it was the write key",
        ),
    ],
)
async def test_a_key_that_must_not_read_them_is_refused_and_is_a_problem(
    pinned: str, wrote: tuple[str, ...], kind: type[KmsdError], words: str
) -> None:
    setup = _Setup(pinned=pinned, wrote=wrote)
    await setup.keyring.look()
    with pytest.raises(kind, match=words):
        await setup.decrypt(CBC[0].ciphertext)
    (problem,) = setup.reader.problems
    assert words in problem.message
    assert setup.reader.read[CiphertextFormat.K8S_KMS_PLUGIN_CBC] == 0


async def test_values_that_do_not_read_keep_their_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixteen answers in a minute are all that an oracle gives; each comes at the same time after its call."""
    monkeypatch.setattr(foreign, "_FAILED_ANSWER", 0.02)
    setup = _Setup()
    await setup.keyring.look()
    for _ in range(foreign._TURNS):
        began = monotonic()
        with pytest.raises(TagMismatch):
            await setup.decrypt(bent(CBC[0].ciphertext))
        assert monotonic() - began >= 0.02
    with pytest.raises(Overloaded, match="none is tried for 60 s"):
        await setup.decrypt(CBC[0].ciphertext, seconds=0.05)


async def test_a_damaged_value_and_one_under_another_key_id_are_refused() -> None:
    setup = _Setup()
    with pytest.raises(InvalidRequest, match="cannot be read"):
        await setup.decrypt(CBC[0].ciphertext + b"x")
    with pytest.raises(InvalidRequest):
        await setup.decrypt(CBC[0].ciphertext, key_id="another")
