"""The admin API, kmsd.admin.v1: the metrics as text, for whoever cannot or may not ask over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from kmsd.api.admin.v1 import admin_pb2 as pb
from kmsd.apis.admin_table import table
from kmsd.transport.call import Call, Table, parse

_CHUNK: Final = 256 * 1024
"""Bytes in one message: a thousand tenants have more metrics than fit into one."""


@dataclass(frozen=True)
class MetricsAdmin:
    """The part of the admin API that tells the metrics. text: returns all of them in Prometheus' text format."""

    text: Callable[[], Awaitable[bytes]]

    def table(self) -> Table:
        """Return the methods of this part, by path."""
        return table(streams={"GetMetrics": self.get_metrics})

    async def get_metrics(self, call: Call, body: bytes) -> AsyncIterator[bytes]:
        """Send the metrics, in pieces."""
        parse(pb.GetMetricsRequest, body)
        text = await self.text()
        for begin in range(0, len(text), _CHUNK):
            yield pb.GetMetricsResponse(text=text[begin : begin + _CHUNK]).SerializeToString()
