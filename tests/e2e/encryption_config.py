"""EncryptionConfiguration documents: written for a test, and read with the checks of kube-apiserver.

Source of the checks: `k8s.io/apiserver/pkg/apis/config/validation` and its strict decoder, which refuses
unknown fields. Knows nothing of sockets or keys.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Document = Mapping[str, Any]

MAX_KMS_TIMEOUT = 600.0


@dataclass(frozen=True)
class Kms:
    """A `kms` provider. timeout: seconds."""

    name: str
    api: Literal["v1", "v2"]
    socket: Path
    timeout: float = 3.0
    cache_size: int = 1000


@dataclass(frozen=True)
class Identity:
    """The provider that stores values as they are."""


Provider = Kms | Identity


class ConfigError(ValueError):
    """kube-apiserver would not start with this document."""


def document(*providers: Kms) -> Document:
    """A configuration for Secrets; the first provider writes, all read, and plain values stay readable."""
    return {
        "apiVersion": "apiserver.config.k8s.io/v1",
        "kind": "EncryptionConfiguration",
        "resources": [
            {
                "resources": ["secrets"],
                "providers": [
                    *(
                        {
                            "kms": {
                                "apiVersion": kms.api,
                                "name": kms.name,
                                "endpoint": f"unix://{kms.socket}",
                                "timeout": f"{kms.timeout:g}s",
                            }
                        }
                        for kms in providers
                    ),
                    {"identity": {}},
                ],
            }
        ],
    }


def providers_of_secrets(config: Document) -> list[Provider]:
    """The providers for Secrets, in order. Raises `ConfigError` where kube-apiserver would."""
    _fields("document", config, {"apiVersion", "kind", "resources"})
    if (config["apiVersion"], config["kind"]) != ("apiserver.config.k8s.io/v1", "EncryptionConfiguration"):
        raise ConfigError(f"no kind {config['kind']} in {config['apiVersion']}")
    found: list[Provider] = []
    v2_names: set[str] = set()
    for rule in config["resources"]:
        _fields("resources[]", rule, {"resources", "providers"})
        if not rule["resources"] or not rule["providers"]:
            raise ConfigError("a rule needs at least one resource and one provider")
        parsed = [_provider(item) for item in rule["providers"]]
        for provider in parsed:
            if isinstance(provider, Kms) and provider.api == "v2":
                if provider.name in v2_names:
                    raise ConfigError(f"two v2 providers are named {provider.name}")
                v2_names.add(provider.name)
        if "secrets" in rule["resources"]:
            found += parsed
    if not found:
        raise ConfigError("no rule for secrets")
    return found


def _provider(item: Mapping[str, Any]) -> Provider:
    if len(item) != 1:
        raise ConfigError(f"one provider in each item, not {sorted(item)}")
    match item:
        case {"identity": {}}:
            return Identity()
        case {"kms": dict(kms)}:
            return _kms(kms)
    raise ConfigError(f"unknown provider {sorted(item)}")


def _kms(kms: Mapping[str, Any]) -> Kms:
    _fields("kms", kms, {"apiVersion", "name", "endpoint", "timeout", "cachesize"}, {"name", "endpoint"})
    api, name, endpoint = kms.get("apiVersion", "v1"), str(kms["name"]), str(kms["endpoint"])
    if api not in ("v1", "v2"):
        raise ConfigError(f"unsupported KMS apiVersion {api}")
    if not name or ":" in name:
        raise ConfigError(f"the name {name!r} is empty or holds a colon")
    if not endpoint.startswith("unix://") or len(endpoint) == len("unix://"):
        raise ConfigError(f"the endpoint {endpoint} does not name a unix:// socket")
    if api == "v2" and "cachesize" in kms:
        raise ConfigError("cachesize is not supported in v2")
    cache_size = kms.get("cachesize", 1000)
    if not isinstance(cache_size, int) or cache_size == 0:
        raise ConfigError("cachesize must be a number other than 0")
    timeout = _duration(kms.get("timeout", "3s"))
    if not 0 < timeout <= MAX_KMS_TIMEOUT:
        raise ConfigError(f"the timeout {kms['timeout']} is not positive")
    return Kms(name, api, Path(endpoint.removeprefix("unix://")), timeout, cache_size)


def _fields(where: str, given: Mapping[str, Any], known: set[str], required: set[str] | None = None) -> None:
    if unknown := given.keys() - known:
        raise ConfigError(f"{where}: unknown field {sorted(unknown)}")
    if missing := (known if required is None else required) - given.keys():
        raise ConfigError(f"{where}: missing {sorted(missing)}")


def _duration(text: str) -> float:
    """Seconds of a Go duration of one unit."""
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m)", str(text))
    if not found:
        raise ConfigError(f"{text!r} is no duration")
    return float(found[1]) * {"ms": 0.001, "s": 1.0, "m": 60.0}[found[2]]
