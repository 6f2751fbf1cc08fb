"""The rotation itself: what is wanted, asked about once, and done at most once. Knows nothing of watching it."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from kmsctl import confirm, diagnostics
from kmsctl.confirm import Yes
from kmsctl.options import TokenName
from kmsd.client import ClientError, Rotation, Status
from kmsd.client.rotation import short

if TYPE_CHECKING:
    from kmsd.client.admin import AdminClient

THIS_NODE = "this-node"
"""The name of the target among the nodes if it does not name its host, or a --node has that name."""
SCAN_EVERY = 30.0
"""Seconds between two scans of etcd, unless told otherwise."""


Label = Annotated[
    str,
    typer.Argument(
        metavar="LABEL",
        help="Write label of this kmsd, or of one of its tenants; another one is refused.",
        show_default=False,
    ),
]
From = Annotated[
    str,
    typer.Option(
        "--from", metavar="KEY-ID", help="Rotate only if this key writes now, so that running it again changes nothing."
    ),
]


@dataclass(frozen=True)
class RotationOptions:
    """The options that say what is rotated. label: the write label, if it is to be checked. only_from: rotate only
    away from this key id; empty: from the one that writes now. token: for the new key; empty: the write token. yes: do
    not ask."""

    label: Label = ""
    yes: Yes = False
    only_from: From = ""
    token: TokenName = ""


def status_of(kmsd: AdminClient, label: str) -> tuple[Status, str]:
    """Return the status of whom a label writes for, and the name of the tenant if it is one's; else of kmsd's own
    sockets. Raises ClientError."""
    status = kmsd.get_status()
    tenant = tenant_of(status, label)
    return (kmsd.get_status(tenant=tenant) if tenant else status), tenant


def tenant_of(status: Status, label: str) -> str:
    """Return the name of the tenant that writes with this label; empty for kmsd's own label and for an unknown one."""
    own = label in ("", status.write_label)
    return "" if own else next((each.name for each in status.tenants if each.write_label == label), "")


def rotate(kmsd: AdminClient, status: Status, wanted: RotationOptions, *, dry_run: bool = False) -> Rotation:
    """Rotate, or find out what would be done. Return what was done; `rotated` is False if it had been done already.

    Raises ClientError, UsageError where nobody can be asked.
    """
    away_from = wanted.only_from or (status.write_key.key_id if status.write_key is not None else "")
    plan = kmsd.rotate_key(wanted.label, from_key_id=away_from, token=wanted.token, dry_run=True)
    if dry_run or plan.new is not None:
        return plan
    confirm.agree(f"rotate {status.write_label} away from {short(status.write_key)}?", yes=wanted.yes)
    try:
        with diagnostics.working("the token makes a key"):
            return kmsd.rotate_key(wanted.label, from_key_id=away_from, token=wanted.token)
    except ClientError as error:
        again = f"`kmsctl rotate --from {shlex.quote(away_from)}` does what is left, and never rotates twice"
        error.hint = f"{error.hint}; {again}" if error.hint else again
        raise
