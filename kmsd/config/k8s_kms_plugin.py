"""The differences of a kmsd that is run under the name k8s-kms-plugin: defaults, and which source wins.

Source: ThalesGroup/k8s-kms-plugin 5a6998a, `cmd/k8s-kms-plugin/cmd/{root,serve}.go`. Reads neither files nor flags.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from kmsd.config.settings import Settings
from kmsd.config.sources import K8S_KMS_PLUGIN_ENVIRON

PROGRAM: Final = "k8s-kms-plugin"
CONFIG_HINT: Final = f"{PROGRAM} took no setting from the file of its --config: drop the flag, or name a file of kmsd's"

Flags = Mapping[str, tuple[str, object]]
"""Setting -> (the flag's name, its value)."""

_READS: Final = MappingProxyType({name: key for name, key in K8S_KMS_PLUGIN_ENVIRON.items() if name != "P11_PIN"})
"""The variables that k8s-kms-plugin reads; it takes a PIN only from --p11-pin or P11_PIN_FILE."""
_LABEL, _SLOT, _PIN_FILE = "token.label", "token.slot", "token.pin_file"


def defaults(environ: Mapping[str, str] = os.environ) -> dict[str, tuple[str, object]]:
    """Return the defaults that are not kmsd's, by setting, each with words that say whose default it is."""
    folder = Path(environ.get("TMPDIR") or "/tmp") / "run"  # noqa: S108 - Go's os.TempDir
    own = {"kms.socket": folder / "hsm-plugin-server.sock", "keys.label": "k8s-dek", "keys.hmac_label": "k8s-hmac"}
    return {key: (f"default of {PROGRAM}", value) for key, value in own.items()}


def as_it_reads(flags: Flags, environ: Mapping[str, str]) -> tuple[Flags, Mapping[str, str], tuple[str, ...]]:
    """Return what counts of the flags and of the environment, and a sentence for each flag that does not.

    Unlike in kmsd its variables win over its flags, P11_PIN_FILE over --p11-pin too, and the label of a token over its
    slot.
    """
    stronger = {key: name for name, key in _READS.items() if environ.get(name)}
    if _PIN_FILE in stronger:
        stronger["token.pin"] = stronger[_PIN_FILE]
    flag, label = flags.get(_LABEL, ("", ""))
    if label or _LABEL in stronger:
        stronger[_SLOT] = stronger.get(_LABEL, flag)
        environ = {name: text for name, text in environ.items() if name != "P11_SLOT"}
    kept = {key: given for key, given in flags.items() if key not in stronger}
    lost = [(stronger[key], name) for key, (name, _) in flags.items() if key in stronger]
    return kept, environ, tuple(f"{winner}: wins over {name}, as with {PROGRAM}" for winner, name in lost)


def warnings(settings: Settings) -> tuple[str, ...]:
    """Return what may surprise somebody who takes kmsd for k8s-kms-plugin."""
    if settings.keys.algorithm != "aes-cbc" or settings.legacy.allow_unauthenticated:
        return ()
    return (
        f"what {PROGRAM} wrote with aes-cbc is not read, for nothing protects it: if any of it is stored, follow "
        "`kmsctl migrate plan` before kube-apiserver writes through kmsd",
    )
