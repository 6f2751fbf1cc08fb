"""`kmsctl etcd scan`: how many stored objects need which key."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import typer

from kmsctl import diagnostics, etcdplace, files, options, output, stored
from kmsctl.etcdplace import EtcdOptions
from kmsctl.options import Options
from kmsctl.output import OutputFormat
from kmsd.client import ClientError, Key, connect, escape
from kmsd.client.names import strangers

if TYPE_CHECKING:
    from kmsd.etcd.scan import EtcdScan

NAMES_MOST = 3
"""Names that no key has, of those that are told."""
NAME_MOST = 64
"""Characters of each."""


def etcd(ctx: typer.Context) -> None:
    """\b
    Examples:
      kmsctl etcd scan
      kmsctl etcd scan --endpoints https://127.0.0.1:2379

    Read what etcd holds: which keys are needed, and what is not encrypted.
    """
    options.want_command(ctx)


def scan(
    ctx: typer.Context,
    at: EtcdOptions,
    show: etcdplace.Show = 0,
    report: etcdplace.Report = None,
    output_format: options.Output = None,
    target: options.Target = None,
    timeout: options.Timeout = None,
) -> None:
    """\b
    Examples:
      kmsctl etcd scan
      kmsctl etcd scan --endpoints https://127.0.0.1:2379 -o wide
      kmsctl etcd scan --report scan.json
      kmsctl etcd scan --show 20
      kmsctl etcd scan -o json

    Count the objects in etcd per provider, resource and key.

    Reads only, at one revision, and never shows a value. What etcdctl is told by ETCDCTL_ENDPOINTS, ETCDCTL_CACERT,
    ETCDCTL_CERT, ETCDCTL_KEY, ETCDCTL_USER and ETCDCTL_PASSWORD holds here, too. Which key writes at present is asked
    of kmsd, if it answers.
    """
    opts = options.gather(ctx, target=target, timeout=timeout, output=output_format)
    form = opts.form(*options.ALL)
    place = at.place
    etcdplace.check(place)
    write_key, keys, why = _keys(opts)
    found = stored.read(place, opts.timeout, show, write_key)
    _emit(found, write_key, keys, form)
    if report is not None:
        from kmsd.client.report import write_report

        files.write(report, write_report(found.report()))
    _comment(found, write_key, keys, why)
    if report is not None:
        diagnostics.hint(f"`kmsctl keys retire KEY --report {shlex.quote(report)}` retires a key that nothing needs")


def _keys(opts: Options) -> tuple[Key | None, tuple[Key, ...], str]:
    """Return the present write key and all keys, or what of them is not known, and why."""
    try:
        with connect(opts.target, timeout=opts.timeout) as kmsd:
            status = kmsd.get_status()
            keys = kmsd.list_keys()
    except ClientError as error:
        return None, (), error.message
    return status.write_key, keys, "" if status.write_key is not None else status.healthz


def _emit(found: EtcdScan, write_key: Key | None, keys: tuple[Key, ...], form: OutputFormat) -> None:
    match form:
        case OutputFormat.NAME:
            output.emit_names(stored.names(found))
        case OutputFormat.JSON | OutputFormat.YAML:
            output.emit_document(stored.document(found, write_key), form)
        case _:
            output.emit(stored.table(found, write_key, keys, wide=form is OutputFormat.WIDE))
            if found.shown:
                output.emit("\n" + "\n".join(map(escape, stored.shown_lines(found))))


def _comment(found: EtcdScan, write_key: Key | None, keys: tuple[Key, ...], why: str) -> None:
    if found.starts > 1:
        diagnostics.note(f"etcd compacted what was being read; begun again, {found.starts} times in all")
    diagnostics.note(stored.summary(found, write_key))
    if not found.objects:
        diagnostics.warning(f"nothing is stored below {found.prefix}")
        diagnostics.hint("is it kube-apiserver's --etcd-prefix, and is this its etcd?")
    if keys and (unnamed := strangers(found.report(), keys)):
        diagnostics.warning(
            f"{sum(each.objects for each in unnamed):,} objects are stored under a name that no key has: "
            f"{', '.join(repr(each.key_id[:NAME_MOST]) for each in unnamed[:NAMES_MOST])}"
        )
        diagnostics.hint("they may need any key: none is retired by this count until they are rewritten or gone")
    if write_key is None:
        diagnostics.note(f"which key writes at present is not known: {why}")
        return
    if left := stored.to_rewrite(found, write_key):
        diagnostics.hint(stored.rewrite_hint(left))
        if stored.writes_v1(found, write_key):
            diagnostics.hint(
                "kube-apiserver writes by KMS v1 here, where an update that changes nothing writes nothing: change the "
                "objects, or go over to v2 (docs/rotation.md)"
            )
    elsewhere = found.resources(lambda row: row.storage.needs_kms and not row.is_under(write_key.key_id))
    if own := stored.own(elsewhere):
        diagnostics.hint(own)
