"""`kmsctl rotate`: a new write key, and with --watch the way to where the old one is not needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import typer

from kmsctl import diagnostics, etcdplace, keyview, optiongroups, options, output
from kmsctl.confirm import DryRun
from kmsctl.diagnostics import UsageError
from kmsctl.etcdplace import EtcdOptions, EtcdPlace
from kmsctl.options import Options
from kmsctl.output import OutputFormat
from kmsctl.rewrite.plan import RewriteOptions
from kmsctl.rotate import rotating, view
from kmsctl.rotate.rotating import SCAN_EVERY, THIS_NODE, RotationOptions
from kmsd.client import Rotation, connect

NODES_MAX = 64

Nodes = Annotated[
    list[str] | None,
    typer.Option(
        "--node",
        metavar="[NAME=]SOCKET",
        help="With --watch: the admin socket of another control-plane node's kmsd. May be repeated.",
        show_default=False,
    ),
]
Again = Annotated[bool, typer.Option("--again", help="With --watch: rotate even if the last rotation is not finished.")]
Retire = Annotated[
    bool, typer.Option("--retire", help="With --watch: retire the old key when nothing needs it; do not ask.")
]
ScanEvery = Annotated[
    float | None,
    typer.Option(
        "--scan-every",
        metavar="DURATION",
        parser=options.duration,
        help="With --watch: pause between two scans, 1s at least; a long scan lengthens it. Default: 30s.",
    ),
]
Timeout = Annotated[
    float | None,
    typer.Option(
        "--timeout",
        metavar="DURATION",
        parser=options.duration,
        help="With --watch: how long it may take in all; default: no limit. Else for each call, 10s.",
    ),
]


@dataclass(frozen=True)
class WatchOptions:
    """The options that say how a rotation is watched, beside where etcd is."""

    nodes: Nodes = None
    again: Again = False
    retire: Retire = False
    report: etcdplace.Report = None
    show: etcdplace.Show = 0
    scan_every: ScanEvery = None


def rotate(
    ctx: typer.Context,
    *,
    wanted: RotationOptions,
    dry_run: DryRun = False,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Follow the rotation to its end, or resume one that is not finished.")
    ] = False,
    watching: WatchOptions,
    at: EtcdOptions,
    rewriting: RewriteOptions,
    output_format: options.Output = None,
    target: options.Target = None,
    timeout: Timeout = None,
) -> None:
    """\b
    Examples:
      kmsctl rotate --dry-run
      kmsctl rotate --yes
      kmsctl rotate --watch --node cp-2=/run/cp-2.sock --endpoints https://127.0.0.1:2379
      kmsctl rotate --watch --rewrite --kubeconfig admin.conf --endpoints https://127.0.0.1:2379
      kmsctl rotate --watch --yes --retire --timeout 2h --endpoints https://127.0.0.1:2379 -o json

    Make a new write key on the token and move the write label to it. The old key goes on decrypting.

    With --watch, shows how nodes and kube-apiservers follow, how to rewrite what is stored, what a scan of etcd
    counts, and when the old key may be retired. With --rewrite it has kube-apiserver rewrite that by itself, without
    changing or reading any object. It can be left and resumed at any time: all state is in kmsd and etcd.

    If the new key turns out to be bad, `kmsctl keys revert` makes another one.
    """
    opts = options.gather(ctx, target=target, output=output_format)
    if watch:
        if dry_run:
            raise UsageError("--dry-run changes nothing, so there is nothing to watch", "leave out one of them")
        _follow(opts, wanted, watching, at.place, rewriting, timeout)
        return
    _refuse_what_needs_watch(ctx)
    if timeout is not None:
        opts = options.gather(ctx, timeout=timeout)
    form = opts.form(*keyview.FORMATS)
    with connect(opts.target, timeout=opts.timeout) as kmsd:
        status, tenant = rotating.status_of(kmsd, wanted.label)
        done = rotating.rotate(kmsd, status, wanted, dry_run=dry_run)
    _emit(done, form, dry_run=dry_run)
    if done.rotated:
        diagnostics.hint("kube-apiserver takes the new key at its next poll, within a minute")
    if done.rotated:
        command = f"kmsctl rotate {wanted.label} --watch" if tenant else "kmsctl rotate --watch"
        diagnostics.hint(f"`{command}` follows that, and says what is left to do")


def _follow(
    opts: Options,
    wanted: RotationOptions,
    watching: WatchOptions,
    place: EtcdPlace,
    rewriting: RewriteOptions,
    seconds: float | None,
) -> None:
    from kmsctl.rotate.follow import follow
    from kmsctl.rotate.plan import RotationRun

    if watching.scan_every is not None and watching.scan_every < 1:
        raise UsageError(
            f"--scan-every must be 1s at least, got {watching.scan_every:g}s",
            "a scan reads all that is stored, and etcd serves the cluster meanwhile",
        )
    run = RotationRun(
        nodes=parse_nodes(watching.nodes),
        place=_checked(place, watching.retire),
        again=watching.again,
        retire=watching.retire,
        report=watching.report,
        seconds=seconds,
        scan_every=watching.scan_every or SCAN_EVERY,
        show=watching.show,
        rewrite=rewriting.plan(),
    )
    follow(opts, wanted, run)


def _refuse_what_needs_watch(ctx: typer.Context) -> None:
    needing = {*optiongroups.names(WatchOptions), *optiongroups.names(EtcdOptions), *optiongroups.names(RewriteOptions)}
    for each in ctx.command.params:
        source = ctx.get_parameter_source(each.name) if each.name in needing else None
        if source is not None and source.name == "COMMANDLINE":
            raise UsageError(f"{each.opts[0]} needs --watch", f"add --watch, or leave out {each.opts[0]}")


def _emit(done: Rotation, form: OutputFormat, *, dry_run: bool) -> None:
    match form:
        case OutputFormat.JSON | OutputFormat.YAML:
            output.emit_document(view.document(done, dry_run=dry_run), form)
        case OutputFormat.NAME:
            output.emit_names([done.new.key_id] if done.new is not None else [])
        case _:
            output.emit(view.tables(done, wide=form is OutputFormat.WIDE))
    if not done.rotated:
        diagnostics.note(
            "it had been rotated already; nothing was changed" if done.new is not None else "nothing was changed"
        )


def parse_nodes(texts: Sequence[str] | None) -> tuple[tuple[str, str], ...]:
    """Return the name and socket of each --node. Raises UsageError."""
    found = []
    for text in texts or ():
        name, equals, socket = text.partition("=")
        if not equals or "/" in name:
            name, socket = text.removeprefix("unix://"), text
        found.append((name, socket))
    names = {name for name, _ in found} | {THIS_NODE}
    if len(names) != len(found) + 1 or not all(names):
        raise UsageError("every --node needs a name of its own", f"as cp-2=/run/cp-2.sock; {THIS_NODE} is the target")
    if len(found) >= NODES_MAX:
        raise UsageError(
            f"--node may be given {NODES_MAX - 1} times at most, got {len(found)}", "watch them in several runs"
        )
    return tuple(found)


def _checked(place: EtcdPlace, retire: bool) -> EtcdPlace | None:
    """Return the place once it is known to be usable; None: nothing says where etcd is, so nothing is scanned."""
    if not place.named:
        if retire:
            raise UsageError("--retire needs a scan of etcd, and nothing says where etcd is", "name it: --endpoints")
        return None
    etcdplace.check(place)
    return place
