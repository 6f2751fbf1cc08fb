"""The configuration file of kmsctl and kmstui: what it may say, and what is said of one that is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from kmsd.client import clientconfig
from kmsd.client.clientconfig import MAX_BYTES, MOST_TARGETS, ClientConfig, Target, Thresholds
from kmsd.client.places import TlsOptions, TlsPlace
from kmsd.client.targets import parse_target
from kmstui import arguments
from tests.ctl.canned import Canned
from tests.ctl.conftest import Run

Write = Callable[[str | bytes], Path]


@pytest.fixture
def write(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Makes a configuration file, and KMSCTL_CONFIG name it."""

    def make(text: str | bytes) -> Path:
        path = directory / "config.toml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        monkeypatch.setenv("KMSCTL_CONFIG", str(path))
        clientconfig._load.cache_clear()
        return path

    return make


def test_a_whole_file_is_read(write: Write) -> None:
    path = write(
        """\ufeffoutput = "wide"
[[targets]]
name = "cp-1"
address = "unix:///run/kmsd-admin/admin.sock"
[[targets]]
name = "cp-2"
address = "/run/cp-2.sock"
[[targets]]
name = "keys-1"
address = "tls://[::1]:31400"
tls_certificate = "tls/o.crt"
tls_key = "/keys/o.key"
tls_server_name = "keys-1.test"
[thresholds]
p99 = "5ms"
errors = "1%"
gcm_budget = "50%"
[tls]
ca = "~/ca.crt"
"""
    )
    own = TlsOptions("", str(path.parent / "tls/o.crt"), "/keys/o.key", "keys-1.test")
    targets = (
        Target("cp-1", "unix:///run/kmsd-admin/admin.sock"),
        Target("cp-2", "/run/cp-2.sock"),
        Target("keys-1", "tls://[::1]:31400", own),
    )
    every = TlsOptions(str(Path("~/ca.crt").expanduser()))
    assert clientconfig.load() == ClientConfig(path, "wide", targets, Thresholds(0.005, 0.01, 0.5), every)
    assert parse_target("keys-1") == TlsPlace("::1", 31400, own.over(every))
    assert parse_target("tls://h:1") == TlsPlace("h", 1, every)


def test_without_a_file_there_are_the_defaults(monkeypatch: pytest.MonkeyPatch, directory: Path) -> None:
    monkeypatch.delenv("KMSCTL_CONFIG")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(directory))
    assert clientconfig.config_path() == directory / "kmsctl" / "config.toml"
    assert clientconfig.load() == ClientConfig()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("outptu = 'wide'", "there is no key 'outptu'|did you mean output?"),
        ("output = 'xml'", 'output must be one of "table", "wide", "json", "yaml", "name", got \'xml\''),
        ("output = 3", ", got 3"),
        ("targets = 'x'", "targets must be tables, each headed [[targets]], got 'x'"),
        ("[targets]\nname = 'x'", "targets must be tables, each headed [[targets]], got {'name': 'x'}"),
        (
            "[[targets]]\nname = 'a'",
            "every target has a name and an address, got nothing",
        ),
        (
            "[[targets]]\nname = 'a'\nadress = '/x'",
            "no key 'targets[1].adress'|did you mean targets[1].address?",
        ),
        ("[[targets]]\nname = 'a/b'\naddress = '/x'", "targets[1].name must be 1 to 63 printable characters|got 'a/b'"),
        ("[[targets]]\nname = 'a b'\naddress = '/x'", "got 'a b'"),
        ("[[targets]]\nname = '-a'\naddress = '/x'", "got '-a'"),
        ("[[targets]]\nname = 'a\u202e'\naddress = '/x'", "targets[1].name must be"),
        (f"[[targets]]\nname = '{'a' * 64}'\naddress = '/x'", "targets[1].name must be"),
        (
            "[[targets]]\nname = 'a'\naddress = 'cp-1'",
            "address must be the path of kmsd's admin socket|got 'cp-1'",
        ),
        ("[[targets]]\nname = 'a'\naddress = 'tcp://h:1'", "got 'tcp://h:1'"),
        ("[[targets]]\nname = 'a'\naddress = 'tls://h'", "or tls://host:port, got 'tls://h'"),
        (
            "[[targets]]\nname = 'a'\naddress = '/x'\ntls_ca = '/ca.crt'",
            "targets[1].address must be tls://host:port where the target has a file for TLS, got '/x'",
        ),
        (
            "[[targets]]\nname = 'a'\naddress = 'tls://h:1'\ntls_certficate = '/c'",
            "no key 'targets[1].tls_certficate'|did you mean targets[1].tls_certificate?",
        ),
        (
            "[[targets]]\nname = 'a'\naddress = 'tls://h:1'\ntls_key = ''",
            "targets[1].tls_key must be the path of a PEM file, got ''",
        ),
        ("tls = 'x'", "tls must be a table, headed [tls], got 'x'"),
        ("[tls]\ncert = 'x'", "there is no key 'tls.cert'"),
        ("[tls]\nserver_name = 'a b'", "tls.server_name must be the name that the other side's certificate has"),
        (
            "[[targets]]\nname='a'\naddress='/x'\n" * 2,
            "targets[2].name must be a name that no other target has, got 'a'",
        ),
        ("[[targets]]\n" * (MOST_TARGETS + 1), f"targets must be {MOST_TARGETS} at most, got {MOST_TARGETS + 1}"),
        ("[thresholds]\np99 = 5", 'thresholds.p99 must be a duration in quotes, as "5ms" or "1s", at most 24h, got 5'),
        ("[thresholds]\np99 = '5 parsecs'", "got '5 parsecs'"),
        (
            "[thresholds]\nerrors = '101%'",
            "must be a share in quotes, as \"1%\", from 0% to 100%, got '101%'",
        ),
        ("[thresholds]\ngcm_budget = 0.5", "thresholds.gcm_budget must be a share in quotes"),
        ("[thresholds]\np98 = '1s'", "there is no key 'thresholds.p98'|did you mean thresholds.p99?"),
        ("thresholds = 1", "thresholds must be a table, headed [thresholds], got 1"),
        ("x", "not TOML: "),
        (b"\xff\xfe", "must be UTF-8, and is not"),
        ("#" * (MAX_BYTES + 1), "must have 256 KiB at most"),
    ],
)
def test_a_bad_file_is_2_and_names_file_key_what_is_allowed_and_what_was_given(
    run: Run, canned: Canned, write: Write, text: str | bytes, said: str
) -> None:
    path = write(text)
    result = run("status")
    assert (result.code, result.out) == (2, b"")
    assert str(path).rpartition("/")[2] in result.err
    for part in said.split("|"):
        assert part in result.err


def test_a_file_that_is_named_must_be_there(run: Run, monkeypatch: pytest.MonkeyPatch, directory: Path) -> None:
    monkeypatch.setenv("KMSCTL_CONFIG", f"{directory}/none.toml")
    result = run("status")
    assert result.code == 2
    assert "DIR/none.toml: there is no such file" in result.err
    assert "KMSCTL_CONFIG" in result.err


def test_a_target_is_reached_by_its_name(run: Run, canned: Canned, write: Write, directory: Path) -> None:
    write(f"[[targets]]\nname = 'cp-1'\naddress = '{directory}/admin.sock'\n")
    assert run("--target", "cp-1", "status", "-o", "name").text == "serving\n"
    assert run("status", "--target", "cp-1", "-o", "name").text == "serving\n"
    wrong = run("--target", "cp-2", "status")
    assert wrong.code == 2
    assert "no target is named 'cp-2' in DIR/config.toml\nhint: did you mean 'cp-1'? Its targets: cp-1\n" in wrong.err


def test_kmstui_takes_a_name_and_refuses_an_unknown_one(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    write("[[targets]]\nname = 'cp-1'\naddress = '/run/x.sock'\n")
    assert arguments.parse(["--target", "cp-1"]).targets == ("cp-1",)
    with pytest.raises(SystemExit, match="2"):
        arguments.parse(["--target", "cp-9"])
    assert "no target is named 'cp-9'" in capsys.readouterr().err


def test_the_usual_format_is_typed_else_in_the_environment_else_in_the_file(
    run: Run, canned: Canned, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("output = 'json'")
    assert json.loads(run("status").text)["state"] == "serving"
    monkeypatch.setenv("KMSCTL_OUTPUT", "name")
    assert run("status").text == "serving\n"
    assert run("status", "-o", "table").text.startswith("STATE")
    assert run("-o", "table", "status").text.startswith("STATE")


def test_a_command_without_the_usual_format_writes_its_own_and_refuses_only_a_typed_one(
    run: Run, canned: Canned, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KMSCTL_OUTPUT", "name")
    assert run("health").text == "ok\n"
    refused = run("health", "-o", "name")
    assert (refused.code, refused.out) == (2, b"")


def test_the_usual_format_is_one_that_there_is(run: Run, canned: Canned, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KMSCTL_OUTPUT", "xml")
    result = run("status")
    assert result.code == 2
    assert "KMSCTL_OUTPUT must be one of table, wide, json, yaml, name, got 'xml'" in result.err


def test_help_needs_no_file(run: Run, write: Write) -> None:
    write("this is no TOML")
    assert run("--help").code == 0
    assert run("keys", "list", "--help").code == 0
