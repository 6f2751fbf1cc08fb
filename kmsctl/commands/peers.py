"""`kmsctl peers`: who calls a key manager from other machines, by their certificates."""

from __future__ import annotations

from datetime import UTC, datetime

import typer

from kmsctl import diagnostics, documents, options, output
from kmsctl.output import OutputFormat
from kmsctl.text import age
from kmsd.client import Peer, connect, escape


def peers(
    ctx: typer.Context,
    tenant: options.TenantName = "",
    output_format: options.Output = None,
    target: options.Target = None,
    timeout: options.Timeout = None,
) -> None:
    """\b
    Examples:
      kmsctl peers
      kmsctl peers -o wide
      kmsctl peers -o json

    Show who called from other machines in the last 24 hours, by the certificate that was shown: the latest first.

    ENDS is when the certificate ends. -o wide shows version, cipher and group of the TLS connection, too.
    """
    opts = options.gather(ctx, target=target, timeout=timeout, output=output_format)
    form = opts.form(*options.ALL)
    with connect(opts.target, timeout=opts.timeout) as kmsd:
        found = kmsd.list_peers(tenant)
    match form:
        case OutputFormat.NAME:
            output.emit_names(each.name or each.serial for each in found)
        case OutputFormat.JSON | OutputFormat.YAML:
            output.emit_document({"peers": [documents.of(each) for each in found]}, form)
        case _:
            output.emit(_table(found, datetime.now(UTC), wide=form is OutputFormat.WIDE))
            if not found:
                diagnostics.note("nobody called from another machine in the last 24 hours")


def _table(peers: tuple[Peer, ...], now: datetime, *, wide: bool) -> str:
    headers = ["NAME", "TENANT", "ROLE", "ADDRESS", "LAST CALL", "CONNECTIONS", "ENDS"]
    if wide:
        headers += ["CALLS", "SERIAL", "TLS", "CIPHER", "GROUP"]
    rows = []
    for each in peers:
        ends = each.not_after
        row = [
            escape(each.name) or "(none)",
            escape(each.tenant),
            escape(each.role),
            escape(each.address),
            f"{age(each.last_seen, now)} ago",
            str(each.connections),
            "" if ends is None else age(now, ends) if ends > now else "has ended",
        ]
        if wide:
            row += [str(each.calls), *map(escape, (each.serial, each.tls_version, each.cipher, each.group or "?"))]
        rows.append(row)
    return output.table(headers, rows)
