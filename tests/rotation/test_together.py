"""Several kmsd on one token: rotating at once, under load, and dying in the middle."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

from kmsd.api.kms.v2 import api_pb2 as v2
from tests.daemons import Kmsd, wait_for
from tests.rotation.conftest import assert_at_rest, decrypt, encrypt, keys, labelled, rotate

REFRESH = 0.5
ROTATIONS = 10


def node(start_kmsd: Callable[..., Kmsd], name: str, *flags: str) -> Kmsd:
    return start_kmsd(
        *flags,
        name=name,
        environment={"KMSD_KEYS__REFRESH": str(REFRESH)},
        logging=("--log-level=info", "--log-format=json"),
    ).wait_ok()


def test_two_nodes_that_rotate_at_the_same_moment(start_kmsd: Callable[..., Kmsd]) -> None:
    """Many times: one write key afterwards each time, nothing unreadable."""
    first = node(start_kmsd, "a", "--auto-create")
    second = node(start_kmsd, "b")
    written = []
    for _ in range(ROTATIONS):
        written.append(encrypt(first, b"before"))
        with ThreadPoolExecutor(2) as both:
            done = [each.result() for each in [both.submit(rotate, kmsd) for kmsd in (first, second)]]
        assert any(each.rotated for each in done)

        def rest() -> bool:
            found = keys(first)
            return len(labelled(found)) == 1 and not labelled(found, "k8s-kek.pending")

        wait_for(rest)
        assert assert_at_rest(first).key_id == assert_at_rest(second).key_id
    assert len({each.key_id for each in written}) == ROTATIONS
    for kmsd in (first, second):
        assert {decrypt(kmsd, each) for each in written} == {b"before"}


class Load:
    """One client that encrypts, decrypts and asks for Status, without a pause, until it is told to stop."""

    def __init__(self, kmsd: Kmsd, others: list[Kmsd]) -> None:
        self.kmsd = kmsd
        self.others = others
        self.calls = 0
        self.failed: list[str] = []
        self.disagreed: list[str] = []
        self.seen: list[str] = []
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self.run)
        self._channels: dict[Any, grpc.Channel] = {}

    def call(self, kmsd: Kmsd, method: str, request: Any) -> Any:
        channel = self._channels.setdefault(kmsd.socket, grpc.insecure_channel(f"unix:{kmsd.socket}"))
        self.calls += 1
        return channel.unary_unary(
            f"/v2.KeyManagementService/{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=getattr(v2, f"{method}Response").FromString,
        )(request, timeout=3.0)

    def run(self) -> None:
        while not self.stopping.is_set():
            try:
                self.once()
            except grpc.RpcError as error:
                self.failed.append(f"{error.code()} {error.details()}")
        for channel in self._channels.values():
            channel.close()

    def once(self) -> None:
        before = self.call(self.kmsd, "Status", v2.StatusRequest())
        sealed = self.call(self.kmsd, "Encrypt", v2.EncryptRequest(plaintext=b"seed", uid="u"))
        after = self.call(self.kmsd, "Status", v2.StatusRequest())
        if sealed.key_id not in (before.key_id, after.key_id) or after.healthz != "ok":
            self.disagreed.append(f"{before.key_id} {sealed.key_id} {after.key_id} {after.healthz}")
        for key_id in (before.key_id, sealed.key_id, after.key_id):
            if not self.seen or self.seen[-1] != key_id:
                self.seen.append(key_id)
        reader = random.choice(self.others)  # noqa: S311 - any of them
        request = v2.DecryptRequest(ciphertext=sealed.ciphertext, key_id=sealed.key_id, uid="u")
        if self.call(reader, "Decrypt", request).plaintext != b"seed":
            self.disagreed.append("a wrong plaintext")


def test_four_nodes_under_load_while_one_rotates(start_kmsd: Callable[..., Kmsd]) -> None:
    """Many rotations: no failed call, no answer pair that disagrees, no key id that comes back, and every node follows
    within the refresh time."""
    nodes = [node(start_kmsd, "a", "--auto-create"), *(node(start_kmsd, name) for name in "bcd")]
    loads = [Load(kmsd, nodes) for kmsd in nodes]
    for load in loads:
        load.thread.start()
    slowest = 0.0
    try:
        for _ in range(ROTATIONS):
            new = rotate(nodes[0]).new_key.key_id
            began = time.monotonic()
            wait_for(lambda: all(kmsd.v2("Status").key_id == new for kmsd in nodes[1:]), timeout=20.0)  # noqa: B023
            slowest = max(slowest, time.monotonic() - began)
    finally:
        for load in loads:
            load.stopping.set()
        for load in loads:
            load.thread.join()
    for load in loads:
        assert load.failed == []
        assert load.disagreed == []
        assert load.calls > 100
        assert len(load.seen) == len(set(load.seen)), "a key id came back"
        # Version 7 UUIDs sort by age.
        assert load.seen == sorted(load.seen)
    # The refresh, a look, and what a machine with four loaded daemons on two cores adds.
    assert slowest < REFRESH + 10.0
    assert_at_rest(nodes[0])
