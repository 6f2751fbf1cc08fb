"""The command line of kmsd, and that the ancestor's command lines carry over."""

from __future__ import annotations

import getpass
import io
import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from kmsd import __version__, cli, daemon, paths
from kmsd.config import pins, sources
from kmsd.config.values import LEAVES
from tests.daemons import KMSD, Kmsd, wait_for
from tests.tokens import MODULE, PIN, SoftToken, clean_environment

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def _nothing_configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in set(os.environ) - set(clean_environment()):
        monkeypatch.delenv(name)
    monkeypatch.setattr(paths, "config_files", lambda: (tmp_path / "etc.toml", tmp_path / "user.toml"))
    monkeypatch.setattr(sys, "stdin", io.StringIO())


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs one command line in this process. Returns exit code, stdout, stderr."""

    def run(*argv: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stopped:
            cli.main(argv)
        out, err = capsys.readouterr()
        code = stopped.value.code
        assert isinstance(code, int | None)
        return code or 0, out, err

    return run


def kmsd(*argv: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs one command line as a person does."""
    return subprocess.run(
        [KMSD, *argv],
        env={**clean_environment(), **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def table(out: str) -> dict[str, tuple[object, str]]:
    """What check-config prints: setting -> (value, where from). Fails if it is not TOML, or not aligned."""
    head, *lines = out.splitlines()
    assert head.startswith("# configuration file: ")
    columns = {line.rindex("   # ") for line in lines}
    assert len(columns) == 1
    shown: dict[str, tuple[object, str]] = {}
    for line in lines:
        text, where = line[: columns.copy().pop()].rstrip(), line.rpartition("   # ")[2]
        if text.startswith("# "):
            shown[text.removeprefix("# ").removesuffix(" is not set")] = (None, where)
        else:
            ((section, body),) = tomllib.loads(text).items()
            ((name, value),) = body.items()
            shown[f"{section}.{name}"] = (value, where)
    assert list(shown) == list(LEAVES)
    return shown


@pytest.mark.processes
def test_check_config_shows_every_value_with_its_origin() -> None:
    # The one test that meets the defaults of this machine: as a child process, with files of its own.
    done = kmsd("check-config", "--config=/dev/null", "--provider=softhsm")
    assert (done.returncode, done.stderr) == (0, "")
    shown = table(done.stdout)
    assert shown["keys.label"] == ("k8s-kek", "default")
    assert shown["token.provider"] == ("softhsm", "--provider")
    assert shown["token.slot"] == (None, "default")


@pytest.mark.processes
def test_check_config_names_file_and_line_variable_and_flag(tmp_path: Path) -> None:
    file = tmp_path / "kmsd.toml"
    file.write_text('[keys]\n# comment\nlabel = "from-file"\nrefresh = 2\n[token]\nprovider = "softhsm"\n')
    done = kmsd("check-config", f"--config={file}", "--log-level=debug", KMSD_KEYS__REFRESH="3", P11_TOKEN="t")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0] == f"# configuration file: {file}"
    shown = table(done.stdout)
    assert shown["keys.label"] == ("from-file", f"{file}:3")
    assert shown["keys.refresh"] == (3.0, "KMSD_KEYS__REFRESH")
    assert shown["token.label"] == ("t", "P11_TOKEN")
    assert shown["log.level"] == ("debug", "--log-level")


def test_what_check_config_prints_is_a_configuration(run: Run, tmp_path: Path) -> None:
    odd = '--p11-label=a "quoted" \\ label \x7f # é'
    code, out, _ = run("check-config", odd, "--p11-slot=3", "--provider=softhsm", "--no-auto-create")
    assert code == 0
    file = tmp_path / "again.toml"
    file.write_text(out)
    code, again, _ = run("check-config", f"--config={file}")
    assert code == 0
    assert {key: value for key, (value, _) in table(again).items()} == {
        key: value for key, (value, _) in table(out).items()
    }
    assert table(out)["token.label"][0] == odd.partition("=")[2]


@pytest.mark.processes
def test_check_config_refuses_a_bad_file_with_exit_2_and_prints_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "kmsd.toml"
    file.write_text('[keys]\nrefresh = "soon"\nlable = "x"\n[token]\npin = 123456\n')
    done = kmsd("check-config", "--config", str(file))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        f'kmsd: error: {file}:2: keys.refresh: expected a number from 0.1 to 3600, found "soon"',
        f"kmsd: error: {file}:3: keys.lable: unknown key; did you mean keys.label?",
        f"kmsd: error: {file}:5: token.pin: expected the PIN as a string in quotes, found a number without quotes",
        'hint: put the PIN in quotes (pin = "..."), or better in a file that token.pin_file names',
    ]


@pytest.mark.parametrize("command", ["serve", "check-config"])
def test_a_named_file_that_is_not_there_is_exit_2(run: Run, command: str, tmp_path: Path) -> None:
    code, out, err = run(command, f"--config={tmp_path}/absent.toml")
    assert (code, out) == (2, "")
    assert err == (f"kmsd: error: {tmp_path}/absent.toml: no such file\nhint: --config must name a file that exists\n")


# --- flags

FLAGS: list[tuple[list[str], str, object, str]] = [
    (["--socket", "/s/kms.sock"], "kms.socket", "/s/kms.sock", "--socket"),
    (["--admin-socket=/s/admin.sock"], "admin.socket", "/s/admin.sock", "--admin-socket"),
    (["--admin-group", "wheel"], "admin.group", "wheel", "--admin-group"),
    (["--state-dir", "/d"], "state.dir", "/d", "--state-dir"),
    (["--log-format", "json"], "log.format", "json", "--log-format"),
    (["--log-level", "warning"], "log.level", "warning", "--log-level"),
    (["--provider", "softhsm"], "token.provider", "softhsm", "--provider"),
    (["--p11-lib", "/lib/p11.so"], "token.module", "/lib/p11.so", "--p11-lib"),
    (["--p11-label", "mylabel"], "token.label", "mylabel", "--p11-label"),
    (["--p11-slot", "7"], "token.slot", 7, "--p11-slot"),
    (["--p11-pin", PIN], "token.pin", "<redacted>", "--p11-pin"),
    (["--p11-pin-file", "/run/pin"], "token.pin_file", "/run/pin", "--p11-pin-file"),
    (["--p11-key-label", "aes0"], "keys.label", "aes0", "--p11-key-label"),
    (["--p11-hmac-label", "hmac0"], "keys.hmac_label", "hmac0", "--p11-hmac-label"),
    (["--algorithm", "aes-gcm"], "keys.algorithm", "aes-gcm", "--algorithm"),
    (["--auto-create"], "keys.auto_create", True, "--auto-create"),
    (["--auto-create=true"], "keys.auto_create", True, "--auto-create"),
    (["--auto-create=1"], "keys.auto_create", True, "--auto-create"),
    (["--no-auto-create"], "keys.auto_create", False, "--no-auto-create"),
    (["--auto-create=false"], "keys.auto_create", False, "--no-auto-create"),
    (["--auto-create", "--auto-create=F"], "keys.auto_create", False, "--no-auto-create"),
    (["--p11-slot=1", "--p11-slot=2"], "token.slot", 2, "--p11-slot"),
    (["--enable-server"], "server.enabled", True, "--enable-server"),
    (["--enable-server", "--enable-server=false"], "server.enabled", False, "--no-enable-server"),
    (["--host", "::1"], "server.host", "::1", "--host"),
    (["--port=31401"], "server.port", 31401, "--port"),
    (["--tls-ca", "certs/ca.crt"], "server.tls_ca", "certs/ca.crt", "--tls-ca"),
    (["--tls-certificate", "/c/tls.crt"], "server.tls_certificate", "/c/tls.crt", "--tls-certificate"),
    (["--tls-key", "/c/tls.key"], "server.tls_key", "/c/tls.key", "--tls-key"),
    (["--tls-revoked", "/c/revoked.pem"], "server.tls_revoked", "/c/revoked.pem", "--tls-revoked"),
    (["--output", "text"], "log.format", "console", "--output"),
    (["--output=json"], "log.format", "json", "--output"),
    (["--output=text", "--log-format=json"], "log.format", "json", "--log-format"),
    (["--debug"], "log.level", "debug", "--debug"),
    (["--debug=true", "--log-level=error"], "log.level", "error", "--log-level"),
]


@pytest.mark.parametrize(("argv", "key", "value", "where"), FLAGS, ids=lambda each: str(each))
@pytest.mark.parametrize("before", [False, True], ids=["after", "before"])
def test_every_flag_sets_its_setting_before_and_after_the_command(
    run: Run, argv: list[str], key: str, value: object, where: str, before: bool
) -> None:
    code, out, _ = run(*argv, "check-config") if before else run("check-config", *argv)
    assert code == 0
    changed = {name: each for name, each in table(out).items() if each[1] != "default"}
    assert changed == {key: (value, where)}


def test_every_flag_that_sets_something_is_in_this_file() -> None:
    tried = {argv[0].partition("=")[0] for argv, *_ in FLAGS}
    assert {flag.name for flag in cli.FLAGS if flag.key} <= tried
    assert all(flag.key in LEAVES for flag in cli.FLAGS if flag.key)


def test_a_flag_after_the_command_beats_the_same_one_before(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    served = record_serve(monkeypatch)
    run("--p11-label=before", "serve", "--p11-label=after")
    assert served[0][0].settings.token.label == "after"
    _, out, _ = run("--p11-label=before", "--auto-create", "check-config", "--p11-label=after")
    assert table(out)["token.label"] == ("after", "--p11-label")
    assert table(out)["keys.auto_create"] == (True, "--auto-create")


def test_config_may_stand_before_the_command(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "kmsd.toml"
    file.write_text('keys.label = "x"')
    assert table(run("--config", str(file), "check-config")[1])["keys.label"] == ("x", f"{file}:1")


@pytest.mark.parametrize(
    "argv", [["--disable-socket"], ["--disable-socket=true"], ["--enable-server", "--disable-socket"]]
)
@pytest.mark.parametrize("command", ["serve", "check-config"])
def test_a_kmsd_that_nothing_could_call_is_refused(run: Run, command: str, argv: list[str]) -> None:
    for line in ([command, *argv], [*argv, command]):
        code, out, err = run(*line)
        assert (code, out) == (2, "")
        assert err.splitlines() == [
            "kmsd: error: --disable-socket is not taken: kmsd always serves its Unix sockets, where kmsctl reaches it",
            "hint: drop --disable-socket; --enable-server serves callers from other machines besides",
        ]


@pytest.mark.parametrize(
    "argv",
    [["--disable-socket=false"], ["--disable-socket", "--disable-socket=false"], ["--allow-any=false"], ["--debug=0"]],
    ids=lambda argv: argv[-1],
)
def test_a_switch_that_is_off_changes_nothing(run: Run, argv: list[str]) -> None:
    code, out, err = run("check-config", "--provider=softhsm", *argv)
    assert (code, err) == (0, "")
    assert {key for key, (_, where) in table(out).items() if where != "default"} == {"token.provider"}


@pytest.mark.parametrize(
    "argv",
    [["--allow-any"], ["--kek-id", "a"], ["--ca-id=a"], ["--native-path=.keys"], ["-p", ".keys"]],
    ids=lambda argv: argv[0],
)
def test_a_flag_that_does_nothing_in_the_ancestor_is_taken_with_a_warning(
    run: Run, monkeypatch: pytest.MonkeyPatch, argv: list[str]
) -> None:
    name = "--native-path" if argv[0] == "-p" else argv[0].partition("=")[0]
    says = f"{name} does nothing in k8s-kms-plugin serve, and nothing here"
    served = record_serve(monkeypatch)
    for line in (["check-config", *argv], [*argv, "check-config"]):
        code, out, err = run(*line, "--provider=softhsm")
        assert code == 0
        assert err.startswith(f"kmsd: warning: {says}")
        assert {key for key, (_, where) in table(out).items() if where != "default"} == {"token.provider"}
    run("serve", *argv)
    assert [warning.startswith(says) for warning in served[0][0].warnings] == [True]


def test_check_config_names_what_keeps_tcp_from_being_served(run: Run) -> None:
    code, _, err = run("check-config", "--provider=softhsm", "--enable-server", "--tls-key=/absent/tls.key")
    assert code == 0
    assert err.splitlines() == [
        "kmsd: warning: nothing listens on TCP, though --enable-server (server.enabled) asks for it: --tls-ca is not "
        "given; --tls-certificate is not given; --tls-key names /absent/tls.key: no such file or directory"
    ]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--p11-slot=one"], '--p11-slot: expected a whole number from 0 up, found "one"'),
        (["--p11-slot=-1"], "--p11-slot: expected a whole number from 0 up, found -1"),
        (["--algorithm=aes-ctr"],
         '--algorithm: expected "auto" or "aes-gcm" or "aes-cbc" or "rsa-oaep", found "aes-ctr"'),
        (["--provider=native"],
         '--provider: expected "auto" or "p11" or "softhsm" or "tpm2" or "p11-kit" or "luna" or "dpod" or '
         '"cloudhsm" or "opencryptoki" or "generic", found "native"'),
        (["--socket=kms.sock"], '--socket: the path of a socket must be absolute, found "kms.sock"'),
        (
            ["--log-level=loud"],
            '--log-level: expected "debug" or "info" or "warning" or "error", found "loud"',
        ),
        (["--auto-create=maybe"], "--auto-create: expected true or false after the =, found 'maybe'"),
        (["--enable-server=maybe"], "--enable-server: expected true or false after the =, found 'maybe'"),
        (["--output=yaml"], '--output: expected "text" or "json", found "yaml"'),
        (["--port=0"], "--port: expected a whole number from 1 to 65535, found 0"),
        (["--port=65536"], "--port: expected a whole number from 1 to 65535, found 65536"),
        (["--host="], '--host: a host must be a name or an IP address, without brackets and without a port, found ""'),
        (["--host=[::1]:3"],
         '--host: a host must be a name or an IP address, without brackets and without a port, found "[::1]:3"'),
        (["--p11-pim=9182"], "no such option: --p11-pim (Possible options: --p11-lib, --p11-pin, "
         "--p11-pin-file)"),
        (["--p11-pin"], "option '--p11-pin' requires an argument"),
        (["--p11-pin", "a", "9182"], "an argument that is not a flag"),
    ],
    ids=lambda each: str(each),
)  # fmt: skip
def test_a_wrong_command_line_is_exit_2_in_words(run: Run, argv: list[str], message: str) -> None:
    code, out, err = run("check-config", *argv)
    assert (code, out) == (2, "")
    assert err.splitlines()[0] == f"kmsd: error: {message}"
    assert "9182" not in err


def test_an_unknown_command_is_told_what_there_is_but_not_repeated(run: Run) -> None:
    code, out, err = run("9182")
    assert (code, out) == (2, "")
    assert err.splitlines() == [
        "kmsd: error: no such command",
        "hint: the commands are serve, check-config, dev, version",
    ]


def test_no_command_shows_the_help_and_is_exit_2(run: Run) -> None:
    code, out, err = run()
    assert (code, out) == (2, "")
    assert "check-config" in err


# --- the ancestor's command lines


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "--provider p11 --p11-lib /usr/lib/softhsm/libsofthsm2.so --p11-key-label mykey "
            "--p11-label mylabel --p11-pin mypin --enable-server",
            {
                "token.provider": "p11",
                "token.module": "/usr/lib/softhsm/libsofthsm2.so",
                "keys.label": "mykey",
                "token.label": "mylabel",
                "token.pin": "<redacted>",
                "server.enabled": True,
            },
        ),
        (
            "--provider p11 --p11-lib /usr/lib64/pkcs11/libtpm2_pkcs11.so --p11-key-label cbc0 --p11-hmac-label hmac0 "
            "--p11-label mylabel --p11-pin mypin --algorithm aes-cbc --enable-server",
            {
                "token.provider": "p11",
                "token.module": "/usr/lib64/pkcs11/libtpm2_pkcs11.so",
                "keys.label": "cbc0",
                "keys.hmac_label": "hmac0",
                "token.label": "mylabel",
                "token.pin": "<redacted>",
                "keys.algorithm": "aes-cbc",
                "server.enabled": True,
            },
        ),
        (
            "--provider p11 --p11-lib /lib/p11.so --p11-label mylabel --p11-pin mypin --p11-key-label cbc0 "
            "--p11-hmac-label hmac0 --algorithm aes-gcm --auto-create --socket /run/kms.sock",
            {
                "token.provider": "p11",
                "token.module": "/lib/p11.so",
                "token.label": "mylabel",
                "token.pin": "<redacted>",
                "keys.label": "cbc0",
                "keys.hmac_label": "hmac0",
                "keys.algorithm": "aes-gcm",
                "keys.auto_create": True,
                "kms.socket": "/run/kms.sock",
            },
        ),
        (
            "--socket /run/user/1000/k8s-kms-plugin.sock --p11-lib /lib/p11.so --p11-label mylabel "
            "--p11-pin mypin --p11-key-label aes0 --enable-server",
            {
                "server.enabled": True,
                "kms.socket": "/run/user/1000/k8s-kms-plugin.sock",
                "token.module": "/lib/p11.so",
                "token.label": "mylabel",
                "token.pin": "<redacted>",
                "keys.label": "aes0",
            },
        ),
    ],
    ids=["readme", "readme-tpm", "hmac", "quickstart"],
)
def test_the_ancestors_command_lines_carry_over(
    line: str, expected: dict[str, object], monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    code, out, err = run("check-config", *line.split())
    assert code == 0
    assert {key: value for key, (value, where) in table(out).items() if where != "default"} == expected
    assert "mypin" not in out + err
    served = record_serve(monkeypatch)
    assert run("serve", *line.split())[0] == 0
    ((loaded, _),) = served
    assert loaded.settings.keys.label == expected["keys.label"]
    assert pins.read_pin(loaded.settings.token) == "mypin"


@pytest.mark.processes
def test_the_ancestors_pod_environment_carries_over() -> None:
    environ = {"P11_LIB": "/lib/p11.so", "P11_TOKEN": "default", "P11_PIN": "changeme", "P11_PIN_FILE": ""}
    done = kmsd("check-config", "--config=/dev/null", **environ)
    shown = table(done.stdout)
    assert shown["token.module"] == ("/lib/p11.so", "P11_LIB")
    assert shown["token.label"] == ("default", "P11_TOKEN")
    assert shown["token.pin"] == ("<redacted>", "P11_PIN")
    assert shown["token.pin_file"] == (None, "default")
    assert "changeme" not in done.stdout + done.stderr


# --- warnings


def test_check_config_warns_on_stderr_and_still_exits_0(run: Run) -> None:
    code, out, err = run("check-config", f"--p11-pin={PIN}", "--p11-pin-file=/absent/pin")
    assert code == 0
    assert err.splitlines() == [
        "kmsd: warning: --p11-pin: others on this machine can read the PIN there: use --p11-pin-file",
        "kmsd: warning: token.pin and token.pin_file are both given: the file is not read",
        "kmsd: warning: token.module is empty: name the PKCS#11 module with --p11-lib, P11_LIB or "
        'token.module, or say --provider softhsm (token.provider = "softhsm")',
    ]
    assert PIN not in out + err


def test_check_config_warns_of_a_module_and_a_pin_file_that_are_not_there(run: Run) -> None:
    code, _, err = run("check-config", "--p11-lib=/absent/p11.so", "--p11-pin-file=/absent/pin")
    assert code == 0
    assert err.splitlines() == [
        "kmsd: warning: token.module: there is no file /absent/p11.so",
        "kmsd: warning: token.pin_file: there is no file /absent/pin",
    ]


def test_check_config_has_nothing_to_warn_of_when_all_is_there(run: Run, tmp_path: Path) -> None:
    pin = tmp_path / "pin"
    pin.touch(mode=0o600)
    code, _, err = run("check-config", f"--p11-lib={MODULE}", f"--p11-pin-file={pin}")
    assert (code, err) == (0, "")


# --- version, lazy imports


@pytest.mark.processes
@pytest.mark.parametrize("argv", [["version"], ["--version"]])
def test_version(argv: list[str]) -> None:
    done = kmsd(*argv)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"kmsd {__version__}\n", "")


@pytest.mark.parametrize("command", ["version", "dev"])
def test_a_flag_that_a_command_has_no_use_for_is_refused(run: Run, command: str) -> None:
    code, out, err = run("--p11-label=x", command)
    assert (code, out) == (2, "")
    assert err.splitlines()[0] == f"kmsd: error: --p11-label is not a flag of {command}"


def test_dev_refuses_a_wrong_level_before_it_makes_anything(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths, "dev_dir", lambda: tmp_path / "dev")
    code, out, err = run("dev", "--log-level=loud")
    assert (code, out) == (2, "")
    assert '--log-level: expected "debug" or "info" or "warning" or "error", found "loud"' in err
    assert not (tmp_path / "dev").exists()


@pytest.mark.processes
@pytest.mark.parametrize(
    "argv",
    [["--help"], ["serve", "--help"], ["check-config", "--config=/dev/null"], ["version"], ["serve", "x"]],
)
def test_only_serving_loads_grpc_and_pkcs11(argv: list[str]) -> None:
    program = (
        "import json, sys\nfrom kmsd import cli\ntry:\n    cli.main(sys.argv[1:])\nfinally:\n"
        "    print(json.dumps(sorted(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *argv],
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    loaded = {name.partition(".")[0] for name in json.loads(done.stderr.splitlines()[-1])}
    assert "typer" in loaded
    assert loaded & {"grpc", "pkcs11", "google", "textual", "uvloop"} == set()


# --- serve

Served = list[tuple[sources.Loaded, Callable[[], sources.Loaded]]]


def record_serve(monkeypatch: pytest.MonkeyPatch, code: int = 0) -> Served:
    """What serve hands over, instead of serving."""
    served: Served = []

    def run(loaded: sources.Loaded, reload: Callable[[], sources.Loaded]) -> int:
        served.append((loaded, reload))
        return code

    monkeypatch.setattr(daemon, "run", run)
    return served


def on_a_terminal(monkeypatch: pytest.MonkeyPatch, typed: str) -> list[str]:
    """Makes stdin a terminal at which `typed` is typed; returns the prompts that were shown."""
    prompts: list[str] = []

    def ask(prompt: str) -> str:
        prompts.append(prompt)
        return typed

    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr(getpass, "getpass", ask)
    return prompts


@pytest.mark.parametrize("code", [0, 1, 2])
def test_serve_exits_as_the_daemon_does(run: Run, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    record_serve(monkeypatch, code)
    assert run("serve") == (code, "", "")


def test_a_reload_reads_the_same_sources_again(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "kmsd.toml"
    file.write_text('keys.label = "one"\nlog.level = "error"')
    served = record_serve(monkeypatch)
    run(f"--config={file}", "serve", "--log-level=debug")
    ((loaded, reload),) = served
    assert (loaded.settings.keys.label, loaded.settings.log.level) == ("one", "debug")
    file.write_text('keys.label = "two"\nlog.level = "error"')
    again = reload()
    assert (again.settings.keys.label, again.settings.log.level) == ("two", "debug")
    file.write_text('keys.lable = "two"')
    with pytest.raises(sources.ConfigError, match=r"did you mean keys\.label"):
        reload()


def test_a_typed_in_pin_survives_a_reload_until_one_is_configured(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "kmsd.toml"
    file.touch()
    served = record_serve(monkeypatch)
    prompts = on_a_terminal(monkeypatch, PIN)
    assert run("serve", f"--config={file}") == (0, "", "")
    assert prompts == ["PIN of the token: "]
    ((loaded, reload),) = served
    assert pins.read_pin(loaded.settings.token) == pins.read_pin(reload().settings.token) == PIN
    assert loaded.origins["token.pin"].where == "typed in"
    assert loaded.warnings == ()
    (tmp_path / "pin").write_text("other")
    file.write_text(f'token.pin_file = "{tmp_path}/pin"')
    assert pins.read_pin(reload().settings.token) == "other"
    assert len(prompts) == 1


@pytest.mark.parametrize("argv", [["--p11-pin=x"], ["--p11-pin-file=/x"]])
def test_a_configured_pin_is_not_asked_for(run: Run, monkeypatch: pytest.MonkeyPatch, argv: list[str]) -> None:
    served = record_serve(monkeypatch)
    prompts = on_a_terminal(monkeypatch, PIN)
    run("serve", *argv)
    assert (len(served), prompts) == (1, [])


def test_without_a_terminal_or_an_answer_serve_goes_on_without_a_pin(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    served = record_serve(monkeypatch)
    run("serve")
    prompts = on_a_terminal(monkeypatch, "")
    run("serve")
    assert len(prompts) == 1
    assert [loaded.settings.token.pin for loaded, _ in served] == [None, None]


def test_serve_goes_on_with_stdin_closed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    served = record_serve(monkeypatch)
    monkeypatch.setattr(sys, "stdin", None)
    run("serve")
    assert len(served) == 1


TERMINAL = "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))"
"""Runs a program on a terminal of its own, whose keyboard is stdin and whose screen is stdout."""


@pytest.mark.processes
def test_on_a_terminal_serve_asks_for_the_pin_unseen_and_stops_on_ctrl_c(short_tmp: Path, token: SoftToken) -> None:
    folder = short_tmp / "d"
    folder.mkdir()
    flags = ["--provider=softhsm", f"--p11-label={token.label}", "--auto-create", "--config=/dev/null"]
    served = Kmsd(folder, token, flags, default_flags=False, command=(sys.executable, "-c", TERMINAL, KMSD, "serve"))
    with (
        served.log_file.open("wb") as screen,
        subprocess.Popen(served.arguments, env=token.environment, stdin=subprocess.PIPE, stdout=screen) as process,
    ):
        served.process = process
        assert process.stdin is not None
        try:
            wait_for(lambda: "PIN of the token: " in served.log_text())
            process.stdin.write(f"{PIN}\n".encode())
            process.stdin.flush()
            wait_for(served._answers)
            served.wait_ok()
            process.stdin.write(b"\x03")
            process.stdin.flush()
            assert process.wait(timeout=20) == 0
        finally:
            if process.poll() is None:
                process.kill()
            served.stop()
    assert PIN not in served.log_text()


@pytest.mark.processes
@pytest.mark.parametrize(
    "given",
    [["--p11-label=a\x1b]0;x\x07\u202e"], ["--config=/none/\x1b]0;x\x07\u202e"], ["--bogus\x1b]0;x\x07\u202e"]],
    ids=["value", "file", "flag"],
)
def test_check_config_sends_no_control_characters_to_the_terminal(given: list[str]) -> None:
    done = kmsd("check-config", "--provider=softhsm", *given)
    said = done.stdout + done.stderr
    assert "]0;x" in said
    assert not {"\x1b", "\x07", "\u202e"} & set(said)


@pytest.mark.processes
def test_check_config_sends_no_control_characters_of_a_file_to_the_terminal(tmp_path: Path) -> None:
    file = tmp_path / "kmsd.toml"
    file.write_text('[keys]\n"lab\\u001b]0;x\\u0007el" = "x"\nlabel = 5\n')
    done = kmsd("check-config", f"--config={file}", "--provider=softhsm")
    assert done.returncode == 2
    assert "]0;x" in done.stderr
    assert not {"\x1b", "\x07"} & set(done.stderr)
