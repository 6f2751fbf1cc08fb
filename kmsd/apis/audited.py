"""Admin actions that change something: recorded before they are answered, and carried through.

An action goes on when its caller has gone: a rotation that stopped between two steps because somebody pressed Ctrl-C
would be left for others to finish. One that has changed nothing yet when its caller's time is up never begins
(`kmsd.keys.lifecycle.permit`).
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from time import perf_counter
from typing import Final

from google.protobuf.message import DecodeError, Message

from kmsd.api.admin.v1 import admin_pb2 as pb
from kmsd.apis.admin_table import READS
from kmsd.audit.trail import Audit
from kmsd.errors import Internal, KmsdError
from kmsd.transport.call import Call, Handler, Method, StreamMethod, Table

_DRY: Final = "dry run, nothing changed"


def audited(table: Table, audit: Audit) -> Table:
    """Return the table with every method recorded that may change something, or uses a key."""
    return {
        path: method
        if isinstance(method, StreamMethod) or method.name in READS
        else replace(method, handler=_Recorded(method, audit))
        for path, method in table.items()
    }


class _Recorded:
    def __init__(self, method: Method, audit: Audit) -> None:
        self._name = method.name
        self._request: type[Message] | None = getattr(pb, f"{method.name}Request", None)
        self._handler: Handler = method.handler
        self._audit = audit
        self._running: set[asyncio.Task[bytes]] = set()

    async def __call__(self, call: Call, body: bytes) -> bytes:
        task = asyncio.create_task(self._run(call, body), name=f"admin-{self._name}")
        self._running.add(task)
        task.add_done_callback(self._ended)
        return await asyncio.shield(task)

    def _ended(self, task: asyncio.Task[bytes]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # the caller may have gone

    async def _run(self, call: Call, body: bytes) -> bytes:
        dry = _DRY if self._is_dry(body) else ""
        await self._audit.begin(self._name, caller=call.caller, detail=dry)
        began = perf_counter()
        try:
            response = await self._handler(call, body)
        except KmsdError as error:
            await self._record(call, error.code, began, dry, error.reason)
            raise
        except Exception as error:
            await self._record(call, Internal.code, began, dry, f"kmsd failed with {type(error).__name__}")
            raise
        await self._record(call, "OK", began, dry)
        return response

    def _is_dry(self, body: bytes) -> bool:
        """Return whether the request asks what would be done; a failure to read it counts as no."""
        try:
            return self._request is not None and bool(getattr(self._request.FromString(body), "dry_run", False))
        except DecodeError:
            return False

    async def _record(self, call: Call, code: str, began: float, dry: str, reason: str = "") -> None:
        await self._audit.admin(
            self._name,
            code,
            seconds=perf_counter() - began,
            caller=call.caller,
            key_id_sha256=call.key_id_sha256,
            detail=": ".join(filter(None, (dry, call.detail))),
            reason=reason,
            tenant=call.tenant,
        )
