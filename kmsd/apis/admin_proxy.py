"""The admin API, kmsd.admin.v1, of a proxy: how its key managers are. Protobuf to domain and back."""

from __future__ import annotations

import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from kmsd import __version__
from kmsd.api.admin.v1 import admin_pb2 as pb
from kmsd.apis.admin_no_ca import METHODS as METHODS_OF_A_CA
from kmsd.apis.admin_table import (
    API,
    ENROLMENT,
    JWT,
    SERVICE,
    CertificateView,
    certificate,
    following_times,
    problem,
    sha256,
    table,
)
from kmsd.deadline import left
from kmsd.errors import Conflict, KmsdError, NotFound, short
from kmsd.problem import Problem
from kmsd.service.remote import RemoteService
from kmsd.service.upstream import Upstream
from kmsd.transport.call import Call, Method, Role, Table, parse

_ELSEWHERE: Final = (
    *("ListSlots", "ListMechanisms", "UnlockToken", "ListKeys", "GetKey", "GenerateKey", "AdoptKey", "RelabelKey"),
    *(
        *METHODS_OF_A_CA,
        "ListPeers",
        "DestroyKey",
        "TestKey",
        "RotateKey",
        "RetireKey",
        "RevertKey",
        "InspectCiphertext",
        "TryCiphertext",
    ),
)
"""Methods that want a token."""
_PROBE_SECONDS: Final = 10.0
"""Seconds for the probe of one key manager."""
TOKEN_NAME: Final = "tls-key"  # noqa: S105 - no password
"""The name of the token with the proxy's own key, if that is on one."""


class Check(NamedTuple):
    """A thing that was tried. outcome: "ok", "warning" or "failed". seen: what happened. fix: what to do."""

    name: str
    title: str
    outcome: str
    seen: str
    fix: str = ""


@dataclass(frozen=True)
class ProxyAdmin:
    """The part of the admin API that tells of a proxy and its key managers.

    started: Unix time in seconds. listeners: each with its APIs. problems: the fatal first. unreachable: why nobody can
    connect to a socket. verdict: why only a restart can help, if so. own: tries its certificate and its key. probe:
    tries one key manager, in so many seconds. certificate: the one that key managers are shown. unlock: logs in to the
    token of its key, in so many seconds, and returns the token's label and whether it was away; None without such a
    token.
    """

    service: RemoteService
    started: float
    listeners: Callable[[], Sequence[tuple[str, Sequence[str]]]]
    problems: Callable[[], list[Problem]]
    unreachable: Callable[[], KmsdError | None]
    verdict: Callable[[], str]
    own: Callable[[], Awaitable[list[Check]]]
    probe: Callable[[Upstream, float], Awaitable[list[Check]]]
    certificate: Callable[[], CertificateView | None]
    unlock: Callable[[float], Awaitable[tuple[str, bool]]] | None = None

    def table(self) -> Table:
        """Return the methods of this part, by path; those that want a token say where one is."""
        elsewhere = {
            f"/{SERVICE}/{name}": Method(API, name, self.elsewhere, role=Role.OPERATOR, hinted=True)
            for name in (*_ELSEWHERE, *ENROLMENT, *JWT)
        }
        own = {"GetStatus": self.get_status, "Diagnose": self.diagnose}
        if self.unlock is not None:
            own["UnlockToken"] = self.unlock_token
        return {**elsewhere, **table(own)}

    async def unlock_token(self, call: Call, body: bytes) -> bytes:
        """Let an operator have a refused PIN of the token with the proxy's key tried once more."""
        request = parse(pb.UnlockTokenRequest, body)
        if self.unlock is None or request.token not in ("", TOKEN_NAME):
            raise NotFound(f"no token called {short(request.token)} is configured", f"the token is {TOKEN_NAME}")
        call.detail = f"token {TOKEN_NAME}"
        label, tried = await self.unlock(left(call.until))
        call.detail = f"token {TOKEN_NAME}: {'logged in' if tried else 'was up already'}"
        return pb.UnlockTokenResponse(token=TOKEN_NAME, token_label=label, logged_in=tried).SerializeToString()

    async def elsewhere(self, call: Call, body: bytes) -> bytes:
        """Refuse what a proxy cannot do. Raises Conflict."""
        known = ", ".join(each.address for each in self.service.upstreams) or "none"
        raise Conflict(
            f"this kmsd is a proxy without tokens, and does no {call.method}",
            f"run kmsctl on the machine of a key manager; those of this proxy are {known}",
        )

    async def get_status(self, call: Call, body: bytes) -> bytes:
        """Tell how the proxy and its key managers are."""
        parse(pb.GetStatusRequest, body)
        service, problems = self.service, self.problems()
        error = self.unreachable() or service.why_down()
        state = pb.SERVING_STATE_SERVING
        if error is not None:
            state = pb.SERVING_STATE_DOWN
        elif problems:
            state = pb.SERVING_STATE_DEGRADED
        key_id = service.key_id
        best = max(service.upstreams, key=lambda each: (each.up, each.answered_at), default=None)
        return pb.GetStatusResponse(
            version=__version__,
            state=state,
            healthz=error.message if error else "ok",
            hint=error.hint if error else "",
            started_unix_ms=int(self.started * 1000),
            now_unix_ms=int(time.time() * 1000),
            write_key=pb.Key(key_id=key_id, key_id_sha256=sha256(key_id), state=pb.KEY_STATE_WRITE) if key_id else None,
            probe=pb.GetStatusResponse.HealthProbe(
                last_success_unix_ms=int(best.answered_at * 1000) if best is not None else 0,
                round_trip_ms=best.seconds * 1000 if best is not None else 0.0,
            ),
            listeners=[pb.GetStatusResponse.Listener(socket=path, apis=apis) for path, apis in self.listeners()],
            problems=[problem(each) for each in problems],
            following=following_times(service.following) if service.following.key_id == key_id else None,
            not_alive=self.verdict(),
            host=socket.gethostname(),
            certificate=certificate(own) if (own := self.certificate()) is not None else None,
            upstreams=[_upstream(each, last=each is service.last) for each in service.upstreams],
        ).SerializeToString()

    async def diagnose(self, call: Call, body: bytes) -> bytes:
        """Try every key manager, or the one that is named."""
        request = parse(pb.DiagnoseRequest, body)
        named = [each for each in self.service.upstreams if request.token in ("", each.address)]
        if not named:
            known = ", ".join(each.address for each in self.service.upstreams)
            raise NotFound(f"no key manager {short(request.token)} is configured", f"the key managers are {known}")
        began = time.monotonic()
        checks = await self.own()
        checks += [check for each in named for check in await self.probe(each, _PROBE_SECONDS)]
        outcomes = {check.outcome for check in checks}
        outcome = next((each for each in ("failed", "warning") if each in outcomes), "ok")
        failed = [check for check in checks if check.outcome == "failed"]
        call.detail = f"{', '.join(each.address for each in named)}: {outcome}"
        return pb.DiagnoseResponse(
            token=request.token,
            token_label=", ".join(each.address for each in named),
            up=any(each.up for each in named),
            provider="proxy",
            provider_title="key managers",
            outcome=outcome,
            checks=[pb.DiagnoseResponse.Check(**check._asdict()) for check in checks],
            verdict=pb.DiagnoseResponse.Verdict(
                algorithm="none" if failed else "",
                text=failed[0].seen if failed else "every key manager that was tried answers as it should",
                hint=failed[0].fix if failed else "",
            ),
            seconds=time.monotonic() - began,
        ).SerializeToString()


def _upstream(upstream: Upstream, *, last: bool) -> pb.GetStatusResponse.Upstream:
    error = upstream.wrong_key or (None if upstream.up else upstream.error)
    return pb.GetStatusResponse.Upstream(
        address=upstream.address,
        up=upstream.usable,
        reason=error.message if error is not None else "",
        hint=error.hint if error is not None else "",
        since_unix_ms=int(upstream.since * 1000),
        answered_unix_ms=int(upstream.answered_at * 1000),
        key_id=upstream.key_id,
        key_id_sha256=sha256(upstream.key_id),
        healthz=upstream.healthz,
        round_trip_ms=upstream.seconds * 1000,
        asked=upstream.asked,
        failed=upstream.failed,
        in_flight=upstream.in_flight,
        last=last,
    )
