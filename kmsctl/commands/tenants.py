"""`kmsctl tenants`: the tenants of a key manager, those that are not served first."""

from __future__ import annotations

from datetime import UTC, datetime

import typer

from kmsctl import diagnostics, documents, options, output
from kmsctl.keyview import short_hash
from kmsctl.output import OutputFormat
from kmsctl.text import age, milliseconds, rate
from kmsd.client import ServingState, TenantStatus, connect, escape

_ORDER = {ServingState.DOWN: 0, ServingState.UNKNOWN: 1, ServingState.DEGRADED: 2, ServingState.SERVING: 3}


def tenants(
    ctx: typer.Context,
    output_format: options.Output = None,
    target: options.Target = None,
    timeout: options.Timeout = None,
) -> None:
    """\b
    Examples:
      kmsctl tenants
      kmsctl tenants -o wide
      kmsctl tenants -o json

    Show the tenants of a key manager: whether each is served, with which key, how much it asks, and what is wrong.

    Those that are not served come first. REQ/S and P99 are those of the last 10 seconds; ENDS is when the first
    certificate of the tenant's callers ends. `kmsctl status --tenant` shows one, `kmsctl peers` who calls.
    """
    opts = options.gather(ctx, target=target, timeout=timeout, output=output_format)
    form = opts.form(*options.ALL)
    with connect(opts.target, timeout=opts.timeout) as kmsd:
        status = kmsd.get_status()
    found = sorted(status.tenants, key=lambda each: (_ORDER[each.state], each.name))
    match form:
        case OutputFormat.NAME:
            output.emit_names(each.name for each in found)
        case OutputFormat.JSON | OutputFormat.YAML:
            output.emit_document({"tenants": [documents.of(each) for each in found]}, form)
        case _:
            output.emit(_table(found, datetime.now(UTC), wide=form is OutputFormat.WIDE))
            if not found:
                diagnostics.note(
                    "a proxy has no tenants: ask its key managers" if status.upstreams else "this kmsd has no tenants"
                )


def _table(tenants: list[TenantStatus], now: datetime, *, wide: bool) -> str:
    headers = ["TENANT", "STATE", "LABEL", "WRITE KEY", "REQ/S", "P99 MS", "IN FLIGHT", "CALLERS", "ENDS"]
    if wide:
        headers += ["REQUESTS", "FAILED", "KEY ID", "SHA256 OF THE KEY ID"]
    rows, remarks = [], []
    for each in tenants:
        key = each.write_key
        row = [
            escape(each.name),
            each.state.upper(),
            escape(each.write_label),
            short_hash(key.key_id_sha256) if key is not None else "none",
            rate(each.requests_per_second),
            milliseconds(each.p99_ms),
            str(each.in_flight),
            str(each.peers),
            age(now, each.first_end) if each.first_end is not None and each.first_end > now else _ended(each),
        ]
        if wide:
            row += [str(each.requests), str(each.errors)]
            row += [escape(key.key_id), key.key_id_sha256] if key is not None else ["", ""]
        rows.append(row)
        remarks.append(
            [f"   {escape(problem.message)}; hint: {escape(problem.hint) or '-'}" for problem in each.problems]
        )
    lines = output.table(headers, rows).splitlines()
    shown = [lines[0]]
    for line, below in zip(lines[1:], remarks, strict=True):
        shown += [line, *below]
    return "\n".join(shown)


def _ended(tenant: TenantStatus) -> str:
    return "" if tenant.first_end is None else "has ended"
