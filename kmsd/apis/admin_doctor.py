"""The admin API, kmsd.admin.v1: what a token can really do. Protobuf to domain and back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from time import monotonic, perf_counter
from typing import Final

from kmsd.api.admin.v1 import admin_pb2 as pb
from kmsd.apis.admin_table import CertificateView, alike, table
from kmsd.errors import KmsdError, NotFound, Overloaded, short
from kmsd.hsm.doctor.diagnosis import diagnose
from kmsd.hsm.doctor.findings import Check, Report
from kmsd.keys.key import KeyState, newest_first
from kmsd.keys.keyring import Keyring
from kmsd.observe.expiry import how_long, soon
from kmsd.transport.call import Call, Table, parse

_ANSWER_SECONDS: Final = 2.0
"""Seconds left of the caller's time for the answer, so that it learns what was found when not all was."""
_SIGN_SECONDS: Final = 1.0
"""Time limit for one signature of a key that signs."""


@dataclass(frozen=True)
class DoctorAdmin:
    """The part of the admin API that probes tokens. write_token: name of the token for new keys. tls_problem: why TCP
    is not served, although it is to be. certificate: the one that callers from other machines are shown. signers: tries
    the keys for service account tokens on a token, within so many seconds; None: none are signed."""

    keyring: Keyring
    write_token: str
    tls_problem: Callable[[], KmsdError | None]
    certificate: Callable[[], CertificateView | None]
    signers: Callable[[str, float], Awaitable[Sequence[Check]]] | None = None
    _running: set[str] = field(default_factory=set)

    def table(self) -> Table:
        """Return the methods of this part, by path."""
        return table({"Diagnose": self.diagnose})

    async def diagnose(self, call: Call, body: bytes) -> bytes:
        """Probe a token and tell what it can really do."""
        request = parse(pb.DiagnoseRequest, body)
        name = request.token or self.write_token
        hsm = self.keyring.tokens.get(name)
        if hsm is None:
            raise NotFound(
                f"no token called {short(name)} is configured", f"the tokens are {', '.join(self.keyring.tokens)}"
            )
        if name in self._running:
            raise Overloaded(f"token {name!r} is being looked at already", "wait for that to end: a minute at most")
        self._running.add(name)
        began = perf_counter()
        up = hsm.connected is not None
        try:
            report = await diagnose(hsm, *self._own_keys(name), max(call.until - monotonic() - _ANSWER_SECONDS, 0.5))
        finally:
            self._running.discard(name)
        checks = [
            *report.checks[:-1],
            self._planted(name),
            self._attributes(name),
            self._write_key(name),
            *(await self.signers(name, _SIGN_SECONDS) if self.signers is not None else ()),
            *self._tcp(),
            report.checks[-1],
        ]
        answer = _response(report, checks)
        answer.token, answer.up, answer.seconds = name, up, perf_counter() - began
        call.detail = f"{name}: {answer.outcome}, {report.verdict.enc or 'nothing'} works"
        return answer.SerializeToString()

    def _own_keys(self, place: str) -> tuple[bytes | None, bytes | None]:
        """Return the CKA_IDs of the AES and the HMAC key that write, to try with where the token makes no keys."""
        inventory = self.keyring.inventory
        here = newest_first(key for key in inventory.keys if key.place == place and key.may_write)
        if inventory.write is not None and inventory.write.place == place:
            here = [inventory.write]
        for key in here:
            if key.scheme is not None:
                return key.cka_id, key.scheme.mac
        return None, None

    def _planted(self, place: str) -> Check:
        name, title = "public_objects", "Public objects"
        public = [key for key in self.keyring.inventory.public if key.place == place]
        planted = [key for key in public if key.state is KeyState.PLANTED]
        if not planted:
            seen = (
                f"{len(public)} look like keys, none like one of kmsd's; none is used"
                if public
                else "none looks like a key"
            )
            return Check(name, title, "ok", seen)
        shown = ", ".join(repr(key.label or key.key_id) for key in planted[:4])
        return Check(
            name, title, "warning", f"{len(planted)} pass for keys of kmsd: {shown}; none is used", planted[0].hint
        )

    def _attributes(self, place: str) -> Check:
        name, title = "key_attributes", "Attributes of the keys"
        exposed = [key for key in self.keyring.inventory.keys if key.place == place and key.token.exposed]
        if not exposed:
            return Check(name, title, "ok", "no key is known to be extractable or not sensitive")
        shown = ", ".join(f"{key.label!r} is {' and '.join(key.token.exposed)}" for key in exposed[:4])
        return Check(name, title, "warning", shown, "rotate to a key that kmsd makes: kmsctl rotate")

    def _write_key(self, place: str) -> Check:
        name, title = "write_key", "Write key"
        write = self.keyring.inventory.write
        if write is None:
            error = self.keyring.why_none()
            return Check(name, title, "failed", error.message, error.hint)
        if write.place != place:
            return Check(name, title, "not applicable", f"{write.label!r} is on token {write.place!r}")
        return Check(name, title, "ok", f"{write.label!r} writes {write.scheme.text if write.scheme else write.enc}")

    def _tcp(self) -> list[Check]:
        """Return the checks of a kmsd that is to listen on TCP."""
        checks, problem, own = [], self.tls_problem(), self.certificate()
        if problem is not None:
            checks.append(Check("tcp", "TCP listener", "warning", problem.message, problem.hint))
        if own is not None:
            name, title, seen = "certificate", "Own certificate", f"{own.subject} {how_long(own.not_after)}"
            fix = "put a new one in its place: kmsd reads the files of [server] anew when they change"
            ending = soon(own.not_before, own.not_after)
            checks.append(Check(name, title, "warning", seen, fix) if ending else Check(name, title, "ok", seen))
        return checks


def _response(report: Report, checks: list[Check]) -> pb.DiagnoseResponse:
    verdict = report.verdict
    outcomes = {check.outcome for check in checks}
    return pb.DiagnoseResponse(
        token_label=report.token,
        module=report.module,
        library=report.library,
        provider=report.provider,
        provider_title=report.title,
        outcome=next((each for each in ("failed", "warning") if each in outcomes), "ok"),
        checks=[alike(pb.DiagnoseResponse.Check, each) for each in checks],
        verdict=alike(pb.DiagnoseResponse.Verdict, verdict, text=verdict.why, hint=report.checks[-1].fix),
        abilities=alike(pb.DiagnoseResponse.Abilities, report.abilities),
        timings=[alike(pb.DiagnoseResponse.Timing, each, ms=each.seconds * 1000) for each in report.timings],
    )
