"""The plan from a k8s-kms-plugin to kmsd: the configuration, and what is different. Pure.

Where it comes from is `setups` and `k8s_kms_plugin`, what to do with it `steps`; how it is shown is the command's.
No PIN is in any of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from kmsctl.kubernetes.places import SOCKET
from kmsctl.migrate import remote
from kmsctl.migrate.encryption_config import Configurations
from kmsctl.migrate.k8s_kms_plugin import PROGRAM, UNKNOWN, K8sKmsPlugin
from kmsctl.migrate.setups import Setup
from kmsctl.migrate.step import MigrationStep
from kmsctl.migrate.steps import PIN_FILE, mounts, steps, way_back, write_label

_OF_MODULES: Final = (
    *("SOFTHSM2_CONF", "TPM2_PKCS11_", "TSS2_", "ChrystokiConfigurationPath", "P11_KIT_", "OCK", "PKCSLIB"),
    *("CKNFAST_", "NFAST_", "CS_PKCS11_", "LD_LIBRARY_PATH"),
)
"""Beginnings of the variables that PKCS#11 modules read, so far as they are known."""


@dataclass(frozen=True)
class MigrationPlan:
    """A plan of a migration. config: of kmsd, TOML. environment: that its module needs. notes: what is different, or
    wants a look."""

    setup: Setup
    plugin: K8sKmsPlugin
    config: str
    environment: Mapping[str, str]
    configurations: Configurations
    steps: tuple[MigrationStep, ...]
    way_back: tuple[MigrationStep, ...]
    notes: tuple[str, ...]


def plan(setup: Setup, plugin: K8sKmsPlugin, configurations: Configurations) -> MigrationPlan:
    """Make the plan of a migration."""
    environment = {name: value for name, value in sorted(setup.environment.items()) if name.startswith(_OF_MODULES)}
    return MigrationPlan(
        setup=setup,
        plugin=plugin,
        config=config_text(plugin),
        environment={name: value for name, value in environment.items() if UNKNOWN not in value},
        configurations=configurations,
        steps=steps(setup, plugin, configurations, environment),
        way_back=way_back(plugin, configurations),
        notes=tuple(_notes(setup, plugin, configurations)),
    )


def config_text(plugin: K8sKmsPlugin) -> str:
    """Return kmsd's configuration, TOML."""
    token: dict[str, object] = {"module": plugin.module}
    if plugin.provider != "p11":
        token = {"provider": plugin.provider, **token}
    if plugin.token_label:
        token["label"] = plugin.token_label
    elif plugin.slot is not None:
        token["slot"] = plugin.slot
    token["pin_file"] = plugin.pin_file or PIN_FILE
    keys: dict[str, object] = {"label": write_label(plugin)}
    if plugin.cbc:
        # Without AES-GCM an AES key reads only with its HMAC key beside it. The new pair has one of its own.
        keys["hmac_label"] = plugin.hmac_label
    keys["algorithm"] = "auto" if plugin.cbc else plugin.algorithm
    sections: dict[str, dict[str, object]] = {"kms": {"socket": SOCKET}, "token": token, "keys": keys}
    if plugin.cbc:
        sections["legacy"] = {"allow_unauthenticated": True, "key": plugin.key_label}
    if plugin.port:
        sections["server"] = remote.server_section(plugin)
        sections["[tenants]"] = remote.tenant_entry(write_label(plugin))
    return "\n".join(_section(name, values) for name, values in sections.items())


def _section(name: str, values: Mapping[str, object]) -> str:
    """Return a section. name: in brackets of its own for an entry of an array of tables."""
    return "\n".join([f"[{name}]", *(f"{key} = {_toml(value)}" for key, value in values.items()), ""])


def _toml(value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case list():
            return f"[{', '.join(map(_toml, value))}]"
        case _:
            return f'"{"".join(map(_toml_character, str(value)))}"'


def _toml_character(each: str) -> str:
    if each in '"\\':
        return f"\\{each}"
    return each if each.isprintable() else f"\\U{ord(each):08x}"


def _notes(setup: Setup, plugin: K8sKmsPlugin, found: Configurations) -> Iterator[str]:
    if plugin.cbc:
        yield (
            f"What {PROGRAM} wrote with aes-cbc has a tag that authenticates nothing: whoever can write to etcd can "
            "alter it, and no check shows it. kmsd reads it only with legacy.allow_unauthenticated, and only with the "
            "one key in legacy.key. Rewrite soon, and drop [legacy] then."
        )
        yield (
            f"kmsd writes with a new key, {write_label(plugin)!r}, from the beginning: if {plugin.key_label!r} "
            "wrote for kmsd too, whoever can write to etcd could pass its values off as the plugin's, and alter them. "
            f"So do not run kmsd with the command line of {PROGRAM} before: with that, {plugin.key_label!r} writes."
        )
    else:
        yield f"Do not rotate before the way back is given up: {PROGRAM} takes the key that has the label."
    if not found.providers:
        yield (
            "The old provider's name is not known here, and no value is read without it: fill it in, or give "
            "kube-apiserver's file as --encryption-config."
        )
    if found.withheld:
        yield "Keys of other providers are not repeated here: fill them in as in the present file."
    yield from _notes_of_token(setup, plugin)
    yield from _notes_of_serving(plugin)


def _notes_of_token(setup: Setup, plugin: K8sKmsPlugin) -> Iterator[str]:
    if setup.elsewhere:
        yield (
            f"It also gets variables from {setup.elsewhere}, which is not read here: SOCKET and P11_... there would "
            "win."
        )
    if setup.kind == "pod manifest":
        yield "Paths are as its container sees them: the module may be elsewhere for kmsd."
        if "softhsm" in plugin.module and not mounts(setup, plugin):
            yield (
                "SoftHSM keeps its keys in files, and nothing mounted there outlasts the pod: get them out of the "
                "container before it goes."
            )
    if not plugin.token_label:
        yield f"The token is named by its slot, {plugin.slot}, which may change: give token.label rather."
    if plugin.auto_create:
        yield "--auto-create is left out: the key is there, and one that is missing means the wrong token."


def _notes_of_serving(plugin: K8sKmsPlugin) -> Iterator[str]:
    if plugin.port:
        yield from remote.notes(plugin)
    if plugin.left_out:
        yield f"kmsd has no use for {', '.join(f'--{each}' for each in plugin.left_out)}: left out."
    yield (
        f"{PROGRAM} lets the group of its socket call it (mode 0775); kmsd's is its owner's alone. For a "
        "kube-apiserver that is not root see docs/kubernetes.md."
    )
