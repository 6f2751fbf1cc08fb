"""The admin API, kmsd.admin.v1: what kmsd is and how it is configured. Protobuf to domain and back."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from kmsd import __version__
from kmsd.api.admin.v1 import admin_pb2 as pb
from kmsd.apis.admin_table import (
    API,
    SERVICE,
    CertificateView,
    alike,
    certificate,
    following_times,
    page,
    problem,
    sessions,
    sha256,
    table,
)
from kmsd.apis.admin_wire import KeyPresenter
from kmsd.deadline import left
from kmsd.errors import KmsdError, NotFound
from kmsd.hsm.connection import Hsm
from kmsd.hsm.host.info import SessionCounts, SlotView
from kmsd.hsm.host.opening import OpenToken
from kmsd.keys.keyring import Keyring
from kmsd.keys.lifecycle import Lifecycle
from kmsd.observe.health import Health
from kmsd.problem import Problem
from kmsd.service.local import LocalService
from kmsd.transport.call import Call, Table, parse

__all__ = ["API", "SERVICE", "Admin"]

_REASON_MOST: Final = 200
"""Characters at most of the reason why another module process took over."""
_USED_FOR = {
    "CKM_AES_GCM": "encrypts and decrypts",
    "CKM_AES_KEY_GEN": "makes AES keys",
    "CKM_GENERIC_SECRET_KEY_GEN": "makes HMAC keys",
}


@dataclass(frozen=True)
class Admin:
    """The part of the admin API that tells of the daemon itself.

    keyring: of kmsd's own sockets. writer_of: the writer of a tenant by its name, or of kmsd's own sockets; raises
    InvalidRequest. tenants: how each does. certificate: the one shown to callers from other machines.
    started: Unix time in seconds. problems: those of the whole daemon, as far as they concern the tenant called so, or
    kmsd's own sockets. write_token: name of the token for new keys.
    unreachable: why nobody can connect to a socket of kmsd's. verdict: why only a restart can help, if so.
    read_pin_again: takes the PIN that is configured now for the token called so; may wait for a file.
    """

    keyring: Keyring
    writer_of: Callable[[str], KeyWriter]
    tenants: Callable[[], Sequence[pb.GetStatusResponse.TenantStatus]]
    certificate: Callable[[], CertificateView | None]
    shown: KeyPresenter
    started: float
    write_format: str
    write_token: str
    listeners: Callable[[], Sequence[tuple[str, Sequence[str]]]]
    problems: Callable[[str], list[Problem]]
    unreachable: Callable[[], KmsdError | None]
    verdict: Callable[[], str]
    read_pin_again: Callable[[str], None]

    def table(self) -> Table:
        """Return the methods of this part, by path."""
        return table(
            {
                "GetStatus": self.get_status,
                "ListSlots": self.list_slots,
                "ListMechanisms": self.list_mechanisms,
                "UnlockToken": self.unlock_token,
            }
        )

    async def get_status(self, call: Call, body: bytes) -> bytes:
        """Tell how kmsd and its tokens are, for the tenant that is named or for kmsd's own sockets."""
        request = parse(pb.GetStatusRequest, body)
        writer = self.writer_of(request.tenant)
        health = await writer.health.fresh(0.2, 1.0)
        problems = self.problems(request.tenant)
        error = self.unreachable() or why_down(writer)
        state = pb.SERVING_STATE_SERVING
        if error is not None:
            state = pb.SERVING_STATE_DOWN
        elif problems:
            state = pb.SERVING_STATE_DEGRADED
        hsm = self.keyring.tokens[self.write_token]
        return pb.GetStatusResponse(
            version=__version__,
            state=state,
            healthz=error.message if error else "ok",
            hint=error.hint if error else "",
            started_unix_ms=int(self.started * 1000),
            now_unix_ms=int(time.time() * 1000),
            write_label=writer.keyring.write_label,
            write_key=self.shown.optional(writer.keyring.inventory.write),
            outgoing_key=self.shown.optional(writer.keyring.outgoing),
            token=_token(hsm),
            sessions=sessions(hsm.pool_view()),
            probe=pb.GetStatusResponse.HealthProbe(
                last_success_unix_ms=int(health.last_success * 1000), round_trip_ms=health.round_trip * 1000
            ),
            listeners=[pb.GetStatusResponse.Listener(socket=path, apis=apis) for path, apis in self.listeners()],
            problems=[problem(each) for each in problems],
            keys=len(self.keyring.inventory.keys),
            write_format=self.write_format,
            tokens=[self._token_status(name, each) for name, each in self.keyring.tokens.items()],
            following=following_of(writer),
            not_alive=self.verdict(),
            host=socket.gethostname(),
            tenants=self.tenants(),
            certificate=certificate(own) if (own := self.certificate()) is not None else None,
        ).SerializeToString()

    def _token_status(self, name: str, hsm: Hsm) -> pb.GetStatusResponse.TokenStatus:
        down = hsm.connected is None
        return pb.GetStatusResponse.TokenStatus(
            name=name,
            token=_token(hsm),
            sessions=sessions(hsm.pool_view()),
            write=name == self.write_token,
            reason=hsm.error.message if down else "",
            hint=hsm.error.hint if down else "",
            keys=sum(key.place == name for key in self.keyring.inventory.keys),
            process=_process(hsm),
        )

    async def list_slots(self, call: Call, body: bytes) -> bytes:
        """List the slots of the modules and the tokens in them."""
        request = parse(pb.ListSlotsRequest, body)
        shown: list[SlotView] = []
        failed: KmsdError | None = None
        for hsm in self.keyring.tokens.values():
            if any(hsm.connected and hsm.connected.module == each.module for each in shown):
                continue
            try:
                found = await hsm.look(OpenToken.slots, hsm.address)
            except KmsdError as error:
                failed = failed or error
                continue
            known = {(each.module, each.slot_id) for each in shown}
            shown.extend(each for each in found if (each.module, each.slot_id) not in known)
        if failed is not None and not shown:
            raise failed
        slots, token = page(shown, request.page_size, request.page_token)
        return pb.ListSlotsResponse(
            slots=[self._slot(slot) for slot in slots], next_page_token=token
        ).SerializeToString()

    def _slot(self, slot: SlotView) -> pb.ListSlotsResponse.Slot:
        token = slot.token
        name = self._called(slot)
        shown = pb.ListSlotsResponse.Slot(
            slot_id=slot.slot_id,
            description=slot.description,
            manufacturer=slot.manufacturer,
            token_present=token is not None,
            in_use=bool(name),
            module=slot.module,
            name=name,
        )
        if token is not None:
            shown.token_label = token.label
            shown.token_serial = token.serial
            shown.token_model = token.model
            shown.token_manufacturer = token.manufacturer
            shown.flags.extend(sorted(flag.lower().replace("_", " ") for flag in token.flags))
            if "TOKEN_INITIALIZED" in token.flags:
                shown.pin_warnings.extend(token.pin_warnings)
        if slot.sessions is not None:
            _counts(shown, slot.sessions)
        return shown

    def _called(self, slot: SlotView) -> str:
        for name, hsm in self.keyring.tokens.items():
            up = hsm.connected
            if up is not None and up.module == slot.module and up.slot_id == slot.slot_id:
                return name
        return ""

    async def list_mechanisms(self, call: Call, body: bytes) -> bytes:
        """List what a token says it can do."""
        request = parse(pb.ListMechanismsRequest, body)
        hsm = self._hsm(request.token or self.write_token)
        found, token = page(await hsm.run(OpenToken.mechanisms, timeout=5.0), request.page_size, request.page_token)
        return pb.ListMechanismsResponse(
            mechanisms=[
                alike(pb.ListMechanismsResponse.Mechanism, each, used_for=_USED_FOR.get(each.name, ""))
                for each in found
            ],
            next_page_token=token,
            token_label=hsm.label,
        ).SerializeToString()

    async def unlock_token(self, call: Call, body: bytes) -> bytes:
        """Let an operator have a refused PIN tried once more."""
        request = parse(pb.UnlockTokenRequest, body)
        name = request.token or self.write_token
        hsm = self._hsm(name)
        call.detail = f"token {name}"
        await asyncio.to_thread(self.read_pin_again, name)
        tried = await hsm.unlock(left(call.until))
        call.detail = f"token {name}: {'logged in' if tried else 'was up already'}"
        return pb.UnlockTokenResponse(token=name, token_label=hsm.label, logged_in=tried).SerializeToString()

    def _hsm(self, name: str) -> Hsm:
        hsm = self.keyring.tokens.get(name)
        if hsm is None:
            raise NotFound(
                f"no token called {name[:80]!r} is configured", f"the tokens are {', '.join(self.keyring.tokens)}"
            )
        return hsm


class KeyWriter(Protocol):
    """The parts that belong to one write label. tenant: its name; empty for kmsd's own sockets."""

    tenant: str
    keyring: Keyring
    lifecycle: Lifecycle
    health: Health
    service: LocalService


def why_down(writer: KeyWriter) -> KmsdError | None:
    """Return why a writer does not serve, as far as is known now; None if it does."""
    keyring = writer.keyring
    write = keyring.inventory.write
    serving = write is not None and keyring.hsm(write).available
    return writer.health.view().error or (None if serving else keyring.why_none())


def following_of(writer: KeyWriter) -> pb.GetStatusResponse.Following:
    """Return how far the kube-apiservers of a writer have followed to its present key."""
    following = writer.service.following
    write = writer.keyring.inventory.write
    if writer.keyring.seen if write is None else write.key_id != following.key_id:
        # Nobody has asked since the key changed.
        return pb.GetStatusResponse.Following(
            previous_key_id=following.key_id, previous_key_id_sha256=sha256(following.key_id)
        )
    return following_times(following)


def _process(hsm: Hsm) -> pb.GetStatusResponse.ModuleProcess:
    connected, hosting = hsm.connected, hsm.hosting
    return pb.GetStatusResponse.ModuleProcess(
        pid=connected.host.pid if connected is not None else 0,
        served=hosting.changeover.hosts,
        reason=hosting.changeover.reason[:_REASON_MOST] if hosting.changeover.hosts > 1 else "",
        since_unix_ms=int(connected.since_unix * 1000) if connected is not None else 0,
    )


def _token(hsm: Hsm) -> pb.GetStatusResponse.Token:
    connected = hsm.connected
    if connected is None:
        return pb.GetStatusResponse.Token(
            module=hsm.address.module, label=hsm.address.label, slot_id=hsm.address.slot or 0
        )
    token = connected.token
    return pb.GetStatusResponse.Token(
        module=connected.module,
        label=token.label,
        serial=token.serial,
        model=token.model,
        manufacturer=token.manufacturer,
        slot_id=connected.slot_id,
        up=True,
    )


def _counts(shown: pb.ListSlotsResponse.Slot, counts: SessionCounts) -> None:
    """Copy the session counts into the message; what the token does not tell stays absent."""
    if counts.open is not None:
        shown.sessions = counts.open
    if counts.most is not None:
        shown.sessions_max = counts.most
    if counts.rw_open is not None:
        shown.rw_sessions = counts.rw_open
    if counts.rw_most is not None:
        shown.rw_sessions_max = counts.rw_most
