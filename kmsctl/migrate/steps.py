"""The steps from a k8s-kms-plugin to kmsd, and back, in words and commands. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Final

from kmsctl.kubernetes.places import CONFIG, SOCKET
from kmsctl.migrate import remote
from kmsctl.migrate.encryption_config import Configurations
from kmsctl.migrate.k8s_kms_plugin import PROGRAM, K8sKmsPlugin
from kmsctl.migrate.setups import Setup
from kmsctl.migrate.step import MigrationStep
from kmsd.client.rotation import rewrite_command
from kmsd.etcd.resources import nameable

CONFIG_FILE: Final = "/etc/kmsd/kmsd.toml"
PIN_FILE: Final = "/etc/kmsd/pin"
NEW_LABELS: Final = ("k8s-kek", "kmsd-kek", "kmsd-kek-2")
"""One more than the plugin has keys."""


def steps(
    setup: Setup, plugin: K8sKmsPlugin, found: Configurations, environment: Mapping[str, str]
) -> tuple[MigrationStep, ...]:
    """Return what is to be done to move over, in order."""
    return (
        _look(),
        _pin(setup, plugin),
        *([remote.certificates(plugin)] if plugin.port else []),
        _write_config(plugin),
        _start(setup, plugin, environment),
        *([_make_key(plugin)] if plugin.cbc else []),
        _prove(plugin),
        *([remote.proxies(plugin)] if plugin.port else []),
        _read(found),
        _switch(found),
        _rewrite(found),
        _scan(),
        *([remote.close_port(plugin)] if plugin.port else []),
        _retire(plugin, found),
    )


def write_label(plugin: K8sKmsPlugin) -> str:
    """Return the label of the key that kmsd writes with: the plugin's own, or, where that one reads what nothing
    protects, a new one."""
    if not plugin.cbc:
        return plugin.key_label
    taken = (plugin.key_label, plugin.hmac_label)
    return next(each for each in NEW_LABELS if each not in taken and f"{each}.hmac" not in taken)


def _look() -> MigrationStep:
    return MigrationStep(
        "Look at what is stored, and make backups",
        "Of etcd, and of the token by its own means. kmsd serves KMS v2 to Kubernetes 1.29 and later; for older "
        "clusters see docs/migration.md.",
        ("kubectl version", "kmsctl migrate status"),
    )


def _pin(setup: Setup, plugin: K8sKmsPlugin) -> MigrationStep:
    if plugin.pin_file:
        calls = "" if setup.kind == "command" else f", as the {setup.kind} calls it"
        text = f"It is in {plugin.pin_file}{calls}; on its first line, mode 0600, kmsd's user's."
        if credential := next((each for each in setup.credentials if each.startswith(f"{plugin.pin_file}:")), ""):
            text = (
                f"It is a credential: kmsd's unit needs LoadCredential={credential} too. The PIN is on the first line."
            )
        return MigrationStep("Let kmsd read the PIN", text)
    return MigrationStep(
        "Write the PIN into a file, on every control-plane node",
        "With an editor, on the first line: a PIN in a command stays in the shell's history."
        + (" Take it out of where it is now when k8s-kms-plugin is gone." if plugin.pin_given else ""),
        (
            "install -d -m 755 /etc/kmsd",
            f"install -m 600 /dev/null {PIN_FILE}",
            f"${{EDITOR:-vi}} {PIN_FILE}",
        ),
    )


def _write_config(plugin: K8sKmsPlugin) -> MigrationStep:
    unsafe = (
        " [legacy] lets kmsd read what nothing protects; it is for the time of the migration only."
        if plugin.cbc
        else ""
    )
    return MigrationStep(
        f"Write {CONFIG_FILE} and check it",
        f"On every control-plane node.{unsafe}",
        (f"kmsd check-config --config {CONFIG_FILE}",),
    )


def _start(setup: Setup, plugin: K8sKmsPlugin, environment: Mapping[str, str]) -> MigrationStep:
    what = "token" if plugin.cbc else "key"
    sentences = [
        f"{PROGRAM} goes on; kmsd has a socket of its own, {SOCKET}, and uses the same {what}. docs/kubernetes.md says "
        "how to run it."
    ]
    if environment:
        sentences.append(f"Its environment needs {', '.join(environment)}.")
    if held := mounts(setup, plugin):
        sentences.append(f"{PROGRAM} has mounted {held}: what the module needs of it, kmsd needs too.")
    if plugin.cbc:
        old = (plugin.key_label, plugin.hmac_label)
        sentences.append(f"`kmsctl keys list` must show a key id for {old[0]!r} and {old[1]!r}: adopt what has none.")
        commands = ["kmsctl keys list", *(f"{_adopt(each)}   # if it has no key id" for each in old)]
    else:
        sentences.append(
            f"`kmsctl status` must name {plugin.key_label!r} as the write key. If that has no CKA_ID, it gets one by "
            "itself, or status asks for it."
        )
        commands = ["kmsctl health --wait", "kmsctl status", f"{_adopt(plugin.key_label)}   # if it asks"]
    return MigrationStep("Start kmsd beside it, on every control-plane node", " ".join(sentences), tuple(commands))


def _adopt(label: str) -> str:
    return f"kmsctl keys adopt {shlex.quote(label)}"


def _make_key(plugin: K8sKmsPlugin) -> MigrationStep:
    label = write_label(plugin)
    make = f"kmsctl keygen {label} --if-not-exists"
    if "tpm2" in plugin.module:
        make += " --type pair"
    else:
        make += "   # with --type pair where the token has no AES-GCM: kmsctl status says so"
    return MigrationStep(
        f"Make the key that kmsd writes with, {label!r}",
        f"Before kube-apiserver writes through kmsd, once for each token. {plugin.key_label!r} must not write: it "
        "reads what nothing protects, and what it wrote could be altered as if it were that.",
        ("kmsctl status", make, "kmsctl health --wait"),
    )


def mounts(setup: Setup, plugin: K8sKmsPlugin) -> str:
    """Return what the plugin's container mounts, and from where, but for the directory of its socket."""
    socket = plugin.socket.rpartition("/")[0]
    return ", ".join(f"{path} ({source})" for path, source in setup.mounts if path.rstrip("/") != socket)


def _prove(plugin: K8sKmsPlugin) -> MigrationStep:
    what = "k8s-kms-plugin aes-cbc" if plugin.cbc else "k8s-kms-plugin aes-gcm"
    other = (
        " If it says keysealer, all is written by the plugin's successor, whose values are authenticated: leave out "
        "[legacy]."
        if plugin.cbc
        else ""
    )
    return MigrationStep(
        "See that kmsd knows what is stored",
        f"For one Secret or several: FORMAT {what}, READABLE yes.{other}",
        ("etcdctl get --print-value-only /registry/secrets/NAMESPACE/NAME | kmsctl inspect --try",),
    )


def _read(found: Configurations) -> MigrationStep:
    return MigrationStep(
        "Let every kube-apiserver read what kmsd will write",
        f"Install the EncryptionConfiguration `reading`, {CONFIG} or whatever --encryption-provider-config "
        f"says, mount /run/kmsd into kube-apiserver, and restart one after the other. "
        f"{_capital(_old(found))} still writes. With one control-plane node go on with the next step.",
    )


def _switch(found: Configurations) -> MigrationStep:
    return MigrationStep(
        "Let kmsd write",
        "Install the EncryptionConfiguration `writing` and restart one after the other. "
        f"{_capital(_old(found))} keeps its name, for it is in every value, and its endpoint is kmsd's socket now: "
        "kmsd reads both.",
        ("kubectl get --raw '/readyz?verbose' | grep kms",),
    )


def _rewrite(found: Configurations) -> MigrationStep:
    named = tuple(each for each in found.resources if nameable(each))
    text = (
        "On one node, when all have the file `writing`. A conflict means that somebody changed an object: run it again."
    )
    if len(named) < len(found.resources):
        text += " `kmsctl migrate status` names the resources that a pattern stands for."
    return MigrationStep("Rewrite what is stored", text, tuple(map(rewrite_command, named)))


def _scan() -> MigrationStep:
    return MigrationStep(
        "See that nothing is left",
        "Exit code 0: every value that a KMS provider reads is kmsd's. Until then it says what to do.",
        ("kmsctl migrate status --check",),
    )


def _retire(plugin: K8sKmsPlugin, found: Configurations) -> MigrationStep:
    gate = ", and with it --feature-gates=KMSv1=true" if found.version == "v1" else ""
    legacy, keys, backup = "", "The key stays: kmsd writes with it until `kmsctl rotate`.", ""
    if plugin.cbc:
        legacy = " Drop [legacy] and hmac_label from kmsd's configuration and restart it."
        keys = f"Nothing in etcd needs {plugin.key_label!r} and {plugin.hmac_label!r} any more."
        backup = ", [legacy], hmac_label"
    return MigrationStep(
        f"Retire {PROGRAM}",
        f"When status names {_old(found)} no more, drop it from the file{gate}, and restart "
        f"kube-apiserver.{legacy} Stop {PROGRAM} and remove it. {keys} A backup of etcd from before needs the "
        f"old provider{backup} and the plugin's keys to be read.",
    )


def _old(found: Configurations) -> str:
    if not found.providers:
        return "the old provider"
    return f"the provider{'s' if len(found.providers) > 1 else ''} {', '.join(map(repr, found.providers))}"


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def way_back(plugin: K8sKmsPlugin, found: Configurations) -> tuple[MigrationStep, ...]:
    """Return what is to be done to move back, in order."""
    return (
        *(_back_beside(plugin, found) if plugin.cbc or found.version == "v2" else _back_by_format(plugin, found)),
        *([remote.back(plugin)] if plugin.port else []),
        _back_rewrite(plugin, found),
    )


def _back_by_format(plugin: K8sKmsPlugin, found: Configurations) -> tuple[MigrationStep, ...]:
    return (
        MigrationStep(
            f"Let kmsd write what {PROGRAM} reads",
            f'Set write_format = "{PROGRAM}" in [keys] and restart kmsd on every node. Only before a `kmsctl rotate`: '
            f"the format names the key by its label, and {PROGRAM} takes the one that has the label "
            f"{plugin.key_label!r} now.",
            (f"kmsd check-config --config {CONFIG_FILE}", "kmsctl status"),
        ),
        MigrationStep(
            "Let it write by KMS v1 again",
            f"In the file `writing` put {_old(found)} first and kmsd's second, and restart one after the other.",
        ),
    )


def _back_beside(plugin: K8sKmsPlugin, found: Configurations) -> tuple[MigrationStep, ...]:
    what = "what its aes-cbc does, because nothing protects it" if plugin.cbc else "by KMS v2 as it does"
    return (
        MigrationStep(
            f"Let {PROGRAM} write again",
            f"It must still run: kmsd never writes {what}. Install the "
            f"file `reading`: {_old(found)} is first, on the socket of {PROGRAM}. Restart one after the "
            "other; kmsd goes on reading what it wrote.",
        ),
    )


def _back_rewrite(plugin: K8sKmsPlugin, found: Configurations) -> MigrationStep:
    wanted = f"{PROGRAM} {plugin.algorithm}"
    named = tuple(each for each in found.resources if nameable(each))
    return MigrationStep(
        "Rewrite, look, and take kmsd away",
        f"When `kmsctl migrate status` counts nothing as native and nothing by v2, only {wanted}: install the "
        f"EncryptionConfiguration of before, start {PROGRAM}, restart kube-apiserver, and stop kmsd.",
        (*map(rewrite_command, named), "kmsctl migrate status"),
    )
