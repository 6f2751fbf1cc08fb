"""`kmsctl requests`: the calls that kmsd has answered, and those that it answers."""

from __future__ import annotations

from typing import Annotated

import typer

from kmsctl import diagnostics, documents, filters, options
from kmsctl.follow import FORMATS, FollowedList, ListColumn, endless
from kmsctl.keyview import short_hash
from kmsctl.output import OutputFormat
from kmsctl.text import milliseconds, timestamp
from kmsd.client import Filter, Request, Requests, connect

BACKLOG_MAX = 1000

_LISTING: FollowedList[Request] = FollowedList(
    title="requests",
    columns=(
        ListColumn("TIME", 24, lambda each: timestamp(each.time) or ""),
        ListColumn("API", 7, lambda each: each.api),
        ListColumn("METHOD", 10, lambda each: each.method),
        ListColumn("CODE", 12, lambda each: each.code),
        ListColumn("MS", 7, lambda each: milliseconds(each.latency_ms)),
        ListColumn("KEY", 15, lambda each: short_hash(each.key_id_sha256)),
        ListColumn("UID", 36, lambda each: each.uid),
        ListColumn("REASON", 20, lambda each: each.reason),
        ListColumn("TENANT", 12, lambda each: each.tenant, wide=True),
        ListColumn("SHA256 OF THE KEY ID", 64, lambda each: each.key_id_sha256, wide=True),
    ),
    document=documents.of,
    name=lambda each: each.uid,
)


def requests(
    ctx: typer.Context,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with the calls that end from now on.")] = False,
    number: Annotated[
        int, typer.Option("--number", "-n", min=0, max=BACKLOG_MAX, help="Number of past calls to begin with.")
    ] = 20,
    admin: Annotated[bool, typer.Option("--admin", help="Show the calls of the admin API, too.")] = False,
    failed: filters.Failed = False,
    method: filters.MethodName = None,
    code: filters.CodeName = None,
    key: filters.WithKey = "",
    since: filters.Since = None,
    tenant: options.TenantName = "",
    output_format: options.Output = None,
    target: options.Target = None,
    timeout: options.Timeout = None,
) -> None:
    """\b
    Examples:
      kmsctl requests
      kmsctl requests --admin -n 5 -o json
      kmsctl requests --failed --since 10m
      kmsctl requests --follow --method Decrypt --key k8s-kek

    Show the last calls that kmsd answered: when, which, with which key, how it ended, how long it took.

    kmsd remembers the last 1000 calls, and the last 1000 that failed; it chooses among all of them, and -n counts
    what is chosen. Never what was encrypted or decrypted. UID is that of kube-apiserver's log lines.
    """
    opts = options.gather(ctx, target=target, timeout=timeout, output=output_format)
    form = opts.form(*FORMATS)
    with (
        connect(opts.target, timeout=opts.timeout) as kmsd,
        kmsd.watch_requests(
            backlog=number,
            follow=follow,
            admin=admin,
            wanted=(wanted := filters.gather(kmsd, failed, method, code, key, since, tenant)),
            timeout=None if follow else opts.timeout,
        ) as stream,
    ):
        if follow:
            _LISTING.emit_stream(map(_told, endless(stream)), form)
            return
        found = [each for batch in stream for each in _told(batch)]
    _LISTING.emit(found, form)
    if not found and form is OutputFormat.TABLE:
        diagnostics.note(
            "kmsd has answered no call yet" if wanted == Filter() else "no call that kmsd remembers matches"
        )


def _told(batch: Requests) -> tuple[Request, ...]:
    if batch.dropped:
        diagnostics.warning(f"{batch.dropped} calls are not shown: they came faster than they could be told")
    return batch.requests
