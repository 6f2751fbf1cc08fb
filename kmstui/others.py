"""The other targets: the nodes beside the one that is looked at, and all of them side by side. Knows no widget."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from time import monotonic
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from kmsd.client import ClientError, Status, connect
from kmsd.client.clientconfig import Target
from kmsd.client.fleet import ask
from kmstui.board import Board
from kmstui.questions import CALL_TIMEOUT, guarded
from kmstui.threads import in_thread
from kmstui.view import Peer, Reading, Want

if TYPE_CHECKING:
    from kmsd.client.admin import AdminClient


class Others:
    """The other targets, looked at while a screen shows them."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._clients: dict[str, AdminClient] = {}
        self._fleet_wanted = asyncio.Event()
        self._fleet_now = asyncio.Event()

    def want(self, *, fleet: bool) -> None:
        """Look at all targets from now on, or not. fleet: whether all targets are looked at."""
        if fleet:
            self._fleet_wanted.set()
        else:
            self._fleet_wanted.clear()

    def refresh(self) -> None:
        """Look at all targets at once."""
        self._fleet_now.set()
        self._fleet_now.clear()

    def close(self) -> None:
        """Close the connections."""
        for client in self._clients.values():
            client.close()

    async def watch_peers(self) -> None:
        while True:
            if Want.PEERS in self._board.wants and not self._board.view.paused:
                await asyncio.gather(*(self._look_at(peer) for peer in self._board.view.peers))
            await asyncio.sleep(max(1.0, self._board.view.interval))

    async def _look_at(self, peer: Peer) -> None:
        reading: Reading[Status]
        try:
            reading = Reading(await in_thread(lambda: self._ask_peer(peer.target)), monotonic())
        except ClientError as error:
            client = self._clients.pop(peer.target, None)
            if client is not None:
                client.close()
            reading = peer.status.failed(error)
        peers = self._board.view.peers
        changed = (Peer(each.target, reading) if each.target == peer.target else each for each in peers)
        self._board.publish(peers=tuple(changed))

    def _ask_peer(self, target: str) -> Status:
        client = self._clients.get(target)
        if client is None:
            client = self._clients[target] = connect(target, timeout=CALL_TIMEOUT)
        return guarded(client.get_status)

    async def watch_member(self, target: str) -> None:
        """Watch one target for itself, so that one that hangs keeps no other one waiting."""
        while True:
            await self._fleet_wanted.wait()
            if not self._board.view.paused or target not in self._board.view.fleet:
                member = await in_thread(lambda: ask(Target(target, target), CALL_TIMEOUT))
                before = self._board.view.fleet.get(target, Reading())
                now = Reading(member, monotonic()) if member.error is None else before.failed(member.error)
                self._board.publish(fleet=MappingProxyType({**self._board.view.fleet, target: now}))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(1.0, self._board.view.interval)):
                    await self._fleet_now.wait()


def beside(nodes: Sequence[str], target: str) -> dict[str, Any]:
    """Return the fields of a View that tell of the nodes beside a target, which has none if it is not one of them."""
    together = nodes if target in nodes else (target,)
    return {"nodes": tuple(together), "peers": tuple(Peer(each) for each in dict.fromkeys(together) if each != target)}
