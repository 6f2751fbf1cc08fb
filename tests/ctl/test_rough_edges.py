"""Closed descriptors, the wrong one of two sockets, and text that no terminal should be given."""

from __future__ import annotations

import os
import subprocess
import sys
import unicodedata
from typing import Any

import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from kmsctl import shells
from kmsctl.completion import Word
from tests import forkserver
from tests.ctl import answers
from tests.ctl.canned import Canned
from tests.ctl.conftest import Run
from tests.daemons import KMSCTL, Kmsd

EVIL = "evil\x1b[2J\u202e\u2066\x9b\u2028\r\n\x07\u200f"


@pytest.mark.parametrize(
    "line",
    ["status", "keys list -o json", "health", "--version", "help", "stats", "completion bash", "targets", "encrypt"],
)
def test_a_closed_stdout_is_1_and_said(canned: Canned, line: str) -> None:
    command = ["sh", "-c", 'exec "$@" >&-', "sh", sys.executable, "-m", "kmsctl", *line.split()]
    done = subprocess.run(command, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (1, "kmsctl: error: cannot write the output: stdout is closed\n")


def test_a_closed_stdin_is_2_and_a_closed_stderr_is_silent(canned: Canned) -> None:
    start = [sys.executable, "-m", "kmsctl"]
    without_in = ["sh", "-c", 'exec "$@" <&-', "sh", *start, "encrypt"]
    done = subprocess.run(without_in, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert "cannot read the plaintext: stdin is closed" in done.stderr
    without_err = ["sh", "-c", 'exec "$@" 2>&-', "sh", *start, "keys", "show", "nothing"]
    assert subprocess.run(without_err, capture_output=True, check=False, timeout=60).returncode == 5


def test_one_of_the_two_sockets_in_the_place_of_the_other_is_recognised(kmsd: Kmsd) -> None:
    def ctl(*words: str) -> subprocess.CompletedProcess[str]:
        swapped = {"KMSCTL_TARGET": str(kmsd.socket), "KMSCTL_SOCKET": str(kmsd.admin_socket)}
        return forkserver.run(
            [KMSCTL, *words],
            env=os.environ | swapped,
            capture_output=True,
            text=True,
            input="x",
            check=False,
            timeout=60,
        )

    for command in ("status", "stats", "health"):
        done = ctl(command)
        assert done.returncode == 2
        assert f"{kmsd.socket} is a KMS socket, which kube-apiserver calls: it has no admin API" in done.stderr
        assert "--target" in done.stderr
    done = ctl("encrypt")
    assert done.returncode == 2
    assert f"{kmsd.admin_socket} is an admin socket: it has no KMS API" in done.stderr


def test_mechanisms_have_the_names_that_pkcs11_gives_them(kmsd: Kmsd) -> None:
    environment = os.environ | {"KMSCTL_TARGET": str(kmsd.admin_socket)}
    names = subprocess.check_output([KMSCTL, "mechanisms", "-o", "name"], env=environment, text=True).splitlines()
    assert {"CKM_MD5", "CKM_AES_GCM"} <= set(names)
    assert not any("__" in name for name in names)


def test_bash_gets_no_backslash_that_it_does_not_need() -> None:
    def reply(text: str) -> str:
        return shells.bash_replies([Word(text)], "", quoted=False, breaks=" \t\n\"'@><=;|&(:")[0]

    for plain in ("k8s-kek@20261123T150339Z", "sha256:9cb159d3", "鍵-ключ", "a#b~c", "a,b+c%d^e=f/g._"):
        assert reply(plain) == plain
    assert reply("k8s-kek ") == "k8s-kek\\ "
    assert reply("#x") == "\\#x"
    assert reply("~x") == "\\~x"
    assert reply("a$b'c") == "a\\$b\\'c"


def _spoil(message: Message) -> None:
    """Put EVIL behind every string of a message."""
    for field in message.DESCRIPTOR.fields:
        value: Any = getattr(message, field.name)
        if field.type == FieldDescriptor.TYPE_STRING:
            if field.is_repeated:
                value[:] = [each + EVIL for each in value]
            elif not field.name.endswith("page_token"):
                setattr(message, field.name, value + EVIL)
        elif field.type == FieldDescriptor.TYPE_MESSAGE:
            for each in value if field.is_repeated else [value] if message.HasField(field.name) else []:
                _spoil(each)


@pytest.mark.parametrize("form", ["table", "wide", "json", "yaml", "name"])
@pytest.mark.parametrize(
    "command",
    [
        "status",
        "health",
        "targets",
        "keys list",
        "slots",
        "mechanisms",
        "doctor",
        "config view",
        "stats",
        "requests",
        "audit tail",
        "audit verify",
        "audit acknowledge --dry-run",
        "inspect",
        "version",
    ],
)
def test_whatever_a_peer_answers_a_terminal_gets_printable_text(
    run: Run, canned: Canned, command: str, form: str
) -> None:
    canned.status = answers.two_tokens()
    parts = [canned.status, canned.config, canned.frame, canned.verdict, canned.diagnosis, canned.inspection]
    for each in [
        *parts,
        *canned.keys,
        *canned.slots,
        *canned.mechanisms,
        *canned.calls,
        *canned.audit,
        *canned.tampering,
    ]:
        _spoil(each)
    result = run(*command.split(), "-o", form, stdin=b"x")
    text = result.text + result.err
    assert {each for each in text if unicodedata.category(each)[0] == "C"} <= {"\n"}
    assert "\u2028" not in text
    assert "evil" in text or form == "name" or result.code == 2 or command == "version"
