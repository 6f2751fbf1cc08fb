"""Labels on a real token that are easily taken for one another, or for something else."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from collections.abc import Callable

import pytest

from tests import forkserver
from tests.daemons import KMSCTL, Kmsd, wait_for
from tests.tokens import SoftToken

Start = Callable[..., Kmsd]


def ctl(kmsd: Kmsd, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "KMSCTL_TARGET": str(kmsd.admin_socket), "KMSCTL_SOCKET": str(kmsd.socket)}
    return forkserver.run([KMSCTL, *words], env=environment, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("label", ["k8s-kek ", " k8s-kek", "k8s-kek\0", "K8S-KEK", "k8s-keg"])
def test_a_label_that_is_nearly_the_write_label_is_named_in_health_lists_and_errors(
    token: SoftToken, start_kmsd: Start, label: str
) -> None:
    token.import_aes(label, bytes(range(32)), b"one")
    kmsd = start_kmsd()
    wait_for(lambda: "there is no key labelled 'k8s-kek'" in kmsd.v2("Status").healthz)
    assert f"; there is {label!r}; make one: kmsctl keygen k8s-kek; if it is that one: kmsctl keys relabel" in (
        kmsd.v2("Status").healthz
    )
    listed = ctl(kmsd, "keys", "list")
    assert f"warning: the label {label!r} is not the write label 'k8s-kek'" in listed.stderr
    refused = ctl(kmsd, "keys", "show", "k8s-kek")
    assert refused.returncode == 5
    assert f"hint: did you mean {label!r}?" in refused.stderr
    command = shlex.split(kmsd.v2("Status").healthz.rpartition("if it is that one: kmsctl ")[2])
    if "\0" in label:  # which no argument can hold
        assert command == ["keys", "relabel", "one", "k8s-kek"]
    else:
        assert command == ["keys", "relabel", label, "k8s-kek"]
        assert ctl(kmsd, *command, "--confirm", label).returncode == 0
        wait_for(lambda: kmsd.v2("Status").healthz == "ok")


def test_a_label_that_looks_like_a_hash_is_a_label(token: SoftToken, start_kmsd: Start) -> None:
    token.import_aes("sha256:of-the-past", bytes(range(32)), b"one")
    kmsd = start_kmsd("--auto-create").wait_ok()
    assert ctl(kmsd, "keys", "show", "sha256:of-the-past", "-o", "name").stdout == "sha256:of-the-past\n"
    digits = kmsd.status().write_key.key_id_sha256[:8]
    assert ctl(kmsd, "keys", "show", f"sha256:{digits}", "-o", "name").stdout == "k8s-kek\n"
    token.import_aes(f"sha256:{digits}", bytes(range(32)), b"two")
    wait_for(lambda: ctl(kmsd, "keys", "show", f"sha256:{digits}").returncode == 2)
    said = ctl(kmsd, "keys", "show", f"sha256:{digits}").stderr
    assert "is the label of one key and the hash of another's key id" in said
    assert ctl(kmsd, "keys", "show", "two", "-o", "name").stdout == f"sha256:{digits}\n"


def test_values_of_settings_are_json_of_their_own_kind(kmsd: Kmsd) -> None:
    found = json.loads(ctl(kmsd, "config", "view", "-o", "json").stdout)["settings"]
    values = {each["name"]: each["value"] for each in found}
    assert values["keys.label"] == "k8s-kek"
    assert {type(each) for each in values.values()} >= {str, int, bool, list}
    assert not any(isinstance(each, str) and each.startswith('"') for each in values.values())


def test_a_list_of_keys_fits_80_columns_and_wide_has_all_of_it(token: SoftToken, start_kmsd: Start) -> None:
    long = "a-very-long-label-" + "x" * 120 + "-its-end"
    token.import_aes(long, bytes(range(32)), b"one")
    kmsd = start_kmsd("--auto-create").wait_ok()
    ctl(kmsd, "rotate", "--yes")
    lines = ctl(kmsd, "keys", "list").stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert any(line.startswith("a-very-") and "..." in line.split()[0] for line in lines)
    former = next(each.label for each in kmsd.admin("ListKeys").keys if each.label.startswith("k8s-kek@"))
    assert any(line.startswith(former) for line in lines)
    shown = dict(re.split("  +", line, maxsplit=1) for line in ctl(kmsd, "keys", "show", "k8s-kek").stdout.splitlines())
    assert shown["TOKEN"] == "kmsd-test"  # once: its name in the configuration is its label
    wide = ctl(kmsd, "keys", "list", "-o", "wide").stdout
    assert long in wide
    assert kmsd.v2("Status").key_id in wide
