"""Two kmsd make a key at the very same moment, which SoftHSM does not tell them.

SoftHSM counts the changes of a token's set of objects in a file. Who adds an object writes the number that it read
last, plus one: two who do so at once write the same number, each takes the other's change for its own, and neither
ever shows the other's object. Both are held in front of C_GenerateKey here until both are there.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from kmsd.api.admin.v1 import admin_pb2 as admin
from tests.chaos import ChaosToken
from tests.daemons import Kmsd, wait_for
from tests.rotation.conftest import assert_at_rest, decrypt, encrypt, keys, rests, rotate


@pytest.mark.parametrize(
    ("algorithm", "kind"), [("aes-gcm", admin.KEY_TYPE_AES), ("aes-cbc", admin.KEY_TYPE_PAIR)], ids=["single", "pair"]
)
def test_they_agree_on_the_newest(
    start_behind: Callable[..., Kmsd], chaos: ChaosToken, algorithm: str, kind: admin.KeyType
) -> None:
    nodes = [start_behind(name, algorithm=algorithm) for name in "ab"]
    nodes[0].admin("GenerateKey", admin.GenerateKeyRequest(label="k8s-kek", type=kind))
    for kmsd in nodes:
        kmsd.wait_ok()
    sealed = encrypt(nodes[0], b"written")
    chaos.forget_calls()
    with ThreadPoolExecutor(2) as both:
        with chaos.told("C_GenerateKey hang"):
            answers = [both.submit(rotate, kmsd) for kmsd in nodes]
            wait_for(lambda: chaos.calls()["C_GenerateKey"] == 2)
        made = {answer.result().new_key.key_id for answer in answers}
    for kmsd in nodes:
        wait_for(lambda: rests(kmsd))  # noqa: B023
    assert assert_at_rest(nodes[0]).key_id == assert_at_rest(nodes[1]).key_id == max(made)
    for kmsd in nodes:
        assert len([key for key in keys(kmsd) if key.type == admin.KEY_TYPE_AES]) == 3
        assert decrypt(kmsd, sealed) == b"written"
        assert not kmsd.status().problems
