"""A bare grpc.aio server that does nothing: the ceiling of what a Python server can do on this machine.

With `softhsm` it encrypts by C_EncryptInit and C_Encrypt, on the event loop and with nothing of kmsd around them: the
ceiling of what can be done with SoftHSM, for a server that may stand still whenever its token does.

usage: python -m tests.bench.bare SOCKET asyncio|uvloop|softhsm
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from pathlib import Path

import grpc
import grpc.aio
import uvloop

from kmsd.hsm.host import keys, module
from kmsd.hsm.host.session import TokenSession

_ANSWER = b"\x0a\xb4\x01" + b"x" * 180 + b"\x12\x24" + b"k" * 36


class _Nothing(grpc.GenericRpcHandler):
    def __init__(self, encrypt: Callable[[], object]) -> None:
        async def nothing(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
            encrypt()
            return _ANSWER

        self._handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(nothing)

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes]:
        return self._handler


def _softhsm() -> Callable[[], object]:
    """Encrypts 32 bytes with the first AES key of the first token. The PIN is in the file that PIN_FILE names."""
    softhsm = module.load(module.module_path("softhsm", ""))
    slot = next(each.slot_id for each in softhsm.slots() if each.token is not None and each.token.label)
    session = TokenSession(softhsm, slot)
    pin = Path(os.environ["PIN_FILE"]).read_bytes().strip()
    if softhsm.cryptoki.table.C_Login(session.handle, 1, pin, len(pin)):
        raise SystemExit("the token does not take its PIN")
    key = next(each.cka_id for each in keys.list_keys(session).keys if each.kind == "aes")
    return lambda: session.encrypt_gcm(key, 12, b"h" * 100, b"p" * 32)


async def serve(path: str, encrypt: Callable[[], object]) -> None:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((_Nothing(encrypt),))
    server.add_insecure_port(f"unix:{path}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    run = asyncio.run if sys.argv[2] == "asyncio" else uvloop.run
    run(serve(sys.argv[1], _softhsm() if sys.argv[2] == "softhsm" else lambda: None))
