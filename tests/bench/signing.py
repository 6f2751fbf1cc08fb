"""What signing service account tokens takes, by algorithm: the servers of `tests.bench.serving`, with another API."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

from kmsd.api.admin.v1 import admin_pb2 as admin
from kmsd.api.externaljwt.v1 import api_pb2 as pb
from tests.bench import serving
from tests.bench.burst import framed
from tests.bench.cases import Load, Plan
from tests.bench.results import Case, Results
from tests.bench.servers import Server
from tests.daemons import Kmsd, wait_for
from tests.jwt.signing import Apiserver, claims
from tests.tokens import make_token

ALGORITHMS: Final = {
    "ES256": (admin.KEY_TYPE_EC, 256),
    "ES384": (admin.KEY_TYPE_EC, 384),
    "RS256": (admin.KEY_TYPE_RSA, 2048),
}
LOADS: Final[tuple[Load, ...]] = (
    ("jwt", "Sign", 1),
    ("jwt", "Sign", 16),
    ("jwt", "Sign", 64),
    ("jwt", "FetchKeys", 16),
)


def measure(results: Results, folder: Path, plan: Plan) -> None:
    """Each algorithm on a SoftHSM of its own."""
    with contextlib.ExitStack() as running:
        servers = [running.enter_context(_signer(folder / name, name)) for name in ALGORITHMS]
        turns = [(each, Case(each.name, "", "", 0)) for each in servers]
        serving.take_turns(results, "jwt", turns, replace(plan, side_by_side=LOADS), LOADS)


@contextlib.contextmanager
def _signer(folder: Path, name: str) -> Iterator[Server]:
    folder.mkdir()
    socket = folder / "jwt" / "jwt.sock"
    type_, bits = ALGORITHMS[name]
    with Kmsd(folder, make_token(folder), ["--log-level=warning"], {"KMSD_JWT__SOCKET": str(socket)}) as kmsd:
        request = admin.GenerateKeyRequest(label="sa-signer", type=type_, bits=bits, purpose="jwt")
        kmsd.admin("GenerateKey", request, timeout=60)
        wait_for(lambda: kmsd.admin("GetJwt").state == "ready")
        assert kmsd.process is not None
        caller = Apiserver(kmsd.channel(socket))
        messages = {}
        for method, message in (("Sign", pb.SignJWTRequest(claims=claims())), ("FetchKeys", pb.FetchKeysRequest())):
            path = folder / method
            path.write_bytes(framed(message.SerializeToString()))
            messages["jwt", method] = path, len(caller.call(method, message).SerializeToString())
        yield Server(f"kmsd, {name}", socket, kmsd.process.pid, messages, kmsd)
