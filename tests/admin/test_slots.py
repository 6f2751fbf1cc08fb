"""ListSlots, ListMechanisms and ListKeys: what is there, and lists that page."""

from __future__ import annotations

from pathlib import Path

import pytest

from kmsd.api.admin.v1 import admin_pb2 as admin
from tests.admin.calls import ask, keys, refused
from tests.admin.conftest import SPARE
from tests.daemons import Kmsd
from tests.tokens import MODULE, change_objects


def slots(kmsd: Kmsd) -> list[admin.ListSlotsResponse.Slot]:
    return list(ask(kmsd, "ListSlots").slots)


def by_label(kmsd: Kmsd, label: str) -> admin.ListSlotsResponse.Slot:
    (found,) = [slot for slot in slots(kmsd) if slot.token_label == label]
    return found


def test_the_token_in_use_is_told_from_the_others(served: Kmsd) -> None:
    assert served.token is not None
    token = served.status().token
    found = by_label(served, served.token.label)
    assert found.in_use
    assert found.name == served.token.label == served.status().tokens[0].name
    assert (found.slot_id, found.token_serial, found.token_model) == (token.slot_id, token.serial, token.model)
    assert found.module == token.module
    assert Path(found.module).samefile(MODULE)
    assert found.token_present
    others = [slot for slot in slots(served) if slot.slot_id != found.slot_id]
    assert [slot.token_label for slot in others] == [SPARE, ""]
    assert not any(slot.in_use or slot.name for slot in others)


def test_flags_are_words(served: Kmsd) -> None:
    found = by_label(served, SPARE)
    assert {"login required", "token initialized", "user pin initialized", "rng"} <= set(found.flags)
    (blank,) = [slot for slot in slots(served) if not slot.token_label]
    assert "token initialized" not in blank.flags
    assert not blank.pin_warnings


def test_a_pin_that_was_wrong_is_warned_about(served: Kmsd) -> None:
    assert served.token is not None
    assert not by_label(served, SPARE).pin_warnings
    with pytest.raises(AssertionError):
        change_objects(MODULE, SPARE, served.token.environment, [], pin="wrong")
    assert by_label(served, SPARE).pin_warnings
    change_objects(MODULE, SPARE, served.token.environment, [])
    assert not by_label(served, SPARE).pin_warnings


def test_mechanisms_say_what_they_can_do_here(served: Kmsd) -> None:
    answer = ask(served, "ListMechanisms")
    assert served.token is not None
    assert answer.token_label == served.token.label
    found = {each.name: each for each in answer.mechanisms}
    assert len(found) == len(answer.mechanisms) > 20
    gcm = found["CKM_AES_GCM"]
    assert gcm.type == 0x1087
    assert {"encrypt", "decrypt"} <= set(gcm.flags)
    assert (gcm.min_key, gcm.max_key) == (16, 32)
    assert gcm.used_for
    assert "generate" in found["CKM_AES_KEY_GEN"].flags
    assert {"sign", "verify"} <= set(found["CKM_SHA256_HMAC"].flags)
    assert found["CKM_RSA_PKCS_KEY_PAIR_GEN"].flags == ["generate key pair"]
    assert not found["CKM_RSA_PKCS"].used_for
    by_name = ask(served, "ListMechanisms", token=served.token.label)
    assert by_name.mechanisms == answer.mechanisms


@pytest.mark.parametrize("name", ["nowhere", SPARE, "x" * 100_000])
def test_mechanisms_of_an_unknown_token_are_not_found(served: Kmsd, name: str) -> None:
    refusal = refused(served, "ListMechanisms", "NOT_FOUND", "no token called", token=name)
    assert served.token is not None
    assert served.token.label in refusal.hint


@pytest.mark.parametrize(
    ("method", "field", "size"),
    [("ListSlots", "slots", 1), ("ListMechanisms", "mechanisms", 7), ("ListKeys", "keys", 2)],
)
def test_pages_put_together_are_the_list(served: Kmsd, method: str, field: str, size: int) -> None:
    whole = getattr(ask(served, method), field)
    found: list[object] = []
    token = ""
    while True:
        answer = ask(served, method, page_size=size, page_token=token)
        shown = getattr(answer, field)
        assert len(shown) <= size
        found.extend(shown)
        token = answer.next_page_token
        if not token:
            break
        assert len(shown) == size
    assert found == list(whole)
    assert len(found) > size
    assert getattr(ask(served, method, page_size=2**32 - 1), field) == whole


@pytest.mark.parametrize("method", ["ListSlots", "ListMechanisms", "ListKeys"])
@pytest.mark.parametrize("token", ["next", "-1", "1e3", "٣", "1" * 10, "x" * 100_000])
def test_a_page_token_of_somebody_else_is_refused(served: Kmsd, method: str, token: str) -> None:
    refused(served, method, "INVALID_ARGUMENT", "page token", page_token=token)


def test_a_page_behind_the_end_is_empty(served: Kmsd) -> None:
    answer = ask(served, "ListKeys", page_token="999999999")
    assert not answer.keys
    assert not answer.next_page_token


def test_keys_are_sorted_by_label(served: Kmsd) -> None:
    labels = [key.label for key in keys(served)]
    assert labels == sorted(labels)
    assert "k8s-kek" in labels
