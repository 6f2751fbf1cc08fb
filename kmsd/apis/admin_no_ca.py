"""The admin API, kmsd.admin.v1, of a kmsd without a CA: the methods of one, which say so. Loads nothing of a CA."""

from __future__ import annotations

from typing import Final

from kmsd.apis.admin_table import table
from kmsd.errors import Conflict
from kmsd.transport.call import Call, Table

METHODS: Final = (
    *("GetCa", "InitCa", "ImportCaCertificate", "IssueCertificate", "RevokeCertificate", "GetCrl", "RollCa"),
)


async def refuse(call: Call, body: bytes) -> bytes:
    """Refuse what only a CA can do. Raises Conflict."""
    raise Conflict(
        "this kmsd has no certificate authority", "set ca.enabled = true in the configuration of a key manager"
    )


def without_ca() -> Table:
    """Return the methods of a CA, by path."""
    return table(dict.fromkeys(METHODS, refuse))
