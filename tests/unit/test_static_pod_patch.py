"""Lines are added to kube-apiserver's static pod, and nothing else of it changes."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import pytest
import yaml

from kmsctl.diagnostics import UsageError
from kmsctl.kubernetes import kube_apiserver, yamllines
from kmsctl.kubernetes.static_pod_patch import patch

MANIFEST = (Path(__file__).parents[1] / "vectors" / "kube-apiserver.yaml").read_text()
CONFIG = "/etc/kubernetes/encryption-config.yaml"
SOCKET = "/run/kmsd/kms.sock"


def added(text: str, *where: str) -> list[str]:
    """The lines that a patch adds; it takes none away."""
    made = patch(text, *(where or (CONFIG, SOCKET)))
    lines = [line for line in difflib.ndiff(text.splitlines(), made.after.splitlines()) if line[0] in "+-"]
    assert all(line.startswith("+ ") for line in lines)
    return [line[2:].strip() for line in lines]


def pod(changes: dict[str, Any]) -> str:
    """A pod with a container that has these fields, as another writer of YAML would lay it out."""
    container = {"name": "kube-apiserver", "command": ["kube-apiserver", "--a=b"]} | changes
    document = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "k"}, "spec": {"containers": [container]}}
    return yaml.safe_dump(document, sort_keys=False)


def test_what_is_added_is_the_flag_two_mounts_and_two_volumes() -> None:
    assert added(MANIFEST) == [
        f"- --encryption-provider-config={CONFIG}",
        f"- mountPath: {CONFIG}",
        "name: kmsd-encryption-config",
        "readOnly: true",
        "- mountPath: /run/kmsd",
        "name: kmsd-socket",
        "- hostPath:",
        f"path: {CONFIG}",
        "type: File",
        "name: kmsd-encryption-config",
        "- hostPath:",
        "path: /run/kmsd",
        "type: Directory",
        "name: kmsd-socket",
    ]


def test_kube_apiserver_then_has_what_it_needs() -> None:
    server = kube_apiserver.read(patch(MANIFEST, CONFIG, SOCKET).after)
    assert (server.config, server.on_node(CONFIG), server.on_node(SOCKET)) == (CONFIG, CONFIG, SOCKET)


@pytest.mark.parametrize(
    "text",
    [
        MANIFEST,
        MANIFEST.rstrip("\n"),
        f"---\n{MANIFEST}",
        pod({}),
        pod({"volumeMounts": [{"mountPath": "/x", "name": "x"}]}),
        pod({"command": ["kube-apiserver"], "args": ["--a=b", "--c", "d"]}),
        pod({"command": ["/usr/local/bin/kube-apiserver", "--a=b"], "name": "api"}),
        pod({"env": [{"name": "TEXT", "value": "several\nlines\n"}]}),
        'spec:\n    containers:\n    -   name: "kube-apiserver"   # wide\n        command:\n        - kube-apiserver\n'
        "kind: Pod\n",
    ],
    ids=["kubeadm", "no end", "begun", "bare", "mounts", "args", "path", "text", "wide"],
)
def test_it_is_added_to_whatever_way_the_lists_are_laid_out(text: str) -> None:
    made = patch(text, CONFIG, SOCKET)
    server = kube_apiserver.read(made.after)
    assert (server.config, server.on_node(SOCKET)) == (CONFIG, SOCKET)
    assert len(made.changes) == 3
    again = patch(made.after, CONFIG, SOCKET)
    assert (again.changes, again.after, again.diff("x")) == ((), made.after, "")


def test_what_is_there_is_not_added_again() -> None:
    covered = MANIFEST.replace("path: /etc/kubernetes/pki\n", "path: /etc/kubernetes\n").replace(
        "mountPath: /etc/kubernetes/pki\n", "mountPath: /etc/kubernetes\n"
    )
    assert f"path: {CONFIG}" not in added(covered)
    flagged = MANIFEST.replace("    - --profiling=false\n", f"    - --encryption-provider-config={CONFIG}\n")
    assert not any(line.startswith("- --encryption") for line in added(flagged))
    assert added(MANIFEST, CONFIG, "/run/other/kms.sock")[4] == "- mountPath: /run/other"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is not one Pod"),
        (f"{MANIFEST}---\n{MANIFEST}", "is not one Pod"),
        (MANIFEST.replace("kind: Pod", "kind: Deployment"), "is not one Pod"),
        (MANIFEST.replace("kube-apiserver", "kube-scheduler"), f"must run {kube_apiserver.PROGRAM}, and none does"),
        (
            MANIFEST.replace("    - --profiling=false", "    - --encryption-provider-config=/other.yaml"),
            "/other.yaml already",
        ),
        (MANIFEST.replace("\n", "\r\n"), "carriage returns"),
        (pod({"command": ["sh", "-c", "exec kube-apiserver --a=b"]}), "by a shell"),
        (
            "kind: Pod\nspec: {containers: [{name: kube-apiserver, command: [kube-apiserver]}]}\n",
            "a line for each item",
        ),
        (MANIFEST.replace("name: ca-certs", "name: kmsd-socket"), "a volume kmsd-socket that is mounted elsewhere"),
        (
            MANIFEST.replace(
                "  - hostPath:\n      path: /etc/kubernetes/pki\n      type: DirectoryOrCreate\n", "  - emptyDir: {}\n"
            ).replace("mountPath: /etc/kubernetes/pki", "mountPath: /etc/kubernetes"),
            "no hostPath",
        ),
        ("kind: Pod\nkind: Pod\n", "a name stands twice"),
        ("kind: [\n", "it is not YAML"),
    ],
)
def test_what_it_does_not_understand_is_refused(text: str, said: str) -> None:
    with pytest.raises(UsageError) as refused:
        patch(text, CONFIG, SOCKET)
    assert said in refused.value.message
    assert refused.value.hint


KEY_FILE = "    - --service-account-key-file=/etc/kubernetes/pki/sa.pub\n"
JWT = "/run/kmsd-jwt/jwt.sock"


def changed(text: str) -> tuple[list[str], list[str]]:
    """The lines that a patch for service account tokens takes out, and those that it adds; all others stay."""
    made = patch(text, CONFIG, SOCKET, JWT)
    again = patch(made.after, CONFIG, SOCKET, JWT)
    assert (again.changes, again.after) == ((), made.after)
    lines = [line for line in difflib.ndiff(text.splitlines(), made.after.splitlines()) if line[0] in "+-"]
    out, new = ([line[2:].strip() for line in lines if line[0] == sign] for sign in "-+")
    return out, new


def test_a_signing_endpoint_takes_the_place_of_files_of_keys_and_is_mounted() -> None:
    out, new = changed(MANIFEST)
    assert out == [KEY_FILE.strip()]
    assert new == [
        *added(MANIFEST)[:1],
        f"- --service-account-signing-endpoint={JWT}",
        *added(MANIFEST)[1:6],
        *("- mountPath: /run/kmsd-jwt", "name: kmsd-jwt-socket"),
        *added(MANIFEST)[6:],
        *("- hostPath:", "path: /run/kmsd-jwt", "type: Directory", "name: kmsd-jwt-socket"),
    ]
    server = kube_apiserver.read(patch(MANIFEST, CONFIG, SOCKET, JWT).after)
    assert (server.endpoint, server.on_node(JWT), server.key_files) == (JWT, JWT, ())
    assert patch(MANIFEST, CONFIG, SOCKET).after == patch(MANIFEST, CONFIG, SOCKET, "").after


@pytest.mark.parametrize(
    "lines",
    [
        KEY_FILE * 2 + "    - --service-account-signing-key-file=/etc/kubernetes/pki/sa.key\n",
        "    - \"--service-account-key-file=/a b.pub\"   # \"'quoted'\"\n    - '--service-account-key-file=/b.pub'\n",
        "    - --service-account-key-file\n    - /etc/kubernetes/pki/sa.pub\n",
        "    -   --service_account_key_file=/etc/kubernetes/pki/sa.pub#1\n",
    ],
    ids=["several", "quotes", "two items", "underscores"],
)
def test_every_flag_for_a_file_of_keys_is_taken_out_and_no_other_line(lines: str) -> None:
    out, _ = changed(MANIFEST.replace(KEY_FILE, lines))
    assert out == [line.strip() for line in lines.splitlines()]


def test_flags_are_taken_out_of_arguments_too_and_of_the_end_of_the_file() -> None:
    text = pod({"command": ["kube-apiserver"], "args": ["--a=b", "--service-account-key-file=/x", "--c"]})
    assert changed(text)[0] == ["- --service-account-key-file=/x"]
    last = "kind: Pod\nspec:\n  containers:\n  - command:\n    - kube-apiserver\n    - --service-account-key-file=/x"
    assert changed(last)[0] == ["- --service-account-key-file=/x"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (MANIFEST.replace(KEY_FILE, "    - --service-account-key-file\n"), "without a file behind it"),
        (MANIFEST.replace(KEY_FILE, "    - >-\n      --service-account-key-file=/x\n"), "a line for each item"),
        (MANIFEST.replace(KEY_FILE, '    - "--service-account-key-file=/x\\\n      /y"\n'), "a line for each item"),
        (
            MANIFEST.replace(KEY_FILE, "    - &k --service-account-key-file=/x\n    - --other\n    - *k\n"),
            "a line for each item",
        ),
        (pod({"command": ["sh", "-c", "kube-apiserver --service-account-key-file=/x"]}), "by a shell"),
        (
            "kind: Pod\nspec:\n  containers:\n  - command: [kube-apiserver, --service-account-key-file=/x]\n",
            "a line for each item",
        ),
        (MANIFEST.replace(KEY_FILE, "    - --service-account-signing-endpoint=/other.sock\n"), "/other.sock already"),
    ],
)
def test_what_cannot_be_taken_out_is_refused(text: str, said: str) -> None:
    with pytest.raises(UsageError) as refused:
        patch(text, CONFIG, SOCKET, JWT)
    assert said in refused.value.message
    assert "docs/service-accounts.md" in refused.value.hint


def test_service_account_tokens_want_another_folder_than_the_kms_socket() -> None:
    with pytest.raises(UsageError, match="another folder than the KMS socket, got /run/kmsd for both"):
        patch(MANIFEST, CONFIG, SOCKET, "/run/../run/kmsd/jwt.sock")


def test_aliases_are_followed_or_refused_and_never_changed_by_guess() -> None:
    shared = pod({}).replace("    command:\n", "    args: &a\n    - --x=y\n    command:\n")
    assert added(shared)
    twice = shared.replace("spec:\n", "spec:\n  other: *a\n", 1)
    with pytest.raises(UsageError):
        patch(twice, CONFIG, SOCKET)
    with pytest.raises(UsageError, match="cannot be changed line by line"):
        patch(f"{shared}status:\n  other: *a\n", CONFIG, SOCKET)
    with pytest.raises(UsageError, match="cannot be changed line by line"):
        patch(f"{shared.replace('--x=y', '--service-account-key-file=/x')}status:\n  other: *a\n", CONFIG, SOCKET, JWT)


@pytest.mark.parametrize(
    "text", ["true", "1", "1e3", "null", "2026-01-01", "a: b", "a #b", "*x", "-", "--", "=", "0x1f", "é"]
)
def test_a_text_is_written_so_that_it_is_read_as_that_text(text: str) -> None:
    assert yaml.safe_load(yamllines.scalar(text)) == text
