"""Read an EncryptionConfiguration as kube-apiserver does, and say all that it would refuse. Pure.

Source of the rules, as of Kubernetes 1.29 to 1.36: k8s.io/apiserver, pkg/apis/apiserver/validation/
validation_encryption.go (what is refused in the file), pkg/server/options/encryptionconfig/config.go (strict decoding;
rules that earlier ones mask; the prefixes of stored values), pkg/apis/apiserver/v1/defaults.go (apiVersion v1, 3 s,
cachesize 1000) and pkg/storage/value/encrypt/envelope/util (what is dialled of an endpoint). Secrets of providers like
aescbc stand in the document: none of them gets out of here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from kmsctl.kubernetes.encryption_fields import Fault, cachesize, duration, keys, socket_of, unknown

KIND: Final = "EncryptionConfiguration"
API_VERSION: Final = "apiserver.config.k8s.io/v1"
KINDS: Final = frozenset({(KIND, API_VERSION), ("EncryptionConfig", "v1")})
"""The second is the first one's name before Kubernetes 1.13, which kube-apiserver still takes."""
TIMEOUT: Final = 3.0
"""Seconds for a call to a KMS where the file names none."""

_KEY_SIZES: Final = {"aesgcm": (16, 24, 32), "aescbc": (16, 24, 32), "secretbox": (32,)}
_PROVIDERS: Final = ("kms", *_KEY_SIZES, "identity")
_KMS_FIELDS: Final = frozenset({"apiVersion", "name", "cachesize", "endpoint", "timeout"})
_NO_API: Final = frozenset({"apiserveripinfo", "serviceipallocations", "servicenodeportallocations"})


@dataclass(frozen=True)
class Provider:
    """A provider that a resource is written or read with. kind: as in the file. Of a KMS alone: name, api ("v1" or
    "v2"), socket (the path that kube-apiserver dials), timeout (seconds)."""

    kind: str
    name: str = ""
    api: str = ""
    endpoint: str = ""
    socket: str = ""
    timeout: float = TIMEOUT

    @property
    def prefix(self) -> str:
        """The beginning of stored values of a KMS, by which kube-apiserver finds the provider that reads them."""
        return f"k8s:enc:kms:{self.api}:{self.name}:"


@dataclass(frozen=True)
class Rule:
    """A rule of the file: the resources, and their providers, the first of which writes."""

    resources: tuple[str, ...]
    providers: tuple[Provider, ...]


@dataclass(frozen=True)
class Reading:
    """A file as kube-apiserver reads it. faults: it starts only if there are none; rules: as far as they are whole."""

    rules: tuple[Rule, ...] = ()
    faults: tuple[Fault, ...] = ()

    @property
    def kms(self) -> tuple[Provider, ...]:
        """The KMS providers, in order; one that several rules name is there once."""
        return tuple(dict.fromkeys(each for rule in self.rules for each in rule.providers if each.kind == "kms"))

    def of(self, resource: str) -> tuple[Provider, ...]:
        """Return the providers of a resource (`secrets`, `deployments.apps`), the writing one first; none if no rule
        is for it. A rule for the resource itself goes before one for its group, and that before `*.*`."""
        group = resource.partition(".")[2]
        for wanted in ((resource.partition(".")[0], group), ("*", group), ("*", "*")):
            found = tuple(
                each
                for rule in self.rules
                if any(_group_resource(name) == wanted for name in rule.resources)
                for each in rule.providers
            )
            if found:
                return found
        return ()


def read(document: object, *, reload: bool = False) -> Reading:
    """Read a document, as YAML was loaded. reload: whether kube-apiserver runs with
    --encryption-provider-config-automatic-reload, which wants the names of KMS v1 to be unique, too."""
    if not isinstance(document, dict) or (document.get("kind"), document.get("apiVersion")) not in KINDS:
        fix = f"begin it with `apiVersion: {API_VERSION}` and `kind: {KIND}`"
        return Reading(faults=(Fault("", f"it is no {KIND} of {API_VERSION}", fix),))
    faults = list(unknown("", document, {"kind", "apiVersion", "resources"}))
    found = document.get("resources")
    if not isinstance(found, list) or not found:
        return Reading(faults=(*faults, Fault("resources", "at least one rule is required", "name `secrets` in one")))
    names: set[str] = set()
    rules = []
    for at, each in enumerate(found):
        rule, wrong = _rule(f"resources[{at}]", each, names, reload)
        faults += wrong
        if rule is not None:
            rules.append(rule)
    return Reading(tuple(rules), (*faults, *_masked(rules)))


def _rule(where: str, found: object, names: set[str], reload: bool) -> tuple[Rule | None, list[Fault]]:
    if not isinstance(found, dict):
        return None, [Fault(where, "it is no mapping", "give it `resources` and `providers`")]
    faults = list(unknown(where, found, {"resources", "providers"}))
    resources, items = found.get("resources") or [], found.get("providers") or []
    if not isinstance(resources, list) or not all(isinstance(each, str) for each in resources):
        return None, [*faults, Fault(f"{where}.resources", "it is no list of names", "list names such as `secrets`")]
    if not isinstance(items, list):
        return None, [*faults, Fault(f"{where}.providers", "it is no list", "begin each provider with `- `")]
    if not resources:
        faults.append(Fault(f"{where}.resources", "at least one resource is required", "name `secrets`"))
    if not items:
        faults.append(Fault(f"{where}.providers", "at least one provider is required", "write `- identity: {}`"))
    faults += _overlaps(f"{where}.resources", resources)
    faults += [fault for at, name in enumerate(resources) for fault in _name(f"{where}.resources[{at}]", name)]
    providers = []
    for at, item in enumerate(items):
        provider, wrong = _provider(f"{where}.providers[{at}]", item, names, reload)
        faults += wrong
        if provider is not None:
            providers.append(provider)
    return Rule(tuple(resources), tuple(providers)), faults


def _overlaps(where: str, resources: Sequence[str]) -> Iterator[Fault]:
    parsed = [_group_resource(each) for each in resources]
    if len(set(parsed)) < len(parsed):
        yield Fault(where, "the same resource cannot be specified multiple times", "name each once")
    groups = [group for resource, group in parsed if resource == "*"]
    if len(set(parsed)) > 1 and any(
        group == "*" or any(other == group and resource != "*" for resource, other in parsed) for group in groups
    ):
        yield Fault(where, "a pattern such as `*.` and a resource that it stands for overlap", "leave one of them out")


def _name(where: str, name: str) -> Iterator[Fault]:
    resource, group = _group_resource(name)
    if name.lower() != name:
        yield Fault(where, f"the resource {name!r} has capital letters", "write it in small ones, in the plural")
    elif name == "*":
        yield Fault(where, "`*` alone names no group", "write `*.` for the core group, or `*.*` for all")
    elif name in _NO_API:
        yield Fault(where, f"{name!r} has no REST API, and cannot be encrypted", "leave it out")
    elif group == "events.k8s.io":
        yield Fault(where, "events are stored in the core group", "write `events`")
    elif group == "extensions":
        yield Fault(where, "the group `extensions` has been removed", "name the group that has the resource now")
    elif group == "*" and resource != "*":
        yield Fault(where, f"{name!r} is one resource across groups, which is not supported", "name its group")


def _masked(rules: Sequence[Rule]) -> Iterator[Fault]:
    """Yield the resources for which an earlier rule for the group, or for everything, leaves nothing to do."""
    seen: set[tuple[str, str]] = set()
    for at, rule in enumerate(rules):
        for name in rule.resources:
            group = _group_resource(name)[1]
            for earlier in (("*", group), ("*", "*")):
                if earlier in seen:
                    shown = f"{earlier[0]}.{earlier[1]}"
                    yield Fault(
                        f"resources[{at}].resources",
                        f"the resource {name!r} is masked by the earlier rule for {shown!r}",
                        "put the rule for single resources first",
                    )
                    break
        seen.update(map(_group_resource, rule.resources))


def _provider(where: str, item: object, names: set[str], reload: bool) -> tuple[Provider | None, list[Fault]]:
    if not isinstance(item, dict):
        return None, [Fault(where, "it is no mapping", f"name one of {', '.join(_PROVIDERS)}")]
    faults = list(unknown(where, item, set(_PROVIDERS)))
    given = [kind for kind in _PROVIDERS if item.get(kind) is not None]
    if faults and not given:
        return None, faults
    if len(given) != 1:
        what = f"{len(given)} providers stand in one item" if given else "the item has no provider, or an empty one"
        fix = "give each an item of its own, with `- ` before it; the plain one is `- identity: {}`"
        return None, [*faults, Fault(where, what, fix)]
    (kind,) = given
    where, body = f"{where}.{kind}", item[kind]
    if not isinstance(body, dict):
        return None, [*faults, Fault(where, "it is no mapping", "give its fields below it")]
    if kind == "kms":
        provider, wrong = _kms(where, body, names, reload)
        return provider, faults + wrong
    if kind == "identity":
        faults += unknown(where, body, set())
    else:
        faults += keys(where, body, _KEY_SIZES[kind])
    return Provider(kind), faults


def _kms(where: str, kms: Mapping[str, Any], names: set[str], reload: bool) -> tuple[Provider, list[Fault]]:
    faults = list(unknown(where, kms, _KMS_FIELDS))
    faults += [
        Fault(f"{where}.{field}", "it is no text", "put it in quotes")
        for field in ("apiVersion", "name", "endpoint")
        if not isinstance(kms.get(field, ""), str | None)
    ]
    api, name = str(kms.get("apiVersion") or "v1"), str(kms.get("name") or "")
    if api not in ("v1", "v2"):
        faults.append(Fault(f"{where}.apiVersion", f"it must be v1 or v2, got {api!r}", "write v2"))
    if not name:
        faults.append(Fault(f"{where}.name", "the name is missing", "name the provider; it stays as long as the data"))
    if api != "v1" and ":" in name:
        faults.append(Fault(f"{where}.name", f"the name {name!r} must have no colon", "take it out"))
    if name in names and (reload or api != "v1"):
        faults.append(Fault(f"{where}.name", f"the name {name!r} occurs twice", "give each provider a name of its own"))
    names.add(name)
    faults += cachesize(f"{where}.cachesize", kms.get("cachesize"), api)
    timeout = TIMEOUT
    if kms.get("timeout") is not None:
        read = duration(kms["timeout"])
        if read is None:
            text = "it is no duration; one is written as 3s, 1m30s or 500ms"
            faults.append(Fault(f"{where}.timeout", text, "write 3s"))
        elif read <= 0:
            faults.append(Fault(f"{where}.timeout", "it must be more than 0", "write 3s, or leave it out for 3s"))
        timeout = read or TIMEOUT
    endpoint = str(kms.get("endpoint") or "")
    socket, wrong = socket_of(f"{where}.endpoint", endpoint)
    return Provider("kms", name, api, endpoint, socket, timeout), faults + wrong


def _group_resource(name: str) -> tuple[str, str]:
    """Return (resource, group), as schema.ParseGroupResource reads it."""
    resource, _, group = name.partition(".")
    return resource, group
