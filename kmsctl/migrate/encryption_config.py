"""An EncryptionConfiguration of kube-apiserver on its way from a KMS provider to a KMS v2 one of kmsd. Pure.

Source of the rules: k8s.io/apiserver, pkg/apis/apiserver/validation. The keys of providers like aescbc stand in the
document itself: none of them gets out of here.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from posixpath import normpath
from typing import Any, Final

from kmsctl.diagnostics import UsageError
from kmsctl.kubernetes.encryption_rules import API_VERSION, KIND, KINDS

Configuration = dict[str, Any]

NAME: Final = "kmsd"
UNKNOWN_NAME: Final = "FILL IN: the provider's name in the present file"
"""Has a colon, which no name may have: kube-apiserver refuses it until it is filled in."""
WITHHELD: Final = "FILL IN: as in the present file"
"""Text in place of a key, and no base64."""
RULES_MAX: Final = 1000
NODES_MAX: Final = 100_000
"""Values in the document, each counted wherever an alias repeats it."""


@dataclass(frozen=True)
class Configurations:
    """The EncryptionConfigurations of a migration. providers: the old one's names, none if unknown; version: of its
    API. reading: the old one writes as before, kmsd is there to read. writing: kmsd writes, and the old one's values
    are read through kmsd. resources: that the old one is for. withheld: whether a key was left out."""

    providers: tuple[str, ...]
    resources: tuple[str, ...]
    reading: Configuration
    writing: Configuration
    withheld: bool = False
    version: str = "v1"


def assumed(old_socket: str, socket: str) -> Configurations:
    """Return the configurations for who gave none: Secrets, and the old provider's name to be filled in."""
    old = {"apiVersion": "v1", "name": UNKNOWN_NAME, "endpoint": f"unix://{old_socket}", "timeout": "3s"}
    document = {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "resources": [{"resources": ["secrets"], "providers": [{"kms": old}, {"identity": {}}]}],
    }
    return replace(_configurations(document, (UNKNOWN_NAME,), socket), providers=())


def between(document: object, old_socket: str, socket: str) -> Configurations:
    """Make the configurations of a migration from the present one. document: as YAML was read. old_socket: that
    k8s-kms-plugin listens on, as it calls it; socket: kmsd's.

    Raises UsageError if it is no such document, if kube-apiserver would refuse it, or if no provider is the old one.
    """
    found = _unshared(document, [0])
    if not isinstance(found, dict) or (found.get("kind"), found.get("apiVersion")) not in KINDS:
        raise UsageError(
            f"the encryption configuration is no {KIND} of {API_VERSION}", "give kube-apiserver's own file"
        )
    found |= {"kind": KIND, "apiVersion": API_VERSION}
    rules = found.get("resources")
    if not isinstance(rules, list) or len(rules) > RULES_MAX or not all(map(_is_rule, rules)):
        raise UsageError(
            f"resources of the {KIND} must be a list of {RULES_MAX} rules at most, each with resources and providers",
            "give the file that kube-apiserver has",
        )
    _check(found)
    return _configurations(found, _old_names(found, old_socket), socket)


def _unshared(value: Any, count: list[int]) -> Any:
    """Return a copy in which nothing that an alias names is shared: one place is changed without the other."""
    count[0] += 1
    if count[0] > NODES_MAX:
        raise UsageError(
            f"the encryption configuration must have {NODES_MAX} values at most, aliases followed, and has more",
            "give the file that kube-apiserver has",
        )
    if isinstance(value, dict):
        return {name: _unshared(each, count) for name, each in value.items()}
    return [_unshared(each, count) for each in value] if isinstance(value, list) else value


def _check(document: Configuration) -> None:
    """Raise UsageError for what kube-apiserver would refuse, and for what this could not change."""
    items = [item for rule in document["resources"] for item in rule["providers"]]
    if any(provider is None for item in items for provider in item.values()):
        raise UsageError(
            "a provider in the EncryptionConfiguration is empty, which kube-apiserver refuses", "write `identity: {}`"
        )
    names = [kms["name"] for kms in map(_kms, items) if kms.get("apiVersion") == "v2" and "name" in kms]
    if twice := sorted({str(name) for name in names if names.count(name) > 1}):
        raise UsageError(
            f"the KMS v2 provider {twice[0]!r} occurs twice, which kube-apiserver refuses: names of v2 are unique",
            "give the file that kube-apiserver has",
        )


def _kms(item: Mapping[str, Any]) -> Mapping[str, Any]:
    kms = item.get("kms")
    return kms if isinstance(kms, dict) else {}


def _is_rule(rule: object) -> bool:
    """Return the lists of resources and of providers, each a mapping with one name."""
    match rule:
        case {"resources": list(resources), "providers": list(providers)}:
            named = all(isinstance(each, dict) and len(each) == 1 for each in providers)
            return named and all(isinstance(each, str) for each in resources)
    return False


def _old_names(document: Configuration, old_socket: str) -> tuple[str, ...]:
    """Return the KMS providers on that socket, or the only one there is: a pod may call its socket otherwise."""
    found = {name: str(kms.get("endpoint")) for name, kms in _providers(document)}
    there = [name for name, endpoint in found.items() if old_socket and _path(endpoint) == normpath(old_socket)]
    named = tuple(sorted(there or found))
    if there or len(named) == 1:
        return named
    if not found:
        raise UsageError(f"the {KIND} has no KMS provider", "give the file that kube-apiserver has now")
    raise UsageError(
        f"the {KIND} has several KMS providers ({', '.join(named)}), and none is on "
        f"{old_socket or 'the socket of k8s-kms-plugin'}",
        "leave one of them in a copy of the file, and give that",
    )


def _path(endpoint: str) -> str:
    path = endpoint.removeprefix("unix://")
    return "/" + normpath(path).lstrip("/") if path != endpoint else ""


def _providers(document: Mapping[str, Any]) -> Iterator[tuple[str, Configuration]]:
    """Yield the KMS providers with their names; one of v1 may occur in several rules."""
    for rule in document["resources"]:
        for item in rule["providers"]:
            kms = item.get("kms")
            if isinstance(kms, dict) and isinstance(kms.get("name"), str):
                yield kms["name"], kms


def _configurations(document: Configuration, old: tuple[str, ...], socket: str) -> Configurations:
    shown, withheld = _without_keys(document)
    reading, writing = copy.deepcopy(shown), copy.deepcopy(shown)
    resources: list[str] = []
    names = _free_names(document)
    for rule, later in zip(reading["resources"], writing["resources"], strict=True):
        if not any(name in old for name, _ in _providers({"resources": [rule]})):
            continue
        resources += rule["resources"]
        # A name of v2 occurs once in the whole document.
        new = {"kms": {"apiVersion": "v2", "name": next(names), "endpoint": f"unix://{socket}", "timeout": "3s"}}
        rule["providers"].insert(1, new)
        later["providers"].insert(0, copy.deepcopy(new))
        for name, kms in _providers({"resources": [later]}):
            if name in old:
                kms["endpoint"] = f"unix://{socket}"
    versions = {str(kms.get("apiVersion", "v1")) for name, kms in _providers(document) if name in old}
    version = "v2" if versions == {"v2"} else "v1"
    return Configurations(old, tuple(dict.fromkeys(resources)), reading, writing, withheld, version)


def _without_keys(document: Configuration) -> tuple[Configuration, bool]:
    """Return a copy in which each `secret` of a provider's keys is withheld, and whether there was one."""
    shown = copy.deepcopy(document)
    withheld = False
    for rule in shown["resources"]:
        for item in rule["providers"]:
            for kind, provider in item.items():
                if kind not in ("kms", "identity"):
                    item[kind] = {"keys": [{"name": name, "secret": WITHHELD} for name in _key_names(provider)]}
                    withheld = True
    return shown, withheld


def _key_names(provider: object) -> list[str]:
    keys = provider.get("keys") if isinstance(provider, dict) else None
    named = [key.get("name") for key in keys if isinstance(key, dict)] if isinstance(keys, list) else []
    return [name for name in named if isinstance(name, str)]


def _free_names(document: Mapping[str, Any]) -> Iterator[str]:
    taken = {
        item["kms"].get("name")
        for rule in document["resources"]
        for item in rule["providers"]
        if isinstance(item.get("kms"), dict)
    }
    for number in range(1, 2 * RULES_MAX + len(taken)):
        name = NAME if number == 1 else f"{NAME}-{number}"
        if name not in taken:
            yield name
