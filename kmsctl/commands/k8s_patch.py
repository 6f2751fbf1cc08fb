"""`kmsctl k8s apply-patch`: kube-apiserver's static pod, with what it needs to encrypt."""

from __future__ import annotations

from pathlib import Path
from posixpath import dirname
from typing import TYPE_CHECKING, Annotated

import typer

from kmsctl import diagnostics, files, options, output
from kmsctl.diagnostics import UsageError
from kmsctl.kubernetes.places import BACKUPS, CONFIG, MANIFEST, SOCKET
from kmsctl.output import OutputFormat

if TYPE_CHECKING:
    from kmsctl.kubernetes.kube_apiserver import KubeApiserver
    from kmsctl.kubernetes.static_pod_patch import Patch


def apply_patch(
    ctx: typer.Context,
    manifest: Annotated[
        str,
        typer.Argument(
            metavar="[FILE]", help=f"Static pod of kube-apiserver. Default: {MANIFEST}.", show_default=False
        ),
    ] = MANIFEST,
    config: Annotated[
        str, typer.Option("--config", metavar="FILE", help="EncryptionConfiguration on the node.")
    ] = CONFIG,
    socket: Annotated[
        str, typer.Option("--socket", metavar="SOCKET", help="KMS socket of kmsd on the node; its folder is mounted.")
    ] = SOCKET,
    jwt_socket: Annotated[
        str,
        typer.Option(
            "--jwt-socket",
            metavar="SOCKET",
            help="Socket of kmsd on which service account tokens are to be signed; its folder is mounted, and the "
            "flags for files of keys are taken out. Default: those stay.",
            show_default=False,
        ),
    ] = "",
    write: Annotated[bool, typer.Option("--write", help="Write the file, instead of only showing the lines.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the lines alone, as without it.")] = False,
    backup_dir: Annotated[
        str,
        typer.Option(
            "--backup-dir", metavar="FOLDER", help="Folder for a copy of the old file; never that of the manifest."
        ),
    ] = BACKUPS,
    output_format: options.OutputDocument = None,
    timeout: options.Timeout = None,
) -> None:
    """\b
    Examples:
      kmsctl k8s apply-patch kube-apiserver.yaml
      kmsctl k8s apply-patch kube-apiserver.yaml --dry-run -o json
      kmsctl k8s apply-patch kube-apiserver.yaml --jwt-socket /run/kmsd-jwt/jwt.sock

    Show, as a diff, what kube-apiserver's static pod lacks to encrypt through kmsd: the flag that names the
    EncryptionConfiguration, and mounts of that file and of the socket's folder. All other lines stay as they are.

    Writes only with --write, with a copy of the old file elsewhere; the kubelet then starts kube-apiserver anew. Before
    that the EncryptionConfiguration must be there, kube-apiserver must take it, and the socket's folder must be there.
    kubeadm writes the manifest anew at an upgrade: its own configuration must have the same, see docs/kubernetes.md.

    With --jwt-socket kube-apiserver has service account tokens signed there in place of its files of keys. Writes only
    if each key that verifies tokens now is published there, for else they would be refused; without --write this is
    said where socket and files are at hand.
    """
    opts = options.gather(ctx, output=output_format, timeout=timeout)
    form = opts.form(*options.DOCUMENT)
    if write and dry_run:
        raise UsageError("--write and --dry-run exclude each other", "leave out one of them")
    if write and manifest == "-":
        raise UsageError("--write writes a file, and the manifest comes from stdin", "name the file")
    for option, path in (("--config", config), ("--socket", socket), ("--jwt-socket", jwt_socket or SOCKET)):
        if not path.startswith("/") or path.endswith("/"):
            raise UsageError(f"{option} must be the absolute path of a file, got {path!r}", "begin it with a slash")
    from kmsctl.kubernetes import kube_apiserver, replacing, static_pod_patch

    text = _text(manifest)
    made = static_pod_patch.patch(text, config, socket, jwt_socket)
    backup = None
    if write and made.changes:
        _check(config, socket, kube_apiserver.read(made.after))
    if jwt_socket and made.changes:
        _check_signer(made, jwt_socket, opts.timeout, write=write)
    if write and made.changes:
        backup = replacing.replace(Path(manifest), text, made.after, Path(backup_dir))
    diff = made.diff(manifest)
    if form is OutputFormat.TABLE:
        output.emit(diff)
    else:
        output.emit_document(
            {
                "manifest": manifest,
                "changes": list(made.changes),
                "written": backup is not None,
                "backup": None if backup is None else str(backup),
                "diff": diff or None,
            },
            form,
        )
    if not made.changes:
        diagnostics.note(f"{manifest} has all of it already")
    elif backup is None:
        diagnostics.hint("nothing is written; --write writes it, and the kubelet starts kube-apiserver anew")
    else:
        diagnostics.note(f"{manifest} is written, the old one is {backup}; the kubelet starts kube-apiserver anew")
        diagnostics.hint(f"`kubectl get --raw '/readyz?verbose'` shows kms-providers; back: cp {backup} {manifest}")
        if jwt_socket:
            diagnostics.hint("`kmsctl jwt keys` names this kube-apiserver under FETCHED BY when it has started")


def _check_signer(made: Patch, socket: str, timeout: float, *, write: bool) -> None:
    """Refuse what would have service account tokens refused, or keep kube-apiserver from starting; warn of it if
    nothing is to be written. Raises UsageError, ClientError."""
    from kmsctl.kubernetes import kube_apiserver, preflight_jwt

    before, after = kube_apiserver.read(made.before), kube_apiserver.read(made.after)
    for fault in preflight_jwt.faults(before, after, socket, timeout, write=write):
        if write:
            raise fault
        diagnostics.warning(fault.message)
        diagnostics.hint(fault.hint)


def _text(manifest: str) -> str:
    data = files.read(manifest, "kube-apiserver's manifest", too_long="give kube-apiserver's manifest")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise UsageError(f"{manifest} is not text in UTF-8", "give kube-apiserver's manifest") from None


def _check(config: str, socket: str, server: KubeApiserver) -> None:
    """Refuse what would keep kube-apiserver from starting. Raises UsageError."""
    from kmsctl.kubernetes import encryption_rules, yamltext

    data = files.read(config, "the EncryptionConfiguration", too_long="give kube-apiserver's file")
    documents = yamltext.load(data.decode(errors="replace"), config, strict=True)
    reading = encryption_rules.read(documents[0] if documents else None)
    if reading.faults:
        raise UsageError(
            f"kube-apiserver would not start with {config}: {reading.faults[0].where}: {reading.faults[0].text}",
            f"{reading.faults[0].fix}; `kmsctl k8s check` shows all",
        )
    if unseen := [each for each in reading.kms if not server.on_node(each.socket)]:
        raise UsageError(
            f"the provider {unseen[0].name!r} is on {unseen[0].socket}, which kube-apiserver would not see",
            f"give --socket {unseen[0].socket}, or correct the endpoint",
        )
    if not Path(dirname(socket)).is_dir():
        raise UsageError(
            f"there is no folder {dirname(socket)}, so that the kubelet could not start kube-apiserver",
            "start kmsd on this node first",
        )
