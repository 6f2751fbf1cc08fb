"""`kmsctl k8s manifest`: what ships for a cluster, with a site's own names in it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

import typer

from kmsctl import diagnostics, options, output
from kmsctl.diagnostics import UsageError
from kmsctl.kubernetes.places import SOCKET


class KmsApi(StrEnum):
    """A KMS API, as an EncryptionConfiguration names it."""

    V2 = "v2"
    V1 = "v1"


Image = Annotated[
    str,
    typer.Option(
        "--image",
        metavar="IMAGE",
        help="Image of kmsd, best by its digest, as registry.example/kmsd@sha256:... Default: what k8s/Containerfile "
        "builds.",
        show_default=False,
    ),
]
KmsSocket = Annotated[
    str,
    typer.Option(
        "--socket",
        metavar="PATH",
        help=f"KMS socket, in a folder of its own. Default: {SOCKET}.",
        show_default=False,
    ),
]
JwtSocket = Annotated[
    str,
    typer.Option(
        "--jwt-socket",
        metavar="PATH",
        help="Socket on which service account tokens are signed, in a folder of its own. Default: there is none.",
        show_default=False,
    ),
]
UserId = Annotated[
    int | None,
    typer.Option(
        "--user",
        metavar="UID",
        min=0,
        max=2**31 - 1,
        help="Number of the user that kmsd runs as. Default: 0, with which kubeadm runs kube-apiserver.",
        show_default=False,
    ),
]
GroupId = Annotated[
    int | None,
    typer.Option(
        "--group",
        metavar="GID",
        min=0,
        max=2**31 - 1,
        help="Number of the group that kmsd runs as. Default: that of --user.",
        show_default=False,
    ),
]
TokenLabel = Annotated[
    str,
    typer.Option("--token-label", metavar="TEXT", help="Label of the token. Default: kmsd.", show_default=False),
]
Module = Annotated[
    str,
    typer.Option(
        "--module",
        metavar="PATH",
        help="Path of the PKCS#11 module in the pod. Default: SoftHSM's in a static pod.",
        show_default=False,
    ),
]


@dataclass(frozen=True)
class PodOptions:
    """The options of a static pod of either kind."""

    image: Image = ""
    socket: KmsSocket = ""
    jwt_socket: JwtSocket = ""
    user: UserId = None
    group: GroupId = None


def manifest(ctx: typer.Context) -> None:
    """\b
    Examples:
      kmsctl k8s manifest standalone > kmsd.yaml
      kmsctl k8s manifest encryption-config > encryption-config.yaml

    Write what ships for Kubernetes as YAML, with a site's own names in it.
    """
    options.want_command(ctx)


def standalone(
    ctx: typer.Context,
    at: PodOptions,
    token_label: TokenLabel = "",
    key_label: Annotated[
        str,
        typer.Option(
            "--key-label", metavar="LABEL", help="Label of the write key. Default: k8s-kek.", show_default=False
        ),
    ] = "",
    module: Module = "",
    mount: Annotated[
        list[str] | None,
        typer.Option(
            "--mount",
            metavar="FOLDER",
            help="Folder of the node that the module needs, at the same path in the pod; once for each.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """\b
    Examples:
      kmsctl k8s manifest standalone > kmsd.yaml
      kmsctl k8s manifest standalone --module /opt/hsm/lib/libpkcs11.so --mount /opt/hsm --token-label prod
      kmsctl k8s manifest standalone --jwt-socket /run/kmsd-jwt/jwt.sock

    Write the static pod of a kmsd with a token, for /etc/kubernetes/manifests of each control-plane node.
    """
    _text_only(ctx)
    from kmsctl.kubernetes import manifests

    pod = manifests.Pod(at.image, at.socket, at.user, at.group, tuple(mount or ()), at.jwt_socket)
    _emit(manifests.standalone(pod, token_label=token_label, key_label=key_label, module=module), at.image)


def proxy(
    ctx: typer.Context,
    at: PodOptions,
    upstream: Annotated[
        list[str] | None,
        typer.Option(
            "--upstream",
            metavar="HOST:PORT",
            help="Address of a key manager, once for each, in their order.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """\b
    Examples:
      kmsctl k8s manifest proxy --upstream keys-1.ops.test:31400 --upstream keys-2.ops.test:31400

    Write the static pod of a proxy, for control-plane nodes whose keys are with a key manager.
    """
    _text_only(ctx)
    from kmsctl.kubernetes import manifests

    pod = manifests.Pod(at.image, at.socket, at.user, at.group, jwt_socket=at.jwt_socket)
    _emit(manifests.proxy(pod, tuple(upstream or ())), at.image)
    if not upstream:
        diagnostics.hint("the addresses in it are examples: name yours with --upstream")


def key_manager(
    ctx: typer.Context,
    image: Image = "",
    namespace: Annotated[
        str, typer.Option("--namespace", metavar="NAME", help="Namespace, which has the PIN and the key of TLS.")
    ] = "kmsd",
    token_label: TokenLabel = "",
    module: Module = "",
    tenant: Annotated[
        list[str] | None,
        typer.Option(
            "--tenant",
            metavar="NAME=SAN",
            help="Name of a cluster, and the name in its nodes' certificates: cluster-a=DNS:*.cluster-a.test; once for "
            "each. Its key has the label kek-NAME.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """\b
    Examples:
      kmsctl k8s manifest key-manager --tenant cluster-a=DNS:*.cluster-a.test > key-manager.yaml

    Write a key manager for a cluster of its own, for other clusters: never for the one that it runs in, which would
    wait for itself. It needs the Secrets kmsd-pin and kmsd-tls in its namespace.
    """
    _text_only(ctx)
    from kmsctl.kubernetes import manifests

    tenants = []
    for each in tenant or ():
        name, equals, san = each.partition("=")
        if not equals:
            raise UsageError(f"--tenant must be NAME=SAN, got {each[:80]!r}", "as cluster-a=DNS:*.cluster-a.test")
        tenants.append(manifests.Tenant(name, san))
    text = manifests.key_manager(
        image=image, namespace=namespace, token_label=token_label, module=module, tenants=tenants
    )
    _emit(text, image)
    diagnostics.hint("never in a cluster that it unlocks: that could not start again; docs/remote.md has the steps")


def encryption_config(
    ctx: typer.Context,
    api: Annotated[
        KmsApi, typer.Option("--api", help="API of the provider: v1 is for clusters before 1.29.")
    ] = KmsApi.V2,
    socket: KmsSocket = "",
    name: Annotated[
        str,
        typer.Option(
            "--name",
            metavar="NAME",
            help="Name of the provider, which stands in every stored value. Default: kmsd, and kmsd-v1.",
            show_default=False,
        ),
    ] = "",
    resource: Annotated[
        list[str] | None,
        typer.Option(
            "--resource",
            metavar="RESOURCE",
            help="Resource that is encrypted, once for each. Default: secrets.",
            show_default=False,
        ),
    ] = None,
    reading: Annotated[
        bool, typer.Option("--reading", help="Let nothing be encrypted yet, but all be read: the first of two steps.")
    ] = False,
) -> None:
    """\b
    Examples:
      kmsctl k8s manifest encryption-config > encryption-config.yaml
      kmsctl k8s manifest encryption-config --reading
      kmsctl k8s manifest encryption-config --resource secrets --resource configmaps

    Write the EncryptionConfiguration with which kube-apiserver encrypts through kmsd.
    """
    _text_only(ctx)
    from kmsctl.kubernetes import manifests

    text = manifests.encryption_config(
        api.value, socket=socket, name=name, resource=tuple(resource or ()), reading=reading
    )
    output.emit(text.rstrip("\n"))


def _text_only(ctx: typer.Context) -> None:
    """Refuse a format: a manifest is YAML with comments, and has no other. Raises UsageError."""
    if (typed := options.gather(ctx).output) is not None:
        raise UsageError(f"a manifest is YAML, and has no format {typed}", "leave out --output")


def _emit(text: str, image: str) -> None:
    output.emit(text.rstrip("\n"))
    if image and "@sha256:" not in image:
        diagnostics.note("the image is named by a tag, which may come to mean another one; name@sha256:... cannot")
