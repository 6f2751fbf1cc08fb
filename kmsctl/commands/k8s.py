"""`kmsctl k8s`: what a control-plane node needs of kmsd, checked and written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from kmsctl import checklist, diagnostics, etcdplace, options, output, stored
from kmsctl.diagnostics import ExitCode, UsageError
from kmsctl.etcdplace import EtcdOptions, EtcdPlace
from kmsctl.kubernetes.findings import NodeCheck, Outcome
from kmsctl.kubernetes.places import CONFIG, MANIFEST
from kmsctl.output import Document, OutputFormat
from kmsctl.text import width
from kmsd.client import ClientError, clientconfig, escape, parse_target
from kmsd.client.clientconfig import Target
from kmsd.client.places import TlsOptions, TlsPlace

if TYPE_CHECKING:
    from kmsctl.kubernetes.preflight import Files
    from kmsctl.kubernetes.preflight_kms import Reached


def k8s(ctx: typer.Context) -> None:
    """\b
    Examples:
      kmsctl k8s manifest encryption-config
      kmsctl k8s check --no-manifest --encryption-config kmsd-v2.yaml
      kmsctl k8s apply-patch kube-apiserver.yaml

    Write what Kubernetes needs of kmsd, and check a control-plane node.
    """
    options.want_command(ctx)


def check(
    ctx: typer.Context,
    at: EtcdOptions,
    manifest: Annotated[
        str,
        typer.Option("--manifest", metavar="FILE", help="Static pod of kube-apiserver on this node."),
    ] = MANIFEST,
    no_manifest: Annotated[
        bool, typer.Option("--no-manifest", help="Take it that kube-apiserver is no static pod here, as with k3s.")
    ] = False,
    encryption_config: Annotated[
        str,
        typer.Option(
            "--encryption-config",
            metavar="FILE",
            help=f"EncryptionConfiguration on this node. Default: the one that the manifest names, else {CONFIG}.",
            show_default=False,
        ),
    ] = "",
    present: Annotated[
        str,
        typer.Option(
            "--present",
            metavar="FILE",
            help="EncryptionConfiguration that the checked one is to replace. Default: that of the manifest.",
            show_default=False,
        ),
    ] = "",
    as_user: Annotated[
        int | None,
        typer.Option(
            "--as-user",
            metavar="UID",
            min=0,
            help="Number of the user that kube-apiserver runs as. Default: as the manifest says, else 0.",
            show_default=False,
        ),
    ] = None,
    node: Annotated[
        list[str] | None,
        typer.Option(
            "--node",
            metavar="TARGET",
            help="Target of the kmsd of another node, once for each. Default: all in the configuration file.",
            show_default=False,
        ),
    ] = None,
    output_format: options.OutputDocument = None,
    timeout: options.Timeout = None,
) -> None:
    """\b
    Examples:
      kmsctl k8s check --no-manifest --encryption-config kmsd-v2.yaml
      kmsctl k8s check --no-manifest --encryption-config kmsd-v2.yaml -o json

    Check a control-plane node before kube-apiserver encrypts, or at any time after: whether kube-apiserver takes the
    file, reaches the socket as its own user, has it mounted, and gets a round trip; whether other nodes write with the
    same key; and, if etcd is named (--endpoints), whether the file has a reader for all that is stored. A file that is
    to replace the present one is compared with that. With a signing endpoint for service account tokens, its socket is
    tried too, and what kube-apiserver asks there.

    Changes nothing. What could not be checked for want of rights is told, and is not ok.

    Exits 0 if no check failed, 7 if one did, else 4 if one could not be made for want of rights.
    """
    opts = options.gather(ctx, timeout=timeout, output=output_format)
    form = opts.form(*options.DOCUMENT)
    place = at.place
    if place.named:
        etcdplace.check(place)
    nodes = _nodes(node or ())
    from kmsctl.kubernetes import preflight, preflight_jwt

    files = preflight.look("" if no_manifest else manifest, encryption_config, present)
    # Before anything is asked: a process with threads must not fork.
    reached = _reached(files, as_user)
    signer = preflight_jwt.look(files.server, as_user)
    with diagnostics.working("asking kmsd"):
        asked = list(_asked(files, reached, nodes, opts.timeout))
        if signer is not None:
            asked += [*signer.checks, *preflight_jwt.answering(signer, opts.timeout)]
    checks = [*files.checks, *(each.check for each in reached), *asked, *_stored(files, place, opts.timeout)]
    failed = sum(each.outcome is Outcome.FAILED for each in checks)
    denied = sum(each.denied for each in checks)
    if form is OutputFormat.TABLE:
        room = max(width(escape(each.title)) for each in checks)
        output.emit("\n".join(checklist.line(each.outcome, each.title, each.seen, room) for each in checks))
        for each in checks:
            if each.fix:
                diagnostics.hint(f"{each.title}: {each.fix}")
    else:
        document: Document = {"failed": failed, "denied": denied, "checks": list(map(_document, checks))}
        output.emit_document(document, form)
    if failed:
        raise typer.Exit(ExitCode.UNHEALTHY)
    if denied:
        raise typer.Exit(ExitCode.DENIED)


def _document(check: NodeCheck) -> Document:
    return {
        "name": check.name,
        "title": check.title,
        "outcome": check.outcome.value,
        "seen": check.seen,
        "fix": check.fix or None,
        "denied": check.denied,
    }


def _nodes(names: Sequence[str]) -> tuple[Target, ...]:
    """Return the targets that are named, else those of the configuration file. Raises ClientError, UsageError."""
    if not names:
        return clientconfig.load().targets
    if len(names) > clientconfig.MOST_TARGETS:
        raise UsageError(f"there must be {clientconfig.MOST_TARGETS} nodes at most, got {len(names)}", "name fewer")
    places = [(name, parse_target(name)) for name in names]
    return tuple(
        Target(name, place.address, place.tls if isinstance(place, TlsPlace) else TlsOptions())
        for name, place in places
    )


def _reached(files: Files, user: int | None) -> list[Reached]:
    """Return what came of a connection to each socket. What is wrong with an endpoint is told already."""
    from kmsctl.kubernetes import preflight_kms

    providers = files.reading.kms if files.reading else ()
    return [
        preflight_kms.reachable(each, files.socket(each), files.server, user)
        for each in providers
        if each.socket.startswith("/")
    ]


def _asked(files: Files, reached: Sequence[Reached], nodes: Sequence[Target], timeout: float) -> Iterator[NodeCheck]:
    """Check what answers on the sockets, and then the nodes."""
    from kmsctl.kubernetes import preflight_kms

    key_ids = []
    for each in reached:
        if each.listens:
            checks, key_id = preflight_kms.answering(each.provider, each.path, timeout)
            yield from checks
            key_ids.append(key_id)
    if files.reading is not None and files.reading.kms:
        yield from preflight_kms.agreement(next(filter(None, key_ids), ""), nodes, timeout)


def _stored(files: Files, place: EtcdPlace, timeout: float) -> Iterator[NodeCheck]:
    """Check what etcd holds, if it is named."""
    from kmsctl.kubernetes import preflight_stored

    name, title = "stored", "what etcd holds"
    if not place.named:
        fix = "name etcd with --endpoints or ETCDCTL_ENDPOINTS: it tells which providers stored values name"
        yield NodeCheck(name, title, Outcome.NOT_CHECKED, "etcd is not named", fix)
        return
    if files.reading is None:
        yield NodeCheck(name, title, Outcome.NOT_CHECKED, "there is no EncryptionConfiguration to compare", "")
        return
    try:
        yield from preflight_stored.kept(files.reading, stored.read(place, timeout))
    except ClientError as error:
        yield NodeCheck(name, title, Outcome.NOT_CHECKED, error.message, error.hint)
