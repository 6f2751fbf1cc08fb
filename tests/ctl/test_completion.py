"""Completion: what is offered, how fast, and that real shells put it into the command line as it should stand."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmsctl import shells
from kmsctl.app import program
from kmsctl.completion import LIVE_SECONDS, Word, complete
from tests import forkserver
from tests.ctl.answers import OLD_ID, WRITE_ID, two_tokens
from tests.ctl.canned import Canned, Failure
from tests.ctl.conftest import Run
from tests.ctl.terminal import Terminal

ROOT = program()
BREAKS = " \t\n\"'@><=;|&(:"
"""COMP_WORDBREAKS as bash has it."""


def offered(line: str) -> list[str]:
    return [each.text for each in complete(ROOT, shells.split(line)[0])]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("kmsctl he", ["health", "help"]),
        ("kmsctl -o json he", ["health", "help"]),
        ("kmsctl --target /x he", ["health", "help"]),
        ("kmsctl keys re", ["relabel", "retire", "revert"]),
        ("kmsctl help ex", ["exit-codes"]),
        ("kmsctl help ke", ["keys", "keygen"]),
        ("kmsctl help keys re", ["relabel", "retire", "revert"]),
        ("kmsctl help keys list ", []),
        ("kmsctl k8s manifest ", ["standalone", "proxy", "key-manager", "encryption-config"]),
        ("kmsctl k8s manifest encryption-config --api ", ["v2", "v1"]),
        ("kmsctl k8s check --mani", ["--manifest"]),
        ("kmsctl k8s apply-patch ", ["\tFILES"]),
        ("kmsctl help k8s man", ["manifest"]),
        ("kmsctl health -o ", ["table", "json", "yaml"]),
        ("kmsctl encrypt -o ", ["json", "yaml"]),
        ("kmsctl completion ", ["bash", "zsh", "fish"]),
        ("kmsctl keys list -o y", ["yaml"]),
        ("kmsctl keys list --output=y", ["--output=yaml"]),
        ("kmsctl --output=y", ["--output=yaml"]),
        ("kmsctl keygen x --type r", ["rsa", "rsa-2048", "rsa-3072", "rsa-4096"]),
        ("kmsctl keygen x --purpose ", ["jwt"]),
        ("kmsctl jwt re", ["revert", "retire"]),
        ("kmsctl requests --code UN", ["UNKNOWN", "UNIMPLEMENTED", "UNAVAILABLE", "UNAUTHENTICATED"]),
        (
            "kmsctl audit tail --method=De",
            ["--method=Decrypt", "--method=DestroyKey", "--method=DecideEnrolmentRequest"],
        ),
        ("kmsctl log-level ", ["debug", "info", "warning", "error", "configured"]),
        ("kmsctl inspect ", ["\tFILES"]),
        ("kmsctl encrypt x --out some", ["\tFILES"]),
        ("kmsctl audit verify a b ", ["\tFILES"]),
        ("kmsctl health --wa", ["--wait"]),
        ("kmsctl nonsense x ", []),
        ("kmsctl keys list --nonsense=", []),
        ("kmsctl keys show -- --x", []),
        ("kmsctl nonsense", []),
    ],
)
def test_commands_options_and_choices_need_no_kmsd(line: str, words: list[str]) -> None:
    assert offered(line) == words


def test_names_of_targets_are_offered_from_the_configuration_file(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert offered("kmsctl --target ") == ["\tFILES"]
    (directory / "config.toml").write_text("[[targets]]\nname = 'cp-1'\naddress = '/run/x.sock'\n")
    monkeypatch.setenv("KMSCTL_CONFIG", f"{directory}/config.toml")
    assert offered("kmsctl --target ") == offered("kmsctl status --target c") == ["cp-1"]
    assert offered("kmsctl --target=c") == ["--target=cp-1"]


def test_every_option_of_every_command_is_offered() -> None:
    for name, command in ROOT.commands.items():
        shown = [each for each in command.params if not getattr(each, "hidden", False)]
        wanted = {opt for each in shown for opt in each.opts if opt.startswith("--")}
        assert set(offered(f"kmsctl {name} -")) == wanted | {"--help"}


def test_a_running_kmsd_offers_labels_ids_and_tokens(canned: Canned) -> None:
    canned.status = two_tokens()
    labels = ["k8s-kek", "k8s-kek@2022-01-01T00:00:00Z", "鍵-ключ", "k8s-kek@2021-01-01T00:00:00Z.retired"]
    assert offered("kmsctl keys show ") == labels
    assert offered("kmsctl requests --key ") == offered("kmsctl audit tail -f --key ") == labels
    assert offered("kmsctl keys show 018") == [WRITE_ID, "018539a4-6a00-7000-8000-000000000001"]
    assert offered("kmsctl keys relabel 0x") == [OLD_ID]
    trusted = "VHJ1c3RlZEVHJ1c3RlZEVHJ1c3RlZEVHJ1c3RlZE-_8"
    assert offered("kmsctl jwt show ") == ["sa-signer", "sa-signer@20220101T000000Z", trusted]
    assert offered("kmsctl jwt untrust V") == [trusted]
    assert offered("kmsctl keys relabel k8s-kek ") == []  # a new label is nobody's to offer
    assert offered("kmsctl mechanisms ") == offered("kmsctl unlock ") == ["main", "old"]
    assert offered("kmsctl keygen x --token o") == ["old"]
    assert offered("kmsctl keys destroy k8s-kek --confirm k8s-kek@") == [
        "k8s-kek@2022-01-01T00:00:00Z",
        "k8s-kek@2021-01-01T00:00:00Z.retired",
    ]


def test_labels_that_a_terminal_should_not_meet_are_not_offered(canned: Canned) -> None:
    assert not any("evil" in word for word in offered("kmsctl keys show "))


def test_the_target_of_the_command_line_is_asked(
    canned: Canned, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KMSCTL_TARGET", str(directory / "nobody.sock"))
    assert offered("kmsctl keys show ") == []
    for line in (f"--target {canned.admin} keys show", f"keys show --target={canned.admin}"):
        assert "k8s-kek" in offered(f"kmsctl {line} ")


@pytest.mark.parametrize("trouble", ["no socket", "nobody listens", "no answer", "refused", "nonsense", "not a target"])
def test_a_kmsd_in_trouble_costs_little_and_says_nothing(
    spawn: Run, directory: Path, trouble: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        match trouble:
            case "nobody listens" | "no answer":
                sock.bind(str(directory / "admin.sock"))
                if trouble == "no answer":
                    sock.listen()
            case "refused":
                canned = request.getfixturevalue("canned")
                canned.failures = {"ListKeys": Failure(grpc.StatusCode.PERMISSION_DENIED, "no")}
            case "nonsense":
                (directory / "admin.sock").write_text("a file")
            case "not a target":
                monkeypatch.setenv("KMSCTL_TARGET", "tcp://x")
        result = spawn("__complete", "zsh", "kmsctl", "keys", "show", "k")
    assert (result.code, result.out, result.err) == (0, b"", "")


def test_asking_is_bounded_in_time(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float | None] = []

    class Thread:
        def __init__(self, **_: object) -> None: ...
        def start(self) -> None: ...
        def is_alive(self) -> bool:
            return True

        def join(self, timeout: float | None = None) -> None:
            waited.append(timeout)

    monkeypatch.setattr("kmsctl.completion.threading.Thread", Thread)
    assert offered("kmsctl keys show ") == []
    assert waited == [LIVE_SECONDS]
    assert LIVE_SECONDS == 0.3


def test_a_kmsd_that_hangs_does_not_hang_the_shell(directory: Path) -> None:
    with socket.socket(socket.AF_UNIX) as hung:
        hung.bind(str(directory / "admin.sock"))
        hung.listen()
        started = time.monotonic()
        done = forkserver.run(
            [sys.executable, "-m", "kmsctl", "__complete", "zsh", "kmsctl", "keys", "show", ""],
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert time.monotonic() - started < 10  # the calls' own patience, far above ours
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


@pytest.mark.parametrize("arguments", [[], ["bash"], ["bash", "kmsctl"], ["tcsh"], ["zsh"]])
def test_an_odd_script_gets_an_answer_and_no_trouble(spawn: Run, arguments: list[str]) -> None:
    result = spawn("__complete", *arguments)
    assert (result.code, result.err) == (0, "")


@pytest.mark.parametrize(
    ("line", "words", "typed", "quoted"),
    [
        ("kmsctl", ["kmsctl"], "kmsctl", False),
        ("kmsctl ", ["kmsctl", ""], "", False),
        ('kmsctl  a\\ b \'c d\' "e\\"f" g', ["kmsctl", "a b", "c d", 'e"f', "g"], "g", False),
        ("kmsctl 'a b", ["kmsctl", "a b"], "'a b", True),
        ('kmsctl "a', ["kmsctl", "a"], '"a', True),
        ("kmsctl a\\", ["kmsctl", "a"], "a\\", False),
    ],
)
def test_a_line_of_bash_is_split_as_bash_does(line: str, words: list[str], typed: str, quoted: bool) -> None:
    assert shells.split(line) == (words, typed, quoted)


@given(st.text(alphabet="ab \t'\"\\$", max_size=30))
def test_any_line_is_split(line: str) -> None:
    words, typed, _ = shells.split(line)
    assert words
    assert line.endswith(typed)


@pytest.mark.parametrize(
    ("label", "typed", "reply"),
    [
        ("k8s-kek", "k", "k8s-kek"),
        ("k8s-kek@2022-01-01T00:00:00Z", "k8s", "k8s-kek@2022-01-01T00:00:00Z"),
        ("k8s-kek@2022-01-01T00:00:00Z", "k8s-kek@20", "@2022-01-01T00:00:00Z"),
        ("k8s-kek@2022-01-01T00:00:00Z", "k8s-kek@2022-01-01T00:", "00:00Z"),
        ("--type=pair", "--type=p", "pair"),
        ("a b", "a", "a\\ b"),
        ("$(reboot)", "", "\\$\\(reboot\\)"),
        ("a;b`c`", "a", "a\\;b\\`c\\`"),
    ],
)
def test_bash_replaces_what_stands_behind_a_break(label: str, typed: str, reply: str) -> None:
    assert shells.bash_replies([Word(label)], typed, quoted=False, breaks=BREAKS) == [reply]


@given(st.text(alphabet=st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=20))
def test_no_label_does_anything_in_bash_but_stand_there(label: str) -> None:
    (reply,) = shells.bash_replies([Word(label)], "", quoted=False, breaks=BREAKS)
    done = subprocess.run(["bash", "--norc", "-c", f"printf %s {reply}"], capture_output=True, check=True, timeout=60)
    assert done.stdout.decode() == label


def test_inside_quotes_only_harmless_labels_are_offered() -> None:
    words = [Word("plain@x"), Word('a"b'), Word("a b")]
    assert shells.bash_replies(words, '"', quoted=True, breaks=BREAKS) == ["plain@x"]


SHELLS = {
    "bash": (("bash", "--norc", "--noprofile", "-i"), 'eval "$(kmsctl completion bash)"'),
    "zsh": (("zsh", "-f", "-i"), 'autoload -Uz compinit; compinit -u -D; eval "$(kmsctl completion zsh)"'),
    "fish": (("fish", "--no-config", "-i"), "kmsctl completion fish | source"),
}


@pytest.mark.parametrize("shell", SHELLS)
def test_a_real_shell_completes_commands_and_labels(
    canned: Canned, open_terminal: Callable[..., Terminal], shell: str, directory: Path
) -> None:
    command, setup = SHELLS[shell]
    canned.keys = [key for key in canned.keys if "retired" not in key.label]
    terminal = open_terminal(*command, columns=160, PS1="READY$ ", HOME=str(directory))
    terminal.type(setup + "; echo SET''UP")
    terminal.press("Enter")
    terminal.shows("SETUP")
    terminal.type("kmsctl keys sh")
    terminal.completes("kmsctl keys show ")
    terminal.type("k8s-kek@")
    terminal.completes("kmsctl keys show k8s-kek@2022-01-01T00:00:00Z")
    terminal.type(" -o name; echo D''ONE")
    terminal.press("Enter")
    assert "\nk8s-kek@2022-01-01T00:00:00Z\n" in terminal.shows("DONE")
    (directory / "some-file").touch()
    terminal.type(f"kmsctl inspect {directory}/some")
    terminal.completes(f"kmsctl inspect {directory}/some-file")


def test_the_scripts_are_what_the_command_prints(run: Run) -> None:
    for shell, script in (("bash", shells.BASH), ("zsh", shells.ZSH), ("fish", shells.FISH)):
        assert run("completion", shell).text == script


def test_completing_a_command_loads_no_grpc() -> None:
    program = (
        "import sys; from kmsctl.app import main; main(['__complete', 'zsh', 'kmsctl', 'ke']); print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60, env={**os.environ}
    )
    assert "keygen" in done.stdout
    assert not set(done.stdout.split()) & {"grpc", "google.protobuf", "textual", "rich", "yaml"}
