"""An EncryptionConfiguration of kube-apiserver on its way from a KMS v1 provider to a KMS v2 one of kmsd. Pure.

Source of the rules: k8s.io/apiserver, pkg/apis/apiserver/validation. The keys of providers like aescbc stand in the
document itself: none of them gets out of here.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from kmsctl.diagnostics import UsageError

Configuration = dict[str, Any]

KIND: Final = "EncryptionConfiguration"
API_VERSION: Final = "apiserver.config.k8s.io/v1"
NAME: Final = "kmsd"
UNKNOWN_NAME: Final = "FILL IN: the provider's name in the present file"
"""Has a colon, which no name may have: kube-apiserver refuses it until it is filled in."""
WITHHELD: Final = "FILL IN: as in the present file"
"""In place of a key, and no base64."""
RULES_MAX: Final = 1000


@dataclass(frozen=True)
class Configurations:
    """provider: the old one's name, empty if unknown. reading: the old one writes as before, kmsd is there to read.
    writing: kmsd writes, and the old one's values are read through kmsd. resources: that the old one is for.
    withheld: whether a key was left out."""

    provider: str
    resources: tuple[str, ...]
    reading: Configuration
    writing: Configuration
    withheld: bool = False


def assumed(old_socket: str, socket: str) -> Configurations:
    """For who gave none: Secrets, and the old provider's name to be filled in."""
    old = {"apiVersion": "v1", "name": UNKNOWN_NAME, "endpoint": f"unix://{old_socket}", "timeout": "3s"}
    document = {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "resources": [{"resources": ["secrets"], "providers": [{"kms": old}, {"identity": {}}]}],
    }
    made = _configurations(document, UNKNOWN_NAME, socket)
    return Configurations("", made.resources, made.reading, made.writing)


def between(document: object, old_socket: str, socket: str) -> Configurations:
    """document: as YAML was read. old_socket: that k8s-kms-plugin listens on, as it calls it; socket: kmsd's.

    Raises UsageError if it is no such document, or has not the one KMS v1 provider.
    """
    if not isinstance(document, dict) or document.get("kind") != KIND:
        raise UsageError(f"the encryption configuration is no {KIND}", "give kube-apiserver's own file")
    rules = document.get("resources")
    if not isinstance(rules, list) or len(rules) > RULES_MAX or not all(map(_is_rule, rules)):
        raise UsageError(f"the {KIND} is not as kube-apiserver wants it", "give the file that kube-apiserver has")
    return _configurations(document, _old_name(document, old_socket), socket)


def _is_rule(rule: object) -> bool:
    """Lists of resources and of providers, each a mapping with one name."""
    match rule:
        case {"resources": list(resources), "providers": list(providers)}:
            named = all(isinstance(each, dict) and len(each) == 1 for each in providers)
            return named and all(isinstance(each, str) for each in resources)
    return False


def _old_name(document: Configuration, old_socket: str) -> str:
    """The KMS v1 provider on that socket, or the only one there is: a pod may call its socket otherwise."""
    found = {name: str(kms.get("endpoint")) for name, kms in _v1_providers(document)}
    there = [name for name, endpoint in found.items() if old_socket and endpoint == f"unix://{old_socket}"]
    if len(there or found) == 1:
        return next(iter(there or found))
    if not found:
        raise UsageError(
            f"the {KIND} has no provider of KMS v1, which is all that k8s-kms-plugin serves",
            "give the file that kube-apiserver has now",
        )
    raise UsageError(
        f"the {KIND} has several providers of KMS v1 ({', '.join(sorted(found))}), and none is on "
        f"{old_socket or 'the socket of k8s-kms-plugin'}",
        "give the other one's aside: leave one in a copy",
    )


def _v1_providers(document: Mapping[str, Any]) -> Iterator[tuple[str, Configuration]]:
    for rule in document["resources"]:
        for item in rule["providers"]:
            kms = item.get("kms")
            if isinstance(kms, dict) and kms.get("apiVersion", "v1") == "v1" and isinstance(kms.get("name"), str):
                yield kms["name"], kms


def _configurations(document: Configuration, old: str, socket: str) -> Configurations:
    shown, withheld = _without_keys(document)
    reading, writing = copy.deepcopy(shown), copy.deepcopy(shown)
    resources: list[str] = []
    names = _free_names(document)
    for rule, later in zip(reading["resources"], writing["resources"], strict=True):
        if not any(name == old for name, _ in _v1_providers({"resources": [rule]})):
            continue
        resources += rule["resources"]
        # A name of v2 occurs once in the whole document.
        new = {"kms": {"apiVersion": "v2", "name": next(names), "endpoint": f"unix://{socket}", "timeout": "3s"}}
        rule["providers"].insert(1, new)
        later["providers"].insert(0, copy.deepcopy(new))
        for name, kms in _v1_providers({"resources": [later]}):
            if name == old:
                kms["endpoint"] = f"unix://{socket}"
    return Configurations(old, tuple(dict.fromkeys(resources)), reading, writing, withheld)


def _without_keys(document: Configuration) -> tuple[Configuration, bool]:
    """A copy in which each `secret` of a provider's keys is withheld, and whether there was one."""
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
