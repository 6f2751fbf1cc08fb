"""The rule of proof: what shows that a key may go, what does not, and what is said of it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

import pytest

from kmsd.keys.inventory import judge
from kmsd.keys.key import Key
from kmsd.keys.labels import old_label
from kmsd.keys.lifecycle.evidence import Deed, KeyUseEvidence, ScanEvidence, may_be_needed
from tests.unit.test_inventory import aes

ID = b"01900000-0000-7000-8000-000000000001"
OLD_LABEL = "k8s-kek@20200102T030405Z"
RETIRED_AT = 1577934245
RETIRED_LABEL = "k8s-kek.retired@20200102T030405Z"


@dataclass
class Noted:
    """What a kmsd knows of uses."""

    since: float = 0.0
    shared: bool = False
    used: dict[str, float] = field(default_factory=dict)
    made_here: set[str] = field(default_factory=set)

    def last(self, key_id: str) -> float:
        return self.used.get(key_id, 0.0)

    def unused(self, key_id: str) -> bool:
        return key_id in self.made_here

    def made(self, key_id: str) -> None:
        self.made_here.add(key_id)


USED = Noted(used={ID.decode(): 1577934000.0})
"""The key was used here, long before any scan."""


def keys(label: str, cka_id: bytes = ID) -> tuple[Key, tuple[Key, ...]]:
    """A key with this label and id, and all keys: it, the write key and another."""
    found = judge({"": [aes(label, cka_id), aes(cka_id=b"write-1"), aes("other", b"\x0a\x0b\x0c")]}, "k8s-kek", "x")
    (key,) = (each for each in found.keys if each.cka_id == cka_id)
    return key, found.keys


def scan(*uses: tuple[str, ...], objects: int = 3) -> ScanEvidence:
    """uses: the names that objects are stored under."""
    now = time.time()
    counted = tuple(KeyUseEvidence(names, objects) for names in uses)
    return ScanEvidence(started=now - 2, finished=now - 1, prefix="/registry/", objects=500, unknown=0, uses=counted)


def why(
    label: str = "spare",
    found: ScanEvidence | None = None,
    noted: Noted | None = None,
    cka_id: bytes = ID,
    deed: Deed = "destroy",
) -> str:
    key, every = keys(label, cka_id)
    against, hint = may_be_needed(key, deed, found, noted or Noted(), every)
    assert bool(against) == bool(hint)
    return against


@pytest.mark.parametrize("deed", ["retire", "destroy"])
@pytest.mark.parametrize("label", ["spare", OLD_LABEL])
def test_idle_time_here_is_no_proof_however_long(label: str, deed: Deed) -> None:
    """Another node may have used it, and under KMS v2 a key in daily need is used once per start of kube-apiserver."""
    told = why(label, deed=deed)
    assert told.startswith(f"nothing shows that no stored object needs {label!r}: this kmsd has noted no use of it")
    used = Noted(used={ID.decode(): time.time() - 200})
    assert "this kmsd used it 3 minutes ago" in why(label, noted=used, deed=deed)


@pytest.mark.parametrize("deed", ["retire", "destroy"])
def test_a_key_that_was_made_here_and_never_used_needs_no_more_proof(deed: Deed) -> None:
    assert not why("spare", noted=Noted(made_here={ID.decode()}), deed=deed)


@pytest.mark.parametrize("label", [OLD_LABEL, "other@20200102T030405Z", "k8s-kek@20990102T030405Z"])
def test_a_label_that_tells_of_writing_outweighs_that_it_was_made_here(label: str) -> None:
    assert why(label, noted=Noted(made_here={ID.decode()}))


def test_a_twin_of_a_key_that_was_made_here_is_not_taken_for_it() -> None:
    every = judge({"": [aes("spare", ID), aes("twin", ID)]}, "k8s-kek", "x").keys
    for key in every:
        told, hint = may_be_needed(key, "destroy", None, Noted(made_here={ID.decode()}), every)
        assert "what it may have encrypted is not known" in told
        assert f"kmsctl keys destroy {key.label} --report FILE" in hint, "it cannot be retired"


@pytest.mark.parametrize(("used", "goes"), [(0, True), (RETIRED_AT - 1, True), (RETIRED_AT + 1, False)])
def test_a_retired_key_goes_unless_it_was_used_since(used: float, goes: bool) -> None:
    told = why(RETIRED_LABEL, noted=Noted(used={ID.decode(): float(used)}))
    assert not told if goes else "ago, after it was retired" in told


def test_the_commands_that_show_it_are_named() -> None:
    key, every = keys("it's")
    for deed in ("retire", "destroy"):
        _, hint = may_be_needed(key, deed, None, Noted(), every)
        assert "kmsctl etcd scan --report FILE, then kmsctl keys retire 'it'\"'\"'s' --report FILE" in hint
    retired, every = keys(RETIRED_LABEL)
    _, hint = may_be_needed(retired, "destroy", None, Noted(used={ID.decode(): time.time()}), every)
    assert f"kmsctl keys destroy {RETIRED_LABEL} --report FILE" in hint


@pytest.mark.parametrize("label", [OLD_LABEL, RETIRED_LABEL])
def test_a_scan_that_names_another_key_of_its_label_is_a_proof(label: str) -> None:
    others = scan(("write-1",), ("0x0a0b0c",), ("other",))
    assert not why(label, others)
    assert not why(label, others, Noted(shared=True))


@pytest.mark.parametrize("label", ["spare", "spare@20200102T030405Z"])
def test_a_scan_without_its_label_may_be_of_a_cluster_that_never_used_the_key(label: str) -> None:
    """Two clusters may have keys on one token: what is in the etcd of one says nothing of the other's."""
    others = scan(("write-1",), ("0x0a0b0c",), ("other",))
    told = why(label, others)
    assert "was written under the label 'spare'" in told
    assert "another cluster than the one that was scanned may need it" in told
    before = Noted(used={ID.decode(): time.time() - 200})
    assert not why(label, others, before), "the cluster of this kmsd has used it, and is the one that was scanned"
    assert why(label, others, replace(before, shared=True)), "some tenant has used it"


@pytest.mark.parametrize("label", [OLD_LABEL, "spare"])
def test_a_scan_that_names_no_key_of_the_label_proves_nothing_of_its_keys(label: str) -> None:
    assert why(label, scan(("other",)))


@pytest.mark.parametrize(
    ("cka_id", "spellings"),
    [
        (b"kek1", ("kek1", "6b656b31", "6B656B31", "0x6b656b31", "0X6B656B31")),
        (bytes.fromhex("d73f87d08873be56"), ("d73f87d08873be56", "D73F87D08873BE56", "0xd73f87d08873be56")),
        (ID, (ID.decode(), ID.hex(), "0x" + ID.hex().upper())),
    ],
)
def test_every_spelling_of_its_id_needs_the_key(cka_id: bytes, spellings: tuple[str, ...]) -> None:
    for each in spellings:
        assert why(found=scan(("write-1",), (each,)), cka_id=cka_id) == "3 stored objects need 'spare'"
    assert why(found=scan((spellings[0],), objects=1), cka_id=cka_id) == "1 stored object needs 'spare'"


@pytest.mark.parametrize("label", ["k8s-dek", "k8s-dek@20200102T030405Z", "k8s-dek.retired@20200102T030405Z"])
def test_what_names_a_label_that_it_has_or_had_needs_the_key(label: str) -> None:
    assert why(label, scan(("k8s-dek",))) == f"3 stored objects need {label!r}"
    assert why(label, scan(("write-1", "k8s-dek"))), "an id and a label both count"
    assert "was written by a key of these tokens" in why(label, scan(("k8s-dek",), objects=0))
    assert not why(label, scan(("write-1",)), USED)


def test_what_names_a_key_that_there_is_not_may_need_any() -> None:
    for name in ("gone", "deadbeef", "arn:aws:kms:key/1"):
        told = why(found=scan(("write-1",), (name,)))
        assert told == f"3 stored objects name {name!r}, which no key is called, and may need any key"
    assert "name 'gone' and 'label', which" in why(found=scan(("gone", "label")))
    assert not why(found=scan(("write-1", "a label that nobody has any more")), noted=USED), "its id says which"


def test_values_that_no_one_could_read_may_need_any() -> None:
    assert "may need any key" in why(found=replace(scan(), unknown=1))


def test_a_scan_that_is_given_decides_even_where_none_is_needed() -> None:
    assert why(RETIRED_LABEL, scan((ID.decode(),)))
    assert why("spare", scan((ID.decode(),)), Noted(made_here={ID.decode()}))


def test_a_use_that_the_scan_may_have_missed_speaks_against_it() -> None:
    assert "after the scan began" in why(found=scan(), noted=Noted(used={ID.decode(): time.time()}))
    late = Noted(since=time.time() - 1)
    assert "it is not known whether 'spare' was used since the scan began" in why(found=scan(), noted=late)
    assert not why(found=scan(("write-1",)), noted=replace(late, made_here={ID.decode()})), "all its life is known"


def test_a_scan_too_soon_after_the_label_was_lost_is_none() -> None:
    label = old_label("k8s-kek", time.time() - 100)
    assert "less than 5 minutes" in why(label, scan())
