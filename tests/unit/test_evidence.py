"""What a scan shows of a key, and what it does not."""

from __future__ import annotations

import time
from dataclasses import replace

from kmsd.lifecycle.evidence import Scan, Uses, still_needed
from kmsd.picture import judge
from tests.unit.test_picture import aes

KEY = judge({"": [aes("old-dek")]}, "k8s-kek", "the token").keys[0]
USES = Uses(last=lambda _: 0.0, since=0.0, idle=3600.0)


def scan(*uses: tuple[str, bool, int]) -> Scan:
    now = time.time()
    return Scan(started=now - 2, finished=now - 1, prefix="/registry/", objects=500, unknown=0, uses=uses)


def why(found: Scan, *roles: str) -> str:
    return still_needed(KEY, found, USES, {"old-dek", *roles})[0]


def test_a_scan_that_names_others_is_a_proof() -> None:
    assert not why(scan(("another-id", False, 3), ("k8s-kek", True, 4)), "k8s-kek")


def test_what_names_the_key_or_its_label_needs_it() -> None:
    assert "3 stored objects need" in why(scan((KEY.key_id, False, 3)))
    assert "3 stored objects need" in why(scan(("old-dek", True, 3)))


def test_what_names_a_label_that_no_key_has_may_need_any() -> None:
    """k8s-kms-plugin writes labels, and this key may have had another one then."""
    assert "name the label 'k8s-dek'" in why(scan(("k8s-dek", True, 500)), "k8s-kek")
    assert not why(scan(("k8s-dek", True, 0)), "k8s-kek")


def test_values_that_no_one_could_read_may_need_any() -> None:
    assert "may need any key" in why(replace(scan(), unknown=1))
