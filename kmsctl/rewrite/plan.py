"""The options that say whether and how objects are rewritten, and what they come to.

Loads nothing that connects: --help and a rotation without --rewrite import this.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Final

import typer

from kmsctl.diagnostics import UsageError
from kmsctl.kubeapi.kubeconfig import KubeAccess, read

RATE: Final = 20.0
RATE_MOST: Final = 1000.0
RESOURCES_MOST: Final = 100

Wanted = Mapping[str, Collection[str] | None]
"""Resource, as a scan of etcd names it -> the last two parts of its objects' keys; None: all of its objects."""


class RewriteWay(StrEnum):
    """The ways to rewrite: whatever the server has, or one of them alone."""

    AUTO = "auto"
    MIGRATIONS = "migrations"
    UPDATES = "updates"


Rewrite = Annotated[
    bool,
    typer.Option(
        "--rewrite",
        help="With --watch: have kube-apiserver rewrite what is under other keys, by the permissions of a kubeconfig.",
    ),
]
Kubeconfig = Annotated[
    str,
    typer.Option(
        "--kubeconfig", metavar="FILE", help="With --rewrite: the kubeconfig. Default: KUBECONFIG, else ~/.kube/config."
    ),
]
Context = Annotated[
    str, typer.Option("--context", metavar="NAME", help="With --rewrite: the context in it. Default: its current one.")
]
RewriteRate = Annotated[
    float | None,
    typer.Option(
        "--rewrite-rate",
        metavar="N",
        help=f"With --rewrite: updates in a second, {RATE_MOST:g} at most. Default: {RATE:g}.",
    ),
]
RewriteBy = Annotated[
    RewriteWay | None,
    typer.Option(
        "--rewrite-by",
        help="With --rewrite: StorageVersionMigrations alone, or updates alone. Default: the first if they are served "
        "and acted on, else the second.",
        show_default=False,
    ),
]
RewriteResource = Annotated[
    list[str] | None,
    typer.Option(
        "--rewrite-resource",
        metavar="NAME",
        help="With --rewrite where no scan of etcd tells what is to be rewritten: secrets, deployments.apps. May be "
        "repeated. Default: secrets.",
        show_default=False,
    ),
]


@dataclass(frozen=True)
class RewritePlan:
    """The way to rewrite objects. rate: updates a second. resources: to be rewritten where no scan tells. arguments:
    the options that name it once more, for a command to be copied."""

    access: KubeAccess
    rate: float = RATE
    way: RewriteWay = RewriteWay.AUTO
    resources: tuple[str, ...] = ("secrets",)
    arguments: tuple[str, ...] = ()


@dataclass(frozen=True)
class RewriteOptions:
    """The options that say whether and how objects are rewritten."""

    rewrite: Rewrite = False
    kubeconfig: Kubeconfig = ""
    context: Context = ""
    rewrite_rate: RewriteRate = None
    rewrite_by: RewriteBy = None
    rewrite_resource: RewriteResource = None

    def plan(self) -> RewritePlan | None:
        """Return what the options come to; None without --rewrite. Raises UsageError."""
        named = self._named()
        if not self.rewrite:
            if named:
                raise UsageError(f"{named[0]} needs --rewrite", f"add --rewrite, or leave out {named[0]}")
            return None
        rate = RATE if self.rewrite_rate is None else self.rewrite_rate
        if not 0 < rate <= RATE_MOST:
            raise UsageError(
                f"--rewrite-rate must be more than 0 and {RATE_MOST:g} at most, got {rate:g}",
                "each update is a write to etcd, which serves the cluster meanwhile",
            )
        resources = tuple(self.rewrite_resource or ("secrets",))
        if len(resources) > RESOURCES_MOST:
            raise UsageError(
                f"--rewrite-resource may be given {RESOURCES_MOST} times at most, got {len(resources)}",
                "name etcd, and the scan tells the resources: --endpoints",
            )
        access = read(self.kubeconfig, self.context)
        way = self.rewrite_by or RewriteWay.AUTO
        return RewritePlan(access, rate, way, resources, ("--rewrite", *named))

    def _named(self) -> list[str]:
        """Return the options beside --rewrite that were given, as words of a command."""
        given = {
            "--kubeconfig": self.kubeconfig,
            "--context": self.context,
            "--rewrite-rate": "" if self.rewrite_rate is None else f"{self.rewrite_rate:g}",
            "--rewrite-by": self.rewrite_by or "",
        }
        named = [word for option, value in given.items() if value for word in (option, str(value))]
        return [*named, *(word for each in self.rewrite_resource or () for word in ("--rewrite-resource", each))]
