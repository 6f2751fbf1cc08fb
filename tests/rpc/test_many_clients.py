"""Many clients at once, each checking every answer."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor

import grpc

from tests.daemons import Kmsd
from tests.raw import unary
from tests.rpc.known import WRITE
from tests.rpc.refusals import DECRYPT_V1, DECRYPT_V2, ENCRYPT_V1, ENCRYPT_V2, STATUS_V2
from tests.rpc.wire import field, fields

CLIENTS = 8
CALLS = 500
V1 = field(1, "v1beta1")


def _client(kmsd: Kmsd, number: int) -> dict[str, int]:
    """CALLS calls on a connection of its own, one after another; how many of each kind were right."""
    channel = grpc.insecure_channel(f"unix:{kmsd.socket}", options=[("grpc.use_local_subchannel_pool", 1)])
    methods = {path: unary(channel, path) for path in (DECRYPT_V1, DECRYPT_V2, ENCRYPT_V1, ENCRYPT_V2, STATUS_V2)}
    choose = random.Random(number)  # noqa: S311  for variety, not for secrecy
    written: list[tuple[bytes, bytes]] = []
    right: dict[str, int] = dict.fromkeys(methods, 0)

    def call(path: str, request: bytes) -> dict[int, bytes]:
        answer: bytes = methods[path](request, timeout=20)
        right[path] += 1
        return fields(answer)

    try:
        for _ in range(CALLS):
            path = choose.choice(list(methods))
            if path in (DECRYPT_V1, DECRYPT_V2) and not written:
                path = ENCRYPT_V2
            match path:
                case "/v2.KeyManagementService/Status":
                    assert call(path, b"") == {1: b"v2", 2: b"ok", 3: WRITE.key_id.encode()}
                case "/v2.KeyManagementService/Encrypt" | "/v1beta1.KeyManagementService/Encrypt":
                    plaintext = choose.randbytes(choose.randint(1, 64))
                    new = path == ENCRYPT_V2
                    answer = call(path, field(1, plaintext) if new else V1 + field(2, plaintext))
                    written.append((plaintext, answer[1]))
                case "/v2.KeyManagementService/Decrypt":
                    plaintext, ciphertext = choose.choice(written)
                    assert call(path, field(1, ciphertext) + field(3, WRITE.key_id)) == {1: plaintext}
                case _:
                    plaintext, ciphertext = choose.choice(written)
                    assert call(path, V1 + field(2, ciphertext)) == {1: plaintext}
    finally:
        channel.close()
    return right


def test_eight_clients_with_five_hundred_mixed_calls_each_see_no_error(served: Kmsd) -> None:
    with ThreadPoolExecutor(CLIENTS) as clients:
        done = list(clients.map(lambda number: _client(served, number), range(CLIENTS)))
    assert [sum(right.values()) for right in done] == [CALLS] * CLIENTS
    assert all(count > 50 for right in done for count in right.values())
    sessions = served.status().sessions
    assert (sessions.open, sessions.busy, sessions.stuck, sessions.queued) == (sessions.configured, 0, 0, 0)


def test_a_burst_on_one_connection_is_answered_in_full(served: Kmsd) -> None:
    """More calls at once than sessions, by far."""
    channel = served.channel()
    encrypt, decrypt = unary(channel, ENCRYPT_V2), unary(channel, DECRYPT_V2)
    plaintexts = [f"plaintext {number}".encode() for number in range(200)]
    begun = [encrypt.future(field(1, each), timeout=20) for each in plaintexts]
    written = [fields(each.result()) for each in begun]
    begun = [decrypt.future(field(1, each[1]) + field(3, each[2]), timeout=20) for each in written]
    assert [fields(each.result())[1] for each in begun] == plaintexts
    channel.close()
