"""The rules over keys: which one writes, which read, what they are called."""

from __future__ import annotations

import base64
import hashlib
import re
import time
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kmsd.crypto.schemes import Ability
from kmsd.errors import InvalidRequest
from kmsd.formats import keyid
from kmsd.hsm.host.keys import TokenKey
from kmsd.keys.inventory import judge
from kmsd.keys.judging import Rules
from kmsd.keys.key import Inventory, KeyState
from kmsd.keys.labels import MAX_KEY_ID, created_ms, key_id_bytes, new_key_id

L = "k8s-kek"
OLD = b"01900000-0000-7000-8000-000000000001"
NEW = b"01990000-0000-7000-8000-000000000002"
PLAIN = b"made-elsewhere"
"""No version 7 UUID, so nobody knows how old it is."""


def aes(label: str = L, cka_id: bytes = NEW, **changed: object) -> TokenKey:
    key = TokenKey(
        label=label,
        cka_id=cka_id,
        kind="aes",
        bits=256,
        encrypt=True,
        decrypt=True,
        sign=False,
        verify=False,
        sensitive=True,
        extractable=False,
        private=True,
    )
    return replace(key, **changed)  # type: ignore[arg-type]


def hmac(label: str = f"{L}.hmac", cka_id: bytes = NEW) -> TokenKey:
    return aes(label, cka_id, kind="hmac", encrypt=False, decrypt=False, sign=True, verify=True)


def look(*keys: TokenKey) -> Inventory:
    return judge({"test": keys}, L, "token 'test'")


def states(inventory: Inventory) -> dict[str, KeyState]:
    return {key.key_id: key.state for key in inventory.keys}


def fatal(inventory: Inventory) -> list[str]:
    return [problem.message for problem in inventory.problems if problem.fatal]


def test_the_key_with_the_label_writes_and_all_others_read() -> None:
    inventory = look(aes(cka_id=NEW), aes("other", OLD), aes("third", PLAIN))
    assert inventory.write is not None
    assert inventory.write.key_id == NEW.decode()
    assert states(inventory) == {
        NEW.decode(): KeyState.WRITE,
        OLD.decode(): KeyState.READABLE,
        PLAIN.decode(): KeyState.READABLE,
    }
    assert set(inventory.by_key_id) == set(states(inventory))
    assert not inventory.problems


def test_of_two_keys_with_the_label_the_newest_writes_and_it_is_said() -> None:
    for keys in ((aes(cka_id=OLD), aes(cka_id=NEW)), (aes(cka_id=NEW), aes(cka_id=OLD))):
        inventory = look(*keys)
        assert inventory.write is not None
        assert inventory.write.key_id == NEW.decode()
        assert states(inventory)[OLD.decode()] is KeyState.READABLE
        assert [p.message for p in inventory.problems] == [
            f"2 keys on token 'test' are labelled '{L}'; the newest writes, all read"
        ]
        assert not fatal(inventory)


def test_a_key_of_unknown_age_is_older_than_any_with_a_time() -> None:
    inventory = look(aes(cka_id=b"zzzz"), aes(cka_id=OLD))
    assert inventory.write is not None
    assert inventory.write.key_id == OLD.decode()


def test_a_pending_key_writes_only_while_no_key_has_the_label() -> None:
    inventory = look(aes(f"{L}.pending", NEW), aes(L, OLD))
    assert inventory.write is not None
    assert inventory.write.key_id == OLD.decode()
    assert states(inventory)[NEW.decode()] is KeyState.PENDING
    assert NEW.decode() in inventory.by_key_id

    inventory = look(aes(f"{L}.pending", OLD), aes(f"{L}.pending", NEW), aes(f"{L}@2026", PLAIN))
    assert inventory.write is not None
    assert inventory.write.key_id == NEW.decode()
    assert states(inventory) == {
        NEW.decode(): KeyState.WRITE,
        OLD.decode(): KeyState.PENDING,
        PLAIN.decode(): KeyState.READABLE,
    }


def test_no_key_is_said_with_what_to_do() -> None:
    for inventory in (look(), look(aes("other")), look(hmac(L))):
        assert inventory.write is None
        assert fatal(inventory) == [f"there is no key labelled '{L}' on token 'test'"]
        assert inventory.problems[0].hint == f"make one: kmsctl keygen {L}"


def test_two_keys_with_one_id_are_both_refused() -> None:
    inventory = look(aes(L, NEW), aes("other", NEW), aes("third", OLD))
    assert inventory.write is None
    assert set(inventory.by_key_id) == {OLD.decode()}
    refused = [key for key in inventory.keys if key.key_id == NEW.decode()]
    assert [key.state for key in refused] == [KeyState.UNUSABLE] * 2
    assert all(key.reason == "2 keys have this key id" and key.hint for key in refused)
    assert fatal(inventory) == [f"key '{L}' on token 'test' cannot serve: 2 keys have this key id"]


def test_two_ids_with_one_text_are_both_refused() -> None:
    """The bytes 01 and the characters 0x01 are written alike."""
    inventory = look(aes(L, b"\x01"), aes("other", b"0x01"))
    assert inventory.write is None
    assert not inventory.by_key_id


def test_a_collision_of_others_leaves_the_write_key_alone() -> None:
    inventory = look(aes(), aes("a", OLD), aes("b", OLD))
    assert inventory.write is not None
    assert not fatal(inventory)
    assert set(inventory.by_key_id) == {NEW.decode()}


def test_the_hmac_key_of_a_pair_is_no_collision() -> None:
    inventory = look(aes(), hmac(cka_id=NEW))
    assert inventory.write is not None
    assert sorted(key.state.value for key in inventory.keys) == ["companion", "write"]
    assert inventory.by_key_id[NEW.decode()].token.kind == "aes"
    assert not inventory.problems


def test_an_hmac_key_alone_never_reads() -> None:
    inventory = look(aes(), hmac("k8s-hmac", OLD))
    assert OLD.decode() not in inventory.by_key_id


@pytest.mark.parametrize(
    ("changed", "reason", "hint"),
    [
        ({"cka_id": b""}, "it has no CKA_ID", f"kmsctl keys adopt {L}"),
        ({"cka_id": b"x" * (MAX_KEY_ID + 1)}, "its key id has over", "shorter CKA_ID"),
        ({"cka_id": b"\xff" * (MAX_KEY_ID // 2)}, "its key id has over", "shorter CKA_ID"),
        ({"bits": 0}, "the token does not tell its size", "kmsctl keygen"),
        ({"bits": 512}, "the token does not tell its size", "kmsctl keygen"),
        ({"decrypt": False}, "CKA_DECRYPT is not set", "kmsctl keygen"),
    ],
)
def test_a_key_that_cannot_serve_says_why(changed: dict[str, object], reason: str, hint: str) -> None:
    inventory = look(replace(aes(), **changed))  # type: ignore[arg-type]
    assert inventory.write is None
    assert not inventory.by_key_id
    (key,) = inventory.keys
    assert key.state is KeyState.UNUSABLE
    assert key.reason.startswith(reason)
    assert hint in key.hint
    (message,) = fatal(inventory)
    assert message.startswith(f"key '{L}' on token 'test' cannot serve: {reason}")
    assert inventory.problems[0].hint == key.hint


def test_a_usable_key_with_the_label_makes_an_unusable_one_a_warning() -> None:
    inventory = look(aes(), aes(cka_id=b""))
    assert inventory.write is not None
    assert [problem.fatal for problem in inventory.problems] == [False]


def test_a_labelled_key_that_may_not_encrypt_reads_and_does_not_write() -> None:
    inventory = look(aes(encrypt=False))
    assert inventory.write is None
    assert states(inventory) == {NEW.decode(): KeyState.READABLE}
    (message,) = fatal(inventory)
    assert "CKA_ENCRYPT is not set" in message

    inventory = look(aes(encrypt=False), aes(cka_id=OLD))
    assert inventory.write is not None
    assert inventory.write.key_id == OLD.decode()


def test_another_kind_of_key_is_left_alone() -> None:
    inventory = look(aes(), aes("3des", OLD, kind="other", bits=192))
    assert states(inventory)[OLD.decode()] is KeyState.UNUSABLE
    assert OLD.decode() not in inventory.by_key_id
    assert not inventory.problems


@pytest.mark.parametrize(
    ("cka_id", "text"),
    [
        (b"", ""),
        (b"11111111-1111-4111-8111-111111111111", "11111111-1111-4111-8111-111111111111"),
        (b"key=1~", "key=1~"),
        (b"\x00", "0x00"),
        (b"a b", "0x612062"),
        (b"tab\t", "0x74616209"),
        (b"\x7f", "0x7f"),
        ("schl\u00fcssel".encode(), "0x7363686cc3bc7373656c"),
        (b"\xde\xad\xbe\xef", "0xdeadbeef"),
    ],
)
def test_a_key_id_is_the_id_if_printable_else_hex(cka_id: bytes, text: str) -> None:
    assert keyid.text(cka_id) == text
    inventory = look(aes(cka_id=cka_id))
    (key,) = inventory.keys
    assert key.key_id == text
    assert key.key_id_sha256 == (hashlib.sha256(text.encode()).hexdigest() if text else "")


@pytest.mark.parametrize("text", ["", "a b", "\n", "\u00fc", "x" * (MAX_KEY_ID + 1), "\x7f"])
def test_an_id_that_would_not_read_back_as_given_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest):
        key_id_bytes(text)


@given(st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=64))
@settings(deadline=None)
def test_an_id_that_an_operator_gives_reads_back_as_given(text: str) -> None:
    assert keyid.text(key_id_bytes(text)) == text


def test_new_ids_are_version_7_uuids_that_carry_their_time() -> None:
    form = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
    before = time.time_ns() // 1_000_000
    ids = [new_key_id() for _ in range(2000)]
    after = time.time_ns() // 1_000_000
    assert all(form.fullmatch(each) for each in ids)
    assert len(set(ids)) == len(ids)
    assert all(before <= created_ms(each) <= after for each in ids)


def test_new_ids_sort_by_the_time_they_were_made() -> None:
    ids = [new_key_id()]
    while len(ids) < 5:
        made = new_key_id()
        if created_ms(made) > created_ms(ids[-1]):
            ids.append(made)
    assert ids == sorted(ids)
    newest = look(*(aes(cka_id=each.encode()) for each in ids)).write
    assert newest is not None
    assert newest.key_id == ids[-1]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "made-elsewhere",
        "11111111-1111-4111-8111-111111111111",
        "01990000-0000-7000-c000-000000000002",
        "01990000-0000-7000-8000-000000000002x",
        "01990000-0000-7000-8000-00000000000G",
        "01990000000070008000000000000002",
        "01990000-0000-7000-8000-00000000000\u0662",
    ],
)
def test_ids_of_another_form_carry_no_time(text: str) -> None:
    assert created_ms(text) == 0


uuid7s = st.builds(
    lambda ms, n: f"{ms:012x}"[:8] + "-" + f"{ms:012x}"[8:] + f"-7{n:03x}-8{n:03x}-{n:012x}",
    st.integers(0, 2**48 - 1),
    st.integers(0, 3),
).map(str.encode)
token_keys = st.builds(
    TokenKey,
    label=st.sampled_from([L, f"{L}.pending", f"{L}@2026", f"{L}.hmac", "other", ""]),
    cka_id=uuid7s | st.sampled_from([b"", OLD, NEW, b"\x01", b"0x01", b"x" * 600]) | st.binary(max_size=8),
    kind=st.sampled_from(["aes", "aes", "aes", "hmac", "other"]),
    bits=st.sampled_from([256, 256, 128, 192, 0, 56]),
    encrypt=st.sampled_from([True, True, False]),
    decrypt=st.sampled_from([True, True, False]),
    sign=st.booleans(),
    verify=st.booleans(),
    sensitive=st.booleans(),
    extractable=st.booleans(),
    private=st.booleans(),
)


@given(st.lists(token_keys, max_size=12), st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=400)
def test_whatever_is_on_the_token_the_picture_is_sound(found: list[TokenKey], random: object) -> None:
    inventory = look(*found)
    assert sorted(key.token.cka_id for key in inventory.keys) == sorted(key.cka_id for key in found)

    writing = [key for key in inventory.keys if key.state is KeyState.WRITE]
    assert writing == ([inventory.write] if inventory.write else [])
    if inventory.write:
        assert inventory.by_key_id[inventory.write.key_id] is inventory.write
        assert inventory.write.token.encrypt
        assert inventory.write.label in (L, f"{L}.pending")
        assert not fatal(inventory)
    else:
        assert fatal(inventory)

    for key_id, key in inventory.by_key_id.items():
        assert key.key_id == key_id != ""
        assert key.reads
        assert key.token.kind == "aes"
        assert key.token.decrypt
        assert sum(other.token.kind == "aes" and other.key_id == key_id for other in inventory.keys) == 1
    assert sum(key.reads for key in inventory.keys) == len(inventory.by_key_id)
    for key in inventory.keys:
        assert (key.state is KeyState.UNUSABLE) == bool(key.reason) == bool(key.hint)

    # Every node sees the keys in an order of its own, and must come to the same inventory.
    shuffled = list(found)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    again = look(*shuffled)
    assert again.write == inventory.write
    assert again.by_key_id == inventory.by_key_id


@given(st.lists(token_keys, max_size=8), token_keys)
@settings(deadline=None, max_examples=300)
def test_a_pending_key_never_takes_over_from_one_with_the_label(found: list[TokenKey], extra: TokenKey) -> None:
    """A rotation that has only begun changes nothing."""
    before = look(*found)
    pending = replace(
        extra, label=f"{L}.pending", cka_id=b"an id that nothing else on the token has".replace(b" ", b"-")
    )
    after = look(*found, pending)
    if before.write is not None and before.write.label == L:
        assert after.write == before.write


NO_GCM = Ability(frozenset({"CKM_AES_CBC", "CKM_SHA256_HMAC"}))


def look_with(*keys: TokenKey, **rules: object) -> Inventory:
    """On a token without AES-GCM."""
    return look_at(NO_GCM, *keys, **rules)


def look_at(able: Ability, *keys: TokenKey, **rules: object) -> Inventory:
    return judge({"test": keys}, L, "token 'test'", Rules(abilities={"test": able}, **rules))  # type: ignore[arg-type]


def test_without_aes_gcm_a_pair_writes_and_an_aes_key_alone_does_not_even_read() -> None:
    pair = look_with(aes(), hmac())
    assert pair.write is not None
    assert (pair.write.enc, pair.problems) == ("A256CBC-HS256", ())
    alone = look_with(aes())
    assert states(alone) == {NEW.decode(): KeyState.UNUSABLE}
    assert "needs an HMAC key beside it" in alone.problems[0].message


def test_the_configured_hmac_key_belongs_to_every_key_that_has_none_of_its_own() -> None:
    """Whatever the label is now: what it wrote must be read on."""
    keys = (aes(), hmac(), aes(f"{L}@20260101T000000Z", OLD), aes("renamed", PLAIN), hmac("mac", b"auth"))
    inventory = look_with(*keys, hmac_label="mac")
    macs = {key.key_id: key.scheme.mac for key in inventory.keys if key.scheme is not None}
    assert macs == {NEW.decode(): NEW, OLD.decode(): b"auth", PLAIN.decode(): b"auth"}
    assert all(key.reads for key in inventory.keys if key.token.kind == "aes")


@pytest.mark.parametrize("bits", [128, 256])
def test_a_pair_that_cannot_write_reads_what_it_wrote(bits: int) -> None:
    """The token refuses it, or the HMAC key is too short for what is written now."""
    short = replace(hmac(), bits=bits)
    inventory = look_with(aes(), short, picked={("test", NEW, NEW): ""})
    assert inventory.write is None
    (key,) = (key for key in inventory.keys if key.token.kind == "aes")
    assert key.reads
    assert key.reason in inventory.problems[0].message
    assert inventory.problems[0].fatal


def test_what_was_tried_is_what_is_written() -> None:
    able = Ability(NO_GCM.mechanisms | {"CKM_SHA512_HMAC"})
    for picked, enc in (({}, "A256CBC-HS512"), ({("test", NEW, NEW): "A256CBC-HS256"}, "A256CBC-HS256")):
        rules = Rules(abilities={"test": able}, picked=picked)
        write = judge({"test": (aes(), hmac())}, L, "token 'test'", rules).write
        assert write is not None
        assert write.enc == enc
        assert f'"enc":"{enc}"' in base64.urlsafe_b64decode(write.header + b"==").decode()


def test_a_trial_that_failed_takes_nothing_from_what_was_written_unless_the_tag_says_nothing() -> None:
    listed = replace(NO_GCM, gcm_refused="C_EncryptInit: CKR_MECHANISM_INVALID")
    (key,) = look_at(listed, aes()).keys
    assert (key.state, key.may_write) == (KeyState.READABLE, False)
    (key,) = look_at(replace(listed, gcm_unauthenticated=True), aes()).keys
    assert key.state is KeyState.UNUSABLE


def test_an_rsa_key_of_another_program_spoils_no_key_of_its_id() -> None:
    other = aes("certificates", kind="rsa", bits=2048)
    inventory = look_with(aes(), hmac(), other, algorithm="rsa-oaep")
    assert inventory.write is not None
    assert inventory.write.token.kind == "aes"
    both = look_with(aes(), aes(kind="rsa", bits=2048), algorithm="rsa-oaep")
    assert {key.state for key in both.keys} == {KeyState.UNUSABLE}, "two of one id that are both meant"


SIGNS = b"ca.01990000-0000-7000-8000-000000000003"


@pytest.mark.parametrize("kind", ["ec", "rsa"])
@pytest.mark.parametrize("algorithm", ["auto", "rsa-oaep"])
@pytest.mark.parametrize("label", [L, f"{L}.pending", f"{L}@20260101T000000Z", "kmsd-ca"])
def test_a_key_that_signs_is_nothing_else_whatever_its_label_is(kind: str, algorithm: str, label: str) -> None:
    signs = aes(label, SIGNS, kind=kind, bits=3072, encrypt=True, decrypt=True, sign=True)
    twin = replace(signs, label="another")
    inventory = judge({"t": [aes(), signs, twin]}, L, "token 't'", Rules(algorithm=algorithm, signing=True))  # type: ignore[arg-type]
    assert inventory.write is not None
    assert inventory.write.cka_id == NEW
    found = [key for key in inventory.keys if key.cka_id == SIGNS]
    assert [key.state for key in found] == [KeyState.SIGNING] * 2
    assert not any(key.reads or key.may_write for key in found)
    assert {key.reason for key in found} == {"2 keys have this key id"}, "which of them is to sign nobody could tell"
    assert set(inventory.by_key_id) == {NEW.decode()}
    assert inventory.problems == ()
    assert found[0].created_ms == created_ms("01990000-0000-7000-8000-000000000003")


@pytest.mark.parametrize(
    "cka_id", [b"ca.x", b"ca", b"ca.01990000-0000-7000-8000-00000000000G", SIGNS + b"0", b"x" + SIGNS]
)
def test_only_an_id_of_the_whole_form_says_that_a_key_signs(cka_id: bytes) -> None:
    (key,) = judge({"t": [aes(L, cka_id, kind="rsa", bits=3072)]}, L, "token 't'", Rules(algorithm="rsa-oaep")).keys
    assert key.token.purpose == "kek"
    assert key.state is not KeyState.SIGNING


def test_no_key_that_encrypts_gets_an_id_of_one_that_signs() -> None:
    with pytest.raises(InvalidRequest, match="says that the key signs"):
        key_id_bytes(SIGNS.decode())
