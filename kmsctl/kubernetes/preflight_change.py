"""Compare an EncryptionConfiguration with the one whose place it is to take: what is stored must stay readable, and
other control-plane nodes must be able to read what will be written. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from kmsctl.kubernetes.encryption_rules import Provider, Reading
from kmsctl.kubernetes.findings import NodeCheck, Outcome

NAME = "change"
TITLE = "change of the EncryptionConfiguration"
UNNAMED = Provider("identity")
"""The provider of a resource that no rule is for."""


def compared(present: Reading, following: Reading, path: str) -> Iterator[NodeCheck]:
    """Check what a change does. present: the file in force, at this path. following: the file that is checked."""
    told = False
    for resource in dict.fromkeys(name for each in (present, following) for name in _names(each)):
        before, after = (each.of(resource) or (UNNAMED,) for each in (present, following))
        readers = {_identity(each) for each in after}
        for each in before:
            if _identity(each) not in readers:
                told = True
                yield _unread(resource, each, path)
        if _identity(after[0]) not in {_identity(each) for each in before}:
            told = True
            seen = f"{resource}: {_shown(after[0])} writes, which kube-apiservers that still have {path} cannot read"
            fix = "with several control-plane nodes first let all read it: put it second on every one, and restart them"
            yield NodeCheck(NAME, TITLE, Outcome.WARNING, seen, fix)
    if not told:
        yield NodeCheck(NAME, TITLE, Outcome.OK, f"all that {path} reads is read, and it reads what is written")


def _unread(resource: str, provider: Provider, path: str) -> NodeCheck:
    if provider.kind == "identity":
        seen = f"{resource}: {path} reads plain values, and this file does not"
        return NodeCheck(
            NAME, TITLE, Outcome.WARNING, seen, "right when `kmsctl etcd scan` counts no plain ones of them"
        )
    seen = f"{resource}: {_shown(provider)} of {path} is not in this file, so that what it wrote cannot be read"
    fix = "keep it, by the same name and API, behind the one that writes, until `kmsctl etcd scan` counts nothing of it"
    return NodeCheck(NAME, TITLE, Outcome.FAILED, seen, fix)


def _names(reading: Reading) -> Iterator[str]:
    for rule in reading.rules:
        yield from rule.resources


def _identity(provider: Provider) -> tuple[str, str, str]:
    return provider.kind, provider.api, provider.name


def _shown(provider: Provider) -> str:
    return f"{provider.name!r} by KMS {provider.api}" if provider.kind == "kms" else provider.kind
