"""Whoever may call Decrypt can name any key: that costs no login, and stops nothing that is served."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from kmsd.api.kms.v1beta1 import api_pb2 as v1beta1
from kmsd.api.kms.v2 import api_pb2 as v2
from kmsd.hsm.other_process import OtherProcess
from kmsd.keys.labels import new_key_id
from tests.daemons import Kmsd
from tests.rpc.refusals import DECRYPT_V1, answers
from tests.security.forging import compact
from tests.tokens import MODULE, PIN, SoftToken

SECONDS = 8.0


def naming(kid: str) -> bytes:
    cipher = compact({"alg": "dir", "kid": kid, "enc": "A256GCM"}, bytes(12), bytes(32), bytes(16))
    return v1beta1.DecryptRequest(version="v1beta1", cipher=cipher).SerializeToString()


def test_naming_keys_that_may_be_new_forces_no_logins_and_fails_no_honest_call(kmsd: Kmsd, token: SoftToken) -> None:
    stored = kmsd.v2("Encrypt", v2.EncryptRequest(plaintext=b"seed", uid="1"))
    request = v2.DecryptRequest(ciphertext=stored.ciphertext, key_id=stored.key_id, uid="1")
    logins = token.logins()
    failed: list[str] = []
    honest = 0
    ending = threading.Event()

    def call() -> None:
        nonlocal honest
        while not ending.is_set():
            try:
                assert kmsd.v2("Decrypt", request, 1.0).plaintext == b"seed"
                assert kmsd.v2("Encrypt", v2.EncryptRequest(plaintext=b"seed", uid="1"), 1.0).ciphertext
                honest += 1
            except grpc.RpcError as error:
                failed.append(f"{error.code().name}: {error.details()}")

    caller = threading.Thread(target=call)
    caller.start()
    until = time.monotonic() + SECONDS
    named = 0
    while time.monotonic() < until:
        calls = [(DECRYPT_V1, naming(new_key_id())) for _ in range(100)]
        named += len(calls)
        codes = {each.code for each in answers(kmsd, calls) if not isinstance(each, bytes)}
        assert codes == {"NOT_FOUND"}
    ending.set()
    caller.join()
    assert not failed
    assert named >= 200
    assert honest > 100
    # Another process looked once in a while; kmsd itself did not log in anew.
    assert token.logins() - logins <= 4
    assert sum(line["event"] == "token is down" for line in kmsd.log_lines()) <= 1  # of the key that was made at start


def test_a_key_that_the_module_misses_is_found_through_another_process(start_kmsd: Callable[..., Kmsd]) -> None:
    nodes = [start_kmsd("--auto-create", name="a").wait_ok(), start_kmsd(name="b").wait_ok()]
    for number in range(4):
        # Two processes that make keys at once: SoftHSM's index of one may miss the other's for good.
        with ThreadPoolExecutor(2) as pool:
            made = [key.key_id for key in pool.map(Kmsd.keygen, nodes, (f"a-{number}", f"b-{number}"))]
        for node in nodes:
            for key_id in made:
                # It is there: what names it does not authenticate, and is not called missing.
                (answer,) = answers(node, [(DECRYPT_V1, naming(key_id))])
                assert not isinstance(answer, bytes)
                assert answer.code == "INVALID_ARGUMENT", (key_id, answer)


def test_another_process_tells_which_keys_there_are(token: SoftToken, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOFTHSM2_CONF", str(token.conf))
    token.import_aes("mine", bytes(32), b"mine-1")
    token.plant({"do": "import", "type": "aes", "label": "planted", "value": bytes(32).hex(), "id": b"theirs".hex()})
    ask = OtherProcess(MODULE, token.label, PIN)
    assert ask("find", b"mine-1".hex())
    assert not ask("find", b"nobody".hex())
    assert not ask("find", b"theirs".hex())
