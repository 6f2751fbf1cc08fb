"""A gRPC server that does nothing: the ceiling of what a server in Python can do here, with either transport.

With `calls` it encrypts by C_EncryptInit and C_Encrypt, and draws IVs by C_GenerateRandom, on the event loop and with
nothing of kmsd around them: the ceiling of what can be done with SoftHSM, for a server that may stand still whenever
its token does.

usage: python -m tests.bench.bare SOCKET h2corn|grpcio nothing|calls
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import uvloop
from h2corn import Config
from h2corn._lib import prepare_tls, serve_fds
from h2corn._lifespan import PreparedApplication

from kmsd.hsm.host import keys, module
from kmsd.hsm.host.session import TokenSession

_ANSWER = b"\x0a\xb4\x01" + b"x" * 180 + b"\x12\x24" + b"k" * 36
_FRAMED = b"\0" + len(_ANSWER).to_bytes(4, "big") + _ANSWER
_OK = [(b"grpc-status", b"0")]
_GRPC = [(b"content-type", b"application/grpc")]


class _Nothing(grpc.GenericRpcHandler):
    def __init__(self, work: Callable[[], object]) -> None:
        async def nothing(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
            work()
            return _ANSWER

        self._handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(nothing)

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes]:
        return self._handler


def _calls() -> Callable[[], object]:
    """Encrypts 32 bytes with the first AES key of the first token. The PIN is in the file that PIN_FILE names."""
    session, key = logged_in(Path(os.environ["PIN_FILE"]))
    return lambda: session.encrypt_gcm(key, 12, b"h" * 100, b"p" * 32)


def logged_in(pin_file: Path) -> tuple[TokenSession, bytes]:
    """A session of the first token of the SoftHSM that SOFTHSM2_CONF names, and the CKA_ID of its first AES key."""
    softhsm = module.load(module.module_path("softhsm", ""))
    slot = next(each.slot_id for each in softhsm.slots() if each.token is not None and each.token.label)
    session = TokenSession(softhsm, slot)
    pin = pin_file.read_bytes().strip()
    if softhsm.cryptoki.table.C_Login(session.handle, 1, pin, len(pin)):
        raise SystemExit("the token does not take its PIN")
    return session, next(each.cka_id for each in keys.list_keys(session).keys if each.kind == "aes")


async def _grpcio(path: str, work: Callable[[], object]) -> None:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((_Nothing(work),))
    server.add_insecure_port(f"unix:{path}")
    await server.start()
    await server.wait_for_termination()


async def _h2corn(path: str, work: Callable[[], object]) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body", False):
            pass
        work()
        await send({"type": "http.response.start", "status": 200, "headers": _GRPC, "trailers": True})
        await send({"type": "http.response.body", "body": _FRAMED})
        await send({"type": "http.response.trailers", "headers": _OK})

    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listening.bind(path)
    listening.setblocking(False)
    listening.listen(128)
    config = Config(
        bind=(f"fd://{listening.fileno()}",),
        grpc=True,
        http1=False,
        lifespan="off",
        access_log=False,
        date_header=False,
    )
    prepared = PreparedApplication(application, factory=False, mode="off")
    await prepared.startup(required=False)
    never: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    await serve_fds(
        prepared,
        [listening.fileno()],
        config,
        never,
        ready_trigger=lambda error: None,
        prepared_tls=prepare_tls(config),
    )


if __name__ == "__main__":
    serve = {"h2corn": _h2corn, "grpcio": _grpcio}[sys.argv[2]]
    uvloop.run(serve(sys.argv[1], _calls() if sys.argv[3] == "calls" else lambda: None))
