"""Making, naming, rotating and ending keys, on tokens in memory: what each change does, refuses, and leaves behind.

What a module makes of the same changes, tests/admin and tests/rotation show on real ones.
"""

from __future__ import annotations

import asyncio
from time import monotonic, time

import pytest

from kmsd.errors import AlreadyExists, Conflict, DeadlineExceeded, InvalidRequest, NotFound, Unavailable
from kmsd.hsm.ckr import CkrError
from kmsd.hsm.operation import Operation
from kmsd.keys.judging import Rules
from kmsd.keys.keyring import Keyring
from kmsd.keys.labels import new_key_id
from kmsd.keys.lifecycle import KeyUseEvidence, Lifecycle, ScanEvidence
from kmsd.keys.scanner import KeyScanner
from tests.memory_token import MemoryToken

LABEL = "k8s-kek"


class _Uses:
    """Nothing was used since long ago, and nobody made a key here but who is told."""

    since = 0.0
    shared = False

    def __init__(self) -> None:
        self.fresh: set[str] = set()

    def last(self, key_id: str) -> float:
        return 0.0

    def unused(self, key_id: str) -> bool:
        return key_id in self.fresh

    def made(self, key_id: str) -> None:
        self.fresh.add(key_id)


class _Setup:
    def __init__(self, *tokens: MemoryToken) -> None:
        self.tokens = tokens
        by_label = {each.label: each.as_hsm for each in tokens}
        self.keyring = Keyring(
            KeyScanner(by_label, Rules()), write_label=LABEL, recalled="", on_change=lambda _, __: None
        )
        self.uses = _Uses()
        self.lifecycle = Lifecycle(self.keyring, write_token=tokens[0].label, uses=self.uses)

    def labels(self, token: int = 0) -> list[str]:
        return sorted(each.key.label for each in self.tokens[token].stored)

    async def rotate(self, *, from_key_id: str = "", place: str = "", dry_run: bool = False) -> str:
        done = await self.lifecycle.rotate(LABEL, from_key_id, place, dry_run=dry_run)
        return done.new.key_id if done.new is not None else ""


@pytest.fixture
def setup() -> _Setup:
    token = MemoryToken()
    token.make(LABEL, new_key_id().encode())
    return _Setup(token)


def _changes(setup: _Setup) -> int:
    done = setup.tokens[0].done
    return sum(done[each] for each in (Operation.GENERATE_KEY, Operation.RELABEL_KEY, Operation.DESTROY_KEY))


async def test_a_key_is_made_once_and_found_if_it_is_there(setup: _Setup) -> None:
    made = await setup.lifecycle.generate("spare", "aes", 128, "", if_not_exists=False)
    assert (made.created, made.key.token.bits, made.key.label) == (True, 128, "spare")
    again = await setup.lifecycle.generate("spare", "aes", 128, "", if_not_exists=True)
    assert (again.created, again.key.key_id) == (False, made.key.key_id)
    with pytest.raises(AlreadyExists, match="has a key labelled 'spare' already"):
        await setup.lifecycle.generate("spare", "aes", 128, "", if_not_exists=False)
    with pytest.raises(AlreadyExists, match="key id"):
        await setup.lifecycle.generate("other", "aes", 256, made.key.key_id, if_not_exists=False)
    assert setup.labels() == [LABEL, "spare"]


async def test_a_pair_is_made_with_its_hmac_key_first_and_goes_as_one(setup: _Setup) -> None:
    made = await setup.lifecycle.generate("mac", "pair", 256, "", if_not_exists=False)
    assert made.companion is not None
    assert [each.key.kind for each in setup.tokens[0].stored[1:]] == ["hmac", "aes"]
    key, companion = await setup.lifecycle.destroy("mac", None, "mac", dry_run=False)
    assert (key.key_id, companion and companion.key_id) == (made.key.key_id, made.key.key_id)
    assert setup.labels() == [LABEL]


async def test_a_pair_that_was_made_by_half_is_made_whole(setup: _Setup) -> None:
    token = setup.tokens[0]
    half = new_key_id().encode()
    token.make("mac.hmac", half, kind="hmac")
    made = await setup.lifecycle.generate("mac", "pair", 256, "", if_not_exists=True)
    assert (made.created, made.key.cka_id, made.companion is not None) == (True, half, True)


@pytest.mark.parametrize(("wanted", "bits"), [("aes", 100), ("hmac", 64), ("pair", 192), ("rsa", 1024)])
async def test_sizes_that_there_are_not_are_refused_before_the_token_is_asked(
    setup: _Setup, wanted: str, bits: int
) -> None:
    with pytest.raises(InvalidRequest, match=f"cannot have {bits} bits"):
        await setup.lifecycle.generate("x", wanted, bits, "", if_not_exists=False)  # type: ignore[arg-type]
    assert not setup.tokens[0].done


async def test_a_token_that_there_is_not_is_named_with_those_that_there_are(setup: _Setup) -> None:
    with pytest.raises(NotFound, match="no token called 'nowhere' is configured"):
        await setup.lifecycle.generate("x", "aes", 256, "", if_not_exists=False, place="nowhere")


async def test_what_may_be_on_a_token_that_is_away_is_not_made_again_unasked() -> None:
    here, away = MemoryToken("here"), MemoryToken("away")
    away.unplug()
    setup = _Setup(here, away)
    with pytest.raises(Unavailable, match="'spare' may be among them"):
        await setup.lifecycle.generate("spare", "aes", 256, "", if_not_exists=True)
    assert (await setup.lifecycle.generate("spare", "aes", 256, "", if_not_exists=False)).created


async def test_a_rotation_makes_a_newer_key_and_archives_the_old(setup: _Setup) -> None:
    before = setup.tokens[0].stored[0].key.cka_id.decode()
    assert await setup.rotate(dry_run=True) == ""
    assert _changes(setup) == 0
    after = await setup.rotate(from_key_id=before)
    assert after > before
    assert setup.keyring.write_key().key_id == after
    assert [label.partition("@")[0] for label in setup.labels()] == [LABEL, LABEL]
    again = await setup.lifecycle.rotate(LABEL, before, "", dry_run=False)
    assert not again.rotated, "the write key is another than the one to be rotated away from"


async def test_a_rotation_that_ends_between_two_steps_is_finished_by_the_next(setup: _Setup) -> None:
    token = setup.tokens[0]
    token.failing[Operation.RELABEL_KEY] = CkrError("CKR_DEVICE_ERROR", "C_SetAttributeValue")
    with pytest.raises(Conflict, match="was begun and could not be finished"):
        await setup.rotate()
    assert setup.labels() == [LABEL, f"{LABEL}.pending"]
    pending = next(each.key.cka_id for each in token.stored if each.key.label != LABEL)
    token.failing.clear()
    assert await setup.rotate() == pending.decode()
    assert setup.keyring.write_key().cka_id == pending
    assert len([label for label in setup.labels() if label == LABEL]) == 1
    assert not setup.lifecycle.problems


async def test_a_rotation_onto_another_token_leaves_the_old_key_where_it_is() -> None:
    one, other = MemoryToken("one"), MemoryToken("other")
    one.make(LABEL, new_key_id().encode())
    setup = _Setup(one, other)
    new = await setup.rotate(place="other")
    assert (setup.keyring.write_key().key_id, setup.keyring.write_key().place) == (new, "other")
    assert setup.labels(0)[0].startswith(f"{LABEL}@")


async def test_a_revert_makes_a_new_key_where_the_one_before_is(setup: _Setup) -> None:
    with pytest.raises(NotFound):
        await setup.lifecycle.revert(LABEL, "", dry_run=False)
    first = setup.tokens[0].stored[0].key.cka_id
    second = await setup.rotate()
    done, before = await setup.lifecycle.revert(LABEL, second, dry_run=False)
    assert before.cka_id == first
    assert done.new is not None
    assert done.new.key_id not in (second, first.decode())


async def test_a_change_that_came_too_late_changes_nothing(setup: _Setup) -> None:
    with pytest.raises(DeadlineExceeded):
        await setup.lifecycle.generate("x", "aes", 256, "", if_not_exists=False, until=monotonic() - 1)
    assert _changes(setup) == 0


async def test_changes_take_their_turns(setup: _Setup) -> None:
    made = await asyncio.gather(
        *(setup.lifecycle.generate("one", "aes", 256, "", if_not_exists=True) for _ in range(5))
    )
    assert sorted(each.created for each in made) == [False, False, False, False, True]
    assert setup.labels() == [LABEL, "one"]


async def test_a_label_moves_and_nothing_takes_the_write_label_unasked(setup: _Setup) -> None:
    made = await setup.lifecycle.generate("spare", "aes", 256, "", if_not_exists=False)
    shown, before = await setup.lifecycle.relabel("spare", "kept", "", dry_run=True)
    assert (shown.key_id, before, setup.labels()) == (made.key.key_id, "spare", [LABEL, "spare"])
    await setup.lifecycle.relabel("spare", "kept", "", dry_run=False)
    assert setup.labels() == [LABEL, "kept"]
    with pytest.raises(AlreadyExists):
        await setup.lifecycle.relabel("kept", LABEL, "", dry_run=False)
    with pytest.raises(NotFound):
        await setup.lifecycle.relabel("spare", "other", "", dry_run=False)


async def test_the_write_key_goes_only_with_its_label_and_an_unused_one_without(setup: _Setup) -> None:
    with pytest.raises(Conflict, match="is the write key"):
        await setup.lifecycle.destroy(LABEL, None, "", dry_run=False)
    await setup.lifecycle.generate("spare", "aes", 256, "", if_not_exists=False)
    key, companion = await setup.lifecycle.destroy("spare", None, "", dry_run=True)
    assert (key.label, companion, setup.labels()) == ("spare", None, [LABEL, "spare"])
    await setup.lifecycle.destroy("spare", None, "", dry_run=False)
    assert setup.labels() == [LABEL]


async def test_an_old_key_is_retired_by_a_scan_that_shows_it_is_not_needed(setup: _Setup) -> None:
    old = setup.tokens[0].stored[0].key.cka_id.decode()
    new = await setup.rotate()
    with pytest.raises(Conflict):
        await setup.lifecycle.retire(old, None, "", dry_run=False)
    began = time() + 400  # more than kube-apiserver may take to follow

    def scan(key_id: str) -> ScanEvidence:
        return ScanEvidence(began, began + 1, "/registry", 7, 0, (KeyUseEvidence((key_id,), 7),))

    with pytest.raises((Conflict, InvalidRequest)):
        await setup.lifecycle.retire(old, scan(old), "", dry_run=False)
    assert f"{LABEL}.retired" not in " ".join(setup.labels())
    key, before = await setup.lifecycle.retire(old, None, setup.labels()[1], dry_run=False)
    assert (key.key_id, before.partition("@")[0]) == (old, LABEL)
    assert setup.keyring.write_key().key_id == new


async def test_a_key_is_tried_as_often_as_is_asked(setup: _Setup) -> None:
    key, timings = await setup.lifecycle.test(LABEL, 3)
    assert key.label == LABEL
    assert setup.tokens[0].done[Operation.PROBE_GCM] >= 3
    assert timings is not None
    with pytest.raises(InvalidRequest, match="rounds"):
        await setup.lifecycle.test(LABEL, 0)
